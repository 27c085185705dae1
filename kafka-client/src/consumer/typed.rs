//! Records with keys and values of Rust types.

use std::fmt;
use std::sync::Arc;

use futures::Stream;

use super::{ConsumeError, Consumer, ConsumerRecord};
use crate::serde::{HasSerde, SerdeContext, SerdeError, SharedSerde};

/// Reads a [`Consumer`]'s records as keys and values of Rust types; made by [`Consumer::typed`].
pub struct TypedConsumer<K, V> {
    consumer: Consumer,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
}

/// A record whose key and value were read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TypedRecord<K, V> {
    /// The key.
    pub key: K,
    /// The value.
    pub value: V,
    /// Where it lies, when it was written, its headers, and the bytes.
    pub record: ConsumerRecord,
}

/// Why no typed record came.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TypedError {
    /// No record came at all.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    /// A record's bytes are not of the type. It counts as handed out: the next call goes on behind it.
    #[error("the {} of {}-{}@{} cannot be read: {source}", if *.is_key { "key" } else { "value" }, .record.topic, .record.partition, .record.offset)]
    Undecodable {
        /// The record as it is, for a dead letter.
        record: Box<ConsumerRecord>,
        /// Whether it is the key.
        is_key: bool,
        /// What is wrong with it.
        source: SerdeError,
    },
}

impl TypedError {
    /// Whether this consumer will never read again.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Consume(error) if error.is_fatal())
    }

    /// Whether the next call may bring records although nothing was changed.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Consume(error) => error.is_retriable(),
            Self::Undecodable { .. } => true,
        }
    }
}

impl<K, V> Clone for TypedConsumer<K, V> {
    fn clone(&self) -> Self {
        Self { consumer: self.consumer.clone(), key: Arc::clone(&self.key), value: Arc::clone(&self.value) }
    }
}

impl<K, V> fmt::Debug for TypedConsumer<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedConsumer").field(&self.consumer).finish()
    }
}

impl Consumer {
    /// Reads keys and values as types that have a serde of their own: strings, integers, bytes, options of them.
    pub fn typed<K: HasSerde, V: HasSerde>(&self) -> TypedConsumer<K, V> {
        TypedConsumer { consumer: self.clone(), key: K::serde(), value: V::serde() }
    }

    /// Reads keys and values by these serdes, such as [`serde::Json`](crate::serde) (feature `json`).
    pub fn typed_with<K, V>(
        &self,
        key: impl crate::serde::Serde<K>,
        value: impl crate::serde::Serde<V>,
    ) -> TypedConsumer<K, V> {
        TypedConsumer { consumer: self.clone(), key: Arc::new(key), value: Arc::new(value) }
    }
}

impl<K: 'static, V: 'static> TypedConsumer<K, V> {
    /// The consumer behind it, for everything else.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// As [`Consumer::next`]. Dropping the future loses nothing.
    ///
    /// # Errors
    /// See [`TypedError`].
    pub async fn next(&self) -> Result<Option<TypedRecord<K, V>>, TypedError> {
        let Some(record) = self.consumer.next().await? else { return Ok(None) };
        self.read(record).map(Some)
    }

    /// The records as a [`Stream`] that ends when the consumer is closed, or after a fatal error.
    pub fn into_stream(self) -> impl Stream<Item = Result<TypedRecord<K, V>, TypedError>> + Send + use<K, V>
    where
        K: Send,
        V: Send,
    {
        futures::stream::unfold(Some(self), |consumer| async move {
            let consumer = consumer?;
            let item = consumer.next().await.transpose()?;
            let is_over = item.as_ref().is_err_and(TypedError::is_fatal);
            Some((item, (!is_over).then_some(consumer)))
        })
    }

    /// Reads a record's key and value, for records that came another way.
    ///
    /// # Errors
    /// [`TypedError::Undecodable`].
    pub fn read(&self, record: ConsumerRecord) -> Result<TypedRecord<K, V>, TypedError> {
        let undecodable = |is_key, source| {
            let record = Box::new(record.clone());
            TypedError::Undecodable { record, is_key, source }
        };
        let key = self.key.deserialize(SerdeContext::key(&record.topic), record.key.as_ref());
        let key = key.map_err(|source| undecodable(true, source))?;
        let value = self.value.deserialize(SerdeContext::value(&record.topic), record.value.as_ref());
        let value = value.map_err(|source| undecodable(false, source))?;
        Ok(TypedRecord { key, value, record })
    }
}
