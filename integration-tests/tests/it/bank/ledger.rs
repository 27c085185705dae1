//! What transfers are, and what a reader of committed records makes of the bank's topics.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use integration_tests::{PATIENCE, TestResult};
use kafka_client::consumer::{ConsumerRecord, IsolationLevel, OffsetReset};
use kafka_client::{Client, TopicPartition};
use tokio::time::timeout;

use super::roles::Bank;

use integration_tests::simulation::random::Random;

pub(super) const PARTITIONS: i32 = 6;
pub(super) const ACCOUNTS: u64 = 1000;
const OPENING_BALANCE: i64 = 1000;

/// So much from one account to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) id: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) amount: i64,
}

impl Transfer {
    /// The transfer that has this number in every run.
    pub(super) fn nth(id: u64) -> Self {
        let mut random = Random::stream(id, 1);
        let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
        Self { id, from, to, amount: random.between(1, 100) as i64 }
    }

    pub(super) fn parse(record: &ConsumerRecord) -> TestResult<Self> {
        let text = std::str::from_utf8(record.value.as_deref().unwrap_or_default())?;
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or_else(|| format!("no transfer: {text:?}"));
        Ok(Self {
            id: word()?.parse()?,
            from: word()?.parse()?,
            to: word()?.parse()?,
            amount: word()?.parse()?,
        })
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.id, self.from, self.to, self.amount)
    }
}

/// Every transfer in a topic that is committed by now.
pub(super) async fn committed(client: &Client, topic: &str) -> TestResult<Vec<Transfer>> {
    let all: Vec<_> = (0..PARTITIONS).map(|number| TopicPartition::new(topic, number)).collect();
    let builder = client.consumer().assign(all.clone()).auto_offset_reset(OffsetReset::Earliest);
    let consumer = builder.isolation_level(IsolationLevel::ReadCommitted).build()?;
    let ends = consumer.end_offsets(&all).await?;
    let mut transfers = Vec::new();
    let read = async {
        for (partition, end) in ends {
            while consumer.position(&partition).await? < end {
                let polled = consumer.poll_timeout(Duration::from_millis(100)).await?;
                for record in polled.into_iter().flatten() {
                    transfers.push(Transfer::parse(&record?)?);
                }
            }
        }
        TestResult::Ok(())
    };
    timeout(PATIENCE, read).await??;
    Ok(transfers)
}

/// The bank's books.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) orders: Vec<Transfer>,
    pub(super) debits: Vec<Transfer>,
    pub(super) credits: Vec<Transfer>,
}

impl Books {
    /// What is committed by now.
    pub(super) async fn read(client: &Client, bank: &Bank) -> TestResult<Self> {
        Ok(Self {
            orders: committed(client, &bank.orders()).await?,
            debits: committed(client, &bank.debits()).await?,
            credits: committed(client, &bank.credits()).await?,
        })
    }

    /// Whether as much was booked as was ordered.
    pub(super) fn is_complete(&self) -> bool {
        [self.debits.len(), self.credits.len()] == [self.orders.len(); 2]
    }

    /// How many transfers were booked if every one was booked once and as it was ordered, and no money came or went.
    pub(super) fn audit(&self) -> Result<u64, String> {
        let orders = each_once("ordered", &self.orders)?;
        let count = orders.len() as u64;
        if let Some(id) = (0..count).find(|id| !orders.contains_key(id)) {
            return Err(format!("transfer {id} was not ordered, but later ones were"));
        }
        if let Some(order) = self.orders.iter().find(|order| **order != Transfer::nth(order.id)) {
            return Err(format!("ordered as something else: {order:?}"));
        }
        for (what, booked) in [("debited", &self.debits), ("credited", &self.credits)] {
            let booked = each_once(what, booked)?;
            if let Some(order) = orders.values().find(|order| !booked.contains_key(&order.id)) {
                return Err(format!("not {what}: {order:?}"));
            }
            if let Some(stranger) = booked.values().find(|it| orders.get(&it.id) != Some(it)) {
                return Err(format!("{what}, but never ordered so: {stranger:?}"));
            }
        }
        let mut balances = vec![OPENING_BALANCE; ACCOUNTS as usize];
        self.debits.iter().for_each(|it| balances[it.from as usize] -= it.amount);
        self.credits.iter().for_each(|it| balances[it.to as usize] += it.amount);
        let total: i64 = balances.iter().sum();
        if total == OPENING_BALANCE * ACCOUNTS as i64 {
            Ok(count)
        } else {
            Err(format!("the total is {total}"))
        }
    }
}

/// Transfers by id, unless one is there twice.
fn each_once(what: &str, transfers: &[Transfer]) -> Result<BTreeMap<u64, Transfer>, String> {
    let mut by_id = BTreeMap::new();
    for transfer in transfers {
        if by_id.insert(transfer.id, *transfer).is_some() {
            return Err(format!("{what} twice: {transfer:?}"));
        }
    }
    Ok(by_id)
}

#[test]
fn the_audit_finds_what_is_missing_doubled_or_half_done() {
    let orders: Vec<_> = (0..5).map(Transfer::nth).collect();
    let books = |debits: &[usize], credits: &[usize]| Books {
        orders: orders.clone(),
        debits: debits.iter().map(|&at| orders[at]).collect(),
        credits: credits.iter().map(|&at| orders[at]).collect(),
    };
    assert_eq!(books(&[0, 1, 2, 3, 4], &[4, 3, 2, 1, 0]).audit(), Ok(5));
    assert!(books(&[0, 1, 2, 3, 4], &[4, 3, 2, 1]).audit().is_err_and(|it| it.contains("not credited")));
    assert!(books(&[0, 1, 2, 3, 4, 4], &[0]).audit().is_err_and(|it| it.contains("debited twice")));
    let mut gap = books(&[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]);
    gap.orders.remove(2);
    assert!(gap.audit().is_err_and(|it| it.contains("was not ordered")));
}
