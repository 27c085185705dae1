//! Joins of tables by a foreign key (KIP-213): the left side subscribes at the partition of the foreign key, the right
//! side answers, and what was asked for a row that is another one by now is left out.

use std::sync::Arc;

use bytes::Bytes;

use super::{Change, Context, Getter, Node, NodeResult, Out, Record};
use crate::error::StreamsError;
use crate::serde::{Encoded, SerdeContext, SharedSerde};
use crate::state::{
    Instruction, KvStore, StorePlace, StoreToken, Subscription, SubscriptionResponse, ValueHash,
};

type Failure = Box<StreamsError>;

/// The bytes of something, to compare or to hash, in a buffer that is used again.
pub(crate) struct Encoder<T> {
    pub(crate) serde: SharedSerde<T>,
    /// Where errors belong, and what serdes are told as the topic.
    pub(crate) place: StorePlace,
    pub(crate) bytes: Vec<u8>,
}

impl<T: 'static> Encoder<T> {
    pub(crate) fn new(serde: &SharedSerde<T>, place: StorePlace) -> Self {
        Self { serde: Arc::clone(serde), place, bytes: Vec::new() }
    }

    /// `None` for null.
    fn encode(&mut self, value: &T) -> Result<Option<&[u8]>, Failure> {
        self.bytes.clear();
        let cx = SerdeContext::value(&self.place.name);
        match self.serde.serialize(cx, value, &mut self.bytes) {
            Ok(encoded) => Ok((encoded == Encoded::Bytes).then_some(self.bytes.as_slice())),
            Err(error) => Err(self.place.failed(error)),
        }
    }

    fn hash(&mut self, value: &T) -> Result<Option<ValueHash>, Failure> {
        Ok(self.encode(value)?.map(ValueHash::of))
    }
}

/// The key of a subscription: the size of the foreign key, the foreign key, and the primary key (`CombinedKeySchema`).
pub(crate) struct SubscriptionKeys<K, KO> {
    pub(crate) foreign: Encoder<KO>,
    pub(crate) primary: Encoder<K>,
}

impl<K: 'static, KO: 'static> SubscriptionKeys<K, KO> {
    /// What all subscriptions of a foreign key begin with; `None` for a null key.
    fn prefix(&mut self, foreign: &KO) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.foreign.encode(foreign)?.map(|foreign| {
            let size = u32::try_from(foreign.len()).unwrap_or(u32::MAX);
            [&size.to_be_bytes()[..], foreign].concat()
        }))
    }

    fn key(&mut self, foreign: &KO, primary: &K) -> Result<Option<Bytes>, Failure> {
        let Some(mut key) = self.prefix(foreign)? else { return Ok(None) };
        Ok(self.primary.encode(primary)?.map(|primary| {
            key.extend_from_slice(primary);
            Bytes::from(key)
        }))
    }
}

/// Tells the partitions of the foreign keys what each changed row asks for (`SubscriptionSendProcessorSupplier`).
pub(crate) struct SubscriptionSend<K, V, KO, F> {
    pub(crate) extract: Arc<F>,
    pub(crate) foreign_key: Encoder<KO>,
    pub(crate) row: Encoder<V>,
    pub(crate) left: bool,
    pub(crate) out: Out<Option<KO>, Subscription<K>>,
}

impl<K, V, KO, F> Node<K, Change<V>> for SubscriptionSend<K, V, KO, F>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    KO: Send + 'static,
    F: Fn(&K, &V) -> Option<KO> + Send + Sync,
{
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut Context<'_>) -> NodeResult {
        let Change { old, new, is_latest } = &record.value;
        if !is_latest {
            cx.dropped += 1;
            return Ok(());
        }
        let foreign_key = |row: &Option<V>| row.as_ref().and_then(|row| (self.extract)(&record.key, row));
        let (before, after) = (foreign_key(old), foreign_key(new));
        if old.is_none() && new.is_none() {
            return Ok(());
        }
        let hash = match new {
            Some(row) => self.row.hash(row)?,
            None => None,
        };
        let moved = match (&before, &after) {
            (Some(before), Some(after)) => {
                let before = self.foreign_key.encode(before)?.map(<[u8]>::to_vec);
                self.foreign_key.encode(after)? != before.as_deref()
            }
            (before, after) => before.is_some() || after.is_some(),
        };
        let has_row = new.is_some();
        let mut tell = |foreign_key: Option<KO>, instruction: Instruction| {
            let subscription = Subscription {
                hash,
                instruction,
                primary_key: record.key.clone(),
                primary_partition: Some(cx.task.partition),
            };
            let (timestamp, headers) = (record.timestamp, record.headers.clone());
            self.out.forward(Record { key: foreign_key, value: subscription, timestamp, headers }, cx)
        };
        if self.left {
            if before.is_some() && moved {
                tell(before, Instruction::DeleteKeyNoPropagate)?;
            }
            return tell(after, Instruction::PropagateNullIfNoForeignValue);
        }
        match (before, after) {
            (Some(before), None) => {
                tell(Some(before), Instruction::DeleteKeyAndPropagate)?;
                cx.dropped += u64::from(has_row);
                Ok(())
            }
            (Some(before), Some(after)) if moved => {
                tell(Some(before), Instruction::DeleteKeyNoPropagate)?;
                // Whatever the old foreign key's row led to must go, if the new one has none.
                tell(Some(after), Instruction::PropagateNullIfNoForeignValue)
            }
            (_, Some(after)) => tell(Some(after), Instruction::PropagateOnlyIfForeignValue),
            (None, None) => {
                cx.dropped += u64::from(has_row);
                Ok(())
            }
        }
    }
}

