//! Bytes for keys and values: one [`Serde`] by type, in the encodings of Java's own serdes.
//!
//! A type with a [`HasSerde`] needs no serde named anywhere. Null is in the type: `Option<T>` can be null, a
//! plain `T` cannot, and a null where a plain `T` is read is a [`SerdeError::Null`] for the deserialization
//! handler to judge.

use std::sync::Arc;

use bytes::Bytes;

/// Whether a value became bytes or Kafka's null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoded {
    /// The bytes that were appended, possibly none.
    Bytes,
    /// Null; nothing was appended.
    Null,
}

/// What a serde may want to know beside the value.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct SerdeContext<'a> {
    /// The topic the bytes come from or go to; for state, the changelog's.
    pub topic: &'a str,
    /// Whether this is a record's key.
    pub is_key: bool,
}

impl<'a> SerdeContext<'a> {
    /// The context of a key.
    pub fn key(topic: &'a str) -> Self {
        Self { topic, is_key: true }
    }

    /// The context of a value.
    pub fn value(topic: &'a str) -> Self {
        Self { topic, is_key: false }
    }
}

/// Why bytes and a value do not convert.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SerdeError {
    /// A null where the type has none.
    #[error("is null, and {type_name} cannot be; Option<{type_name}> can")]
    Null {
        /// The Rust type.
        type_name: &'static str,
    },
    /// The wrong number of bytes for a type of fixed size.
    #[error("{actual} bytes where {expected} are needed")]
    Length {
        /// The type's size.
        expected: usize,
        /// What was there.
        actual: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8")]
    Utf8(#[from] std::str::Utf8Error),
    /// Anything else, in a serde's own words.
    #[error("{0}")]
    Other(Arc<dyn std::error::Error + Send + Sync>),
}

/// Turns `T` into bytes and back. Stateless and shared by all tasks.
pub trait Serde<T>: Send + Sync + 'static {
    /// Appends `value`'s bytes to `out`.
    ///
    /// # Errors
    /// When the value has no encoding.
    fn serialize(&self, cx: SerdeContext<'_>, value: &T, out: &mut Vec<u8>) -> Result<Encoded, SerdeError>;

    /// Reads a value; `None` is Kafka's null. `Bytes` may be kept: they are a slice of the fetched batch.
    ///
    /// # Errors
    /// When the bytes are no `T`.
    fn deserialize(&self, cx: SerdeContext<'_>, bytes: Option<&Bytes>) -> Result<T, SerdeError>;

    /// The part of a key's bytes that chooses its partition, where that is not all of them: a windowed key lies where its
    /// key alone would.
    fn partition_bytes<'a>(&self, _encoded: &'a [u8]) -> Option<&'a [u8]> {
        None
    }

    /// Whether this value is Kafka's null: such keys are not grouped and such values not aggregated.
    fn is_null(&self, _value: &T) -> bool {
        false
    }
}

/// A shared serde.
pub type SharedSerde<T> = Arc<dyn Serde<T>>;

/// A type with a serde of its own.
pub trait HasSerde: Sized + 'static {
    /// The serde.
    fn serde() -> SharedSerde<Self>;
}

/// The serde of the types this crate knows, in Java's encodings: strings as UTF-8, numbers big endian.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

fn present<T>(bytes: Option<&Bytes>) -> Result<&Bytes, SerdeError> {
    bytes.ok_or_else(|| SerdeError::Null { type_name: std::any::type_name::<T>() })
}

macro_rules! plain {
    ($type:ty, |$value:ident, $out:ident| $write:expr, |$bytes:ident| $read:expr) => {
        impl Serde<$type> for Plain {
            #[inline]
            fn serialize(
                &self,
                _: SerdeContext<'_>,
                $value: &$type,
                $out: &mut Vec<u8>,
            ) -> Result<Encoded, SerdeError> {
                $write;
                Ok(Encoded::Bytes)
            }

            #[inline]
            fn deserialize(&self, _: SerdeContext<'_>, bytes: Option<&Bytes>) -> Result<$type, SerdeError> {
                let $bytes = present::<$type>(bytes)?;
                $read
            }
        }

        impl HasSerde for $type {
            fn serde() -> SharedSerde<Self> {
                Arc::new(Plain)
            }
        }
    };
}

macro_rules! plain_number {
    ($($type:ty),*) => {$(
        plain!(
            $type,
            |value, out| out.extend_from_slice(&value.to_be_bytes()),
            |bytes| match <[u8; size_of::<$type>()]>::try_from(bytes.as_ref()) {
                Ok(array) => Ok(<$type>::from_be_bytes(array)),
                Err(_) => Err(SerdeError::Length { expected: size_of::<$type>(), actual: bytes.len() }),
            }
        );
    )*};
}

plain_number!(i16, i32, i64, u16, u32, u64, f32, f64);
plain!(String, |value, out| out.extend_from_slice(value.as_bytes()), |bytes| Ok(
    std::str::from_utf8(bytes)?.to_owned()
));
plain!(Arc<str>, |value, out| out.extend_from_slice(value.as_bytes()), |bytes| Ok(Arc::from(
    std::str::from_utf8(bytes)?
)));
plain!(Vec<u8>, |value, out| out.extend_from_slice(value), |bytes| Ok(bytes.to_vec()));
plain!(Bytes, |value, out| out.extend_from_slice(value), |bytes| Ok(bytes.clone()));
// Java's BooleanSerializer: one byte, 1 or 0.
plain!(bool, |value, out| out.push(u8::from(*value)), |bytes| match bytes.as_ref() {
    [0] => Ok(false),
    [1] => Ok(true),
    other => Err(SerdeError::Length { expected: 1, actual: other.len() }),
});

