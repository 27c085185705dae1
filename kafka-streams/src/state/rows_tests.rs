//! Rows against a plain map: in memory and over a base, hashed and ordered, whatever is committed when.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;

use super::memory::MemoryBase;
use super::*;
use crate::error::TaskId;
use crate::processor::{Outgoing, RawRecord, RecordCollector};
use crate::serde::HasSerde;

#[derive(Default)]
struct Sent(Vec<RawRecord>);

impl RecordCollector for Sent {
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), String> {
        self.0.push(RawRecord {
            offset: self.0.len() as i64,
            timestamp: record.timestamp,
            key: record.key.map(Bytes::copy_from_slice),
            value: record.value.map(Bytes::copy_from_slice),
            headers: record.headers.clone(),
        });
        Ok(())
    }

    fn partitions(&mut self, _: &Arc<str>) -> Result<i32, String> {
        Ok(1)
    }
}

fn rows(order: Order, with_base: bool, records: ChangelogRecords) -> Rows<String> {
    let task = TaskId { subtopology: 0, partition: 0 };
    Rows::new(RowsConfig {
        place: StorePlace { task, name: Arc::from("rows") },
        changelog: Some(Arc::from("app-rows-changelog")),
        records: Some(records),
        value: String::serde(),
        order,
        prefix: 0,
        base: with_base.then(|| -> Box<dyn KeyValueStore> { Box::new(MemoryBase::default()) }),
    })
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, Option<u8>),
    Append(u8, u8),
    Hold(u8, u8),
    Expire(u8),
    Commit,
    /// Drops the rows and restores them from the changelog.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6u8, proptest::option::of(any::<u8>())).prop_map(|(key, value)| Step::Put(key, value)),
        4 => (0..6u8, any::<u8>()).prop_map(|(key, value)| Step::Append(key, value)),
        2 => (0..6u8, any::<u8>()).prop_map(|(key, value)| Step::Hold(key, value)),
        1 => (0..6u8).prop_map(Step::Expire),
        3 => Just(Step::Commit),
        1 => Just(Step::Restart),
    ]
}

fn all(rows: &Rows<String>, reverse: bool) -> Vec<(u8, String)> {
    let mut found = Vec::new();
    rows.scan(&[1], Some(&[5]), reverse, &mut |key, value, _| {
        found.push((key[0], value.clone()));
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

proptest! {
    #[test]
    fn rows_are_a_map_whatever_is_committed_restored_or_expired(
        order in prop_oneof![Just(Order::Hashed), Just(Order::Ordered), Just(Order::Grouped(1))],
        with_base in any::<bool>(),
        each_update in any::<bool>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let records = if each_update { ChangelogRecords::EachUpdate } else { ChangelogRecords::EachCommit };
        let make = || rows(order, with_base, records);
        let (mut rows, mut log) = (make(), Sent::default());
        let mut model = BTreeMap::<u8, String>::new();
        let mut expired = BTreeMap::<u8, bool>::new();
        for (time, step) in steps.into_iter().enumerate() {
            let time = time as i64;
            match step {
                Step::Put(key, value) => {
                    let value = value.map(|value| value.to_string());
                    rows.put(&[key], value.clone(), time).unwrap();
                    match value {
                        Some(value) => model.insert(key, value),
                        None => model.remove(&key),
                    };
                }
                Step::Append(key, more) => {
                    let mut before = None;
                    rows.update(&[key], |row| {
                        before = row.clone().map(|(value, _)| value);
                        (Some(row.map_or(String::new(), |(value, _)| value) + &more.to_string()), time)
                    }).unwrap();
                    prop_assert_eq!(before.as_ref(), model.get(&key));
                    model.entry(key).or_default().push_str(&more.to_string());
                }
                Step::Hold(key, more) => {
                    rows.update_held(&[key], &Default::default(), true, |_| (Some(more.to_string()), time)).unwrap();
                    model.insert(key, more.to_string());
                    let held = rows.take_held();
                    prop_assert_eq!(held.len(), 1);
                    prop_assert_eq!(held[0].value.as_ref(), Some(&more.to_string()));
                }
                Step::Expire(to) => {
                    // All is committed, as a store's time mostly is far behind.
                    rows.write_changelog(0, &mut log).unwrap();
                    rows.commit(Some(log.0.len() as i64)).unwrap();
                    rows.expire(&[to]).unwrap();
                    (0..to).for_each(|key| { expired.insert(key, model.remove(&key).is_some()); });
                }
                Step::Commit => {
                    rows.write_changelog(0, &mut log).unwrap();
                    rows.commit(Some(log.0.len() as i64)).unwrap();
                    prop_assert_eq!(rows.dirty_rows(), 0);
                }
                Step::Restart => {
                    rows.write_changelog(0, &mut log).unwrap();
                    rows = make();
                    let mut batch = WriteBatch::default();
                    for record in &log.0 {
                        rows.restore(&mut batch, record.key.clone().unwrap(), record).unwrap();
                    }
                    rows.restored(batch).unwrap();
                    // The changelog does not know what expired; its own retention would.
                    for key in std::mem::take(&mut expired).into_keys() {
                        if !model.contains_key(&key) {
                            rows.put(&[key], None, time).unwrap();
                        }
                    }
                }
            }
            let expected: Vec<(u8, String)> = model.range(1..5).map(|(key, value)| (*key, value.clone())).collect();
            prop_assert_eq!(all(&rows, false), expected.clone());
            prop_assert_eq!(all(&rows, true), expected.into_iter().rev().collect::<Vec<_>>());
            for key in 0..6u8 {
                let found = rows.get(&[key]).unwrap().map(|(value, _)| value.clone());
                prop_assert_eq!(found.as_ref(), model.get(&key));
            }
        }
    }
}