/// Writes a subscription down and answers it (`SubscriptionReceiveProcessorSupplier`, `SubscriptionJoinProcessorSupplier`).
pub(crate) struct SubscriptionReceive<K, KO, VO> {
    pub(crate) keys: SubscriptionKeys<K, KO>,
    pub(crate) subscriptions: StoreToken<KvStore<Bytes, Subscription<K>>>,
    pub(crate) rows: Getter<KO, VO>,
    pub(crate) out: Out<K, SubscriptionResponse<VO>>,
}

impl<K, KO, VO> Node<Option<KO>, Subscription<K>> for SubscriptionReceive<K, KO, VO>
where
    K: Clone + Send + 'static,
    KO: Send + 'static,
    VO: Send + 'static,
{
    fn process(&mut self, record: Record<Option<KO>, Subscription<K>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key: foreign_key, value: subscription, timestamp, headers } = record;
        let instruction = subscription.instruction;
        let primary_key = subscription.primary_key.clone();
        let (hash, primary_partition) = (subscription.hash, subscription.primary_partition);
        let row = match &foreign_key {
            Some(foreign_key) => {
                if let Some(key) = self.keys.key(foreign_key, &primary_key)? {
                    let kept = (!instruction.deletes()).then_some(subscription);
                    cx.stores.get(self.subscriptions)?.put(&key, kept, timestamp)?;
                }
                self.rows.get(foreign_key, cx.stores)?
            }
            None if instruction == Instruction::PropagateNullIfNoForeignValue => None,
            None => {
                cx.dropped += 1;
                return Ok(());
            }
        };
        let timestamp = row.as_ref().map_or(timestamp, |(_, time)| timestamp.max(*time));
        let foreign_value = match instruction {
            Instruction::DeleteKeyNoPropagate => return Ok(()),
            Instruction::DeleteKeyAndPropagate => None,
            Instruction::PropagateNullIfNoForeignValue => row.map(|(row, _)| row),
            Instruction::PropagateOnlyIfForeignValue => match row {
                Some((row, _)) => Some(row),
                None => return Ok(()),
            },
        };
        let value = SubscriptionResponse { hash, foreign_value, primary_partition };
        self.out.forward(Record { key: primary_key, value, timestamp, headers }, cx)
    }
}

/// A changed row of the right side goes to all that subscribed to it (`ForeignTableJoinProcessorSupplier`).
pub(crate) struct ForeignTableJoin<K, KO, VO> {
    pub(crate) keys: SubscriptionKeys<K, KO>,
    pub(crate) subscriptions: StoreToken<KvStore<Bytes, Subscription<K>>>,
    pub(crate) out: Out<K, SubscriptionResponse<VO>>,
}

impl<K, KO, VO> Node<KO, Change<VO>> for ForeignTableJoin<K, KO, VO>
where
    K: Clone + Send + 'static,
    KO: Send + 'static,
    VO: Clone + Send + 'static,
{
    fn process(&mut self, record: Record<KO, Change<VO>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value: Change { new, is_latest, .. }, timestamp, headers } = record;
        if !is_latest {
            cx.dropped += 1;
            return Ok(());
        }
        let Some(prefix) = self.keys.prefix(&key)? else {
            cx.dropped += 1;
            return Ok(());
        };
        for subscription in cx.stores.get(self.subscriptions)?.with_prefix(&prefix)? {
            let value = SubscriptionResponse {
                hash: subscription.hash,
                foreign_value: new.clone(),
                primary_partition: subscription.primary_partition,
            };
            let (key, headers) = (subscription.primary_key, headers.clone());
            self.out.forward(Record { key, value, timestamp, headers }, cx)?;
        }
        Ok(())
    }
}

/// Joins an answer with the row that it was asked for, if the row is still the same (`ResponseJoinProcessorSupplier`).
pub(crate) struct ResponseJoin<K, V, O, J> {
    pub(crate) rows: Getter<K, V>,
    pub(crate) row: Encoder<V>,
    pub(crate) left: bool,
    pub(crate) joiner: Arc<J>,
    pub(crate) out: Out<K, Option<O>>,
}

impl<K, V, VO, O, J> Node<K, SubscriptionResponse<VO>> for ResponseJoin<K, V, O, J>
where
    K: Send + 'static,
    V: Send + 'static,
    VO: Send + 'static,
    O: Send + 'static,
    J: Fn(&K, &V, Option<&VO>) -> Option<O> + Send + Sync,
{
    fn process(&mut self, record: Record<K, SubscriptionResponse<VO>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value: response, timestamp, headers } = record;
        let row = self.rows.get(&key, cx.stores)?.map(|(row, _)| row);
        let hash = match &row {
            Some(row) => self.row.hash(row)?,
            None => None,
        };
        if hash != response.hash {
            cx.dropped += 1;
            return Ok(());
        }
        let joined = match (&row, &response.foreign_value) {
            (None, _) => None,
            (Some(_), None) if !self.left => None,
            (Some(row), foreign_value) => (self.joiner)(&key, row, foreign_value.as_ref()),
        };
        self.out.forward(Record { key, value: joined, timestamp, headers }, cx)
    }
}