/// Always null, as Java's `Void`; what was there is not looked at.
impl Serde<()> for Plain {
    fn serialize(&self, _: SerdeContext<'_>, _: &(), _: &mut Vec<u8>) -> Result<Encoded, SerdeError> {
        Ok(Encoded::Null)
    }

    fn deserialize(&self, _: SerdeContext<'_>, _: Option<&Bytes>) -> Result<(), SerdeError> {
        Ok(())
    }

    fn is_null(&self, (): &()) -> bool {
        true
    }
}

impl HasSerde for () {
    fn serde() -> SharedSerde<Self> {
        Arc::new(Plain)
    }
}

/// Makes any serde nullable.
pub struct Nullable<T>(pub SharedSerde<T>);

impl<T: 'static> Serde<Option<T>> for Nullable<T> {
    fn serialize(
        &self,
        cx: SerdeContext<'_>,
        value: &Option<T>,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, SerdeError> {
        match value {
            Some(value) => self.0.serialize(cx, value, out),
            None => Ok(Encoded::Null),
        }
    }

    fn deserialize(&self, cx: SerdeContext<'_>, bytes: Option<&Bytes>) -> Result<Option<T>, SerdeError> {
        bytes.map(|bytes| self.0.deserialize(cx, Some(bytes))).transpose()
    }

    fn is_null(&self, value: &Option<T>) -> bool {
        value.is_none()
    }

    fn partition_bytes<'a>(&self, encoded: &'a [u8]) -> Option<&'a [u8]> {
        self.0.partition_bytes(encoded)
    }
}

impl<T: HasSerde> HasSerde for Option<T> {
    fn serde() -> SharedSerde<Self> {
        Arc::new(Nullable(T::serde()))
    }
}

/// Decodes text that may not be UTF-8: what is not becomes U+FFFD.
#[derive(Debug, Clone, Copy, Default)]
pub struct LossyString;

impl Serde<String> for LossyString {
    fn serialize(
        &self,
        _: SerdeContext<'_>,
        value: &String,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, SerdeError> {
        out.extend_from_slice(value.as_bytes());
        Ok(Encoded::Bytes)
    }

    fn deserialize(&self, _: SerdeContext<'_>, bytes: Option<&Bytes>) -> Result<String, SerdeError> {
        Ok(String::from_utf8_lossy(present::<String>(bytes)?).into_owned())
    }
}

/// JSON by way of the `serde` crate, for keys or values of any type that has its traits (feature `json`).
#[cfg(feature = "json")]
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

#[cfg(feature = "json")]
impl<T> Serde<T> for Json
where
    T: ::serde::Serialize + ::serde::de::DeserializeOwned,
{
    fn serialize(&self, _: SerdeContext<'_>, value: &T, out: &mut Vec<u8>) -> Result<Encoded, SerdeError> {
        serde_json::to_writer(out, value).map_err(|error| SerdeError::Other(Arc::new(error)))?;
        Ok(Encoded::Bytes)
    }

    fn deserialize(&self, _: SerdeContext<'_>, bytes: Option<&Bytes>) -> Result<T, SerdeError> {
        serde_json::from_slice(present::<T>(bytes)?).map_err(|error| SerdeError::Other(Arc::new(error)))
    }
}

/// Serializes into a vector of its own; `None` is Kafka's null.
///
/// # Errors
/// When the value has no encoding.
pub fn to_bytes<T: 'static>(
    serde: &dyn Serde<T>,
    cx: SerdeContext<'_>,
    value: &T,
) -> Result<Option<Bytes>, SerdeError> {
    let mut out = Vec::new();
    Ok(match serde.serialize(cx, value, &mut out)? {
        Encoded::Bytes => Some(out.into()),
        Encoded::Null => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<T: HasSerde>(value: &T) -> Option<Bytes> {
        to_bytes(&*T::serde(), SerdeContext::value("t"), value).unwrap()
    }

    fn read<T: HasSerde>(bytes: Option<&'static [u8]>) -> Result<T, SerdeError> {
        T::serde().deserialize(SerdeContext::value("t"), bytes.map(Bytes::from_static).as_ref())
    }

    #[test]
    fn encodings_are_those_of_javas_serdes() {
        assert_eq!(bytes_of(&"zoë".to_owned()).unwrap(), "zoë".as_bytes());
        assert_eq!(bytes_of(&-2i64).unwrap(), [255, 255, 255, 255, 255, 255, 255, 254].as_slice());
        assert_eq!(bytes_of(&1i32).unwrap(), [0, 0, 0, 1].as_slice());
        assert_eq!(bytes_of(&1.0f64).unwrap(), [0x3f, 0xf0, 0, 0, 0, 0, 0, 0].as_slice());
        assert_eq!(bytes_of(&true).unwrap(), [1].as_slice());
        assert_eq!(bytes_of(&()), None);
        assert_eq!(bytes_of(&None::<i64>), None);
    }

    #[test]
    fn a_null_is_an_error_unless_the_type_can_be_null() {
        assert!(matches!(read::<i64>(None), Err(SerdeError::Null { .. })));
        assert_eq!(read::<Option<i64>>(None).unwrap(), None);
    }

    #[test]
    fn bytes_of_the_wrong_shape_are_errors() {
        assert!(matches!(read::<i64>(Some(&[1])), Err(SerdeError::Length { expected: 8, actual: 1 })));
        assert!(matches!(read::<String>(Some(&[0xff])), Err(SerdeError::Utf8(_))));
        assert!(read::<bool>(Some(&[2])).is_err());
    }
}
