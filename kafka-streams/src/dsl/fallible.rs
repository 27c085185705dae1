use std::sync::Arc;

use super::KStream;
use crate::processor::{ProcessorError, TryFilter, TryFlatMap, TryMapValues};
use crate::topology::naming;

/// Twins of the stateless operators for code that may fail.
///
/// An error goes to the [processing handler](crate::config::ProcessingHandler), with the operator's name and the place of
/// the input record: it stops the application, or leaves the record out and writes it to the dead letter topic. In the
/// topology they are the operators themselves.
///
/// ```
/// use kafka_streams::config::ProcessingHandler;
/// use kafka_streams::{StreamsBuilder, testing::TestDriver};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let builder = StreamsBuilder::new();
/// builder.stream::<String, String>("in").try_map_values(|_, text| text.parse::<i64>()).to("numbers");
///
/// let driver = TestDriver::new(&builder.build()?)?;
/// let mut driver =
///     driver.processing_handler(ProcessingHandler::LogAndContinue)?.dead_letter_queue("not-numbers")?;
/// for text in ["1", "one", "2"] {
///     driver.input::<String, String>("in").pipe("k".into(), text.into(), 0)?;
/// }
/// let k = "k".to_owned();
/// assert_eq!(driver.output::<String, i64>("numbers").read_all()?, [(k.clone(), 1), (k.clone(), 2)]);
/// assert_eq!(driver.output::<String, String>("not-numbers").read_all()?, [(k, "one".to_owned())]);
/// # Ok(()) }
/// ```
impl<K: Send + 'static, V: Send + 'static> KStream<K, V> {
    /// As [`KStream::filter`], with code that may fail.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let texts = builder.stream::<String, String>("in");
    ///     texts.try_filter(|_key, text| text.parse::<i64>().map(|n| n > 1)).to("out");
    /// })
    /// .pipe("in", [("a", "1"), ("b", "2")])
    /// .gives("out", [("b", "2")]);
    /// ```
    pub fn try_filter<E: Into<ProcessorError> + 'static>(
        self,
        keep: impl Fn(&K, &V) -> Result<bool, E> + Send + Sync + 'static,
    ) -> Self {
        let keep = Arc::new(keep);
        self.then_named(naming::FILTER, false, move |name, out| TryFilter {
            name,
            keep: Arc::clone(&keep),
            out,
        })
    }

    /// As [`KStream::map_values`], with code that may fail.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let texts = builder.stream::<String, String>("in");
    ///     texts.try_map_values(|_key, text| text.parse::<i64>()).to("out");
    /// })
    /// .pipe("in", [("a", "1"), ("b", "2")])
    /// .gives("out", [("a", 1), ("b", 2)]);
    /// ```
    pub fn try_map_values<V2: Send + 'static, E: Into<ProcessorError> + 'static>(
        self,
        map: impl Fn(&K, V) -> Result<V2, E> + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        let map = Arc::new(map);
        self.then_named(naming::MAP_VALUES, false, move |name, out| TryMapValues {
            name,
            map: Arc::clone(&map),
            out,
        })
    }

    /// As [`KStream::map`], with code that may fail.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let texts = builder.stream::<String, String>("in");
    ///     texts.try_map(|key, text| text.parse::<i64>().map(|n| (key, n))).to("out");
    /// })
    /// .pipe("in", [("a", "1"), ("b", "2")])
    /// .gives("out", [("a", 1), ("b", 2)]);
    /// ```
    pub fn try_map<K2: Send + 'static, V2: Send + 'static, E: Into<ProcessorError> + 'static>(
        self,
        map: impl Fn(K, V) -> Result<(K2, V2), E> + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        let map = Arc::new(move |key: K, value: V| map(key, value).map(Some));
        self.then_named(naming::MAP, true, move |name, out| TryFlatMap { name, map: Arc::clone(&map), out })
    }

    /// As [`KStream::flat_map`], with code that may fail. Results are forwarded only if all of them are there.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let texts = builder.stream::<String, String>("in");
    ///     texts.try_flat_map(|key, text| text.parse::<i64>().map(|n| [(key.clone(), n), (key, -n)])).to("out");
    /// })
    /// .pipe("in", [("a", "1"), ("b", "2")])
    /// .gives("out", [("a", 1), ("a", -1), ("b", 2), ("b", -2)]);
    /// ```
    pub fn try_flat_map<K2, V2, I, E>(
        self,
        map: impl Fn(K, V) -> Result<I, E> + Send + Sync + 'static,
    ) -> KStream<K2, V2>
    where
        K2: Send + 'static,
        V2: Send + 'static,
        I: IntoIterator<Item = (K2, V2)> + 'static,
        E: Into<ProcessorError> + 'static,
    {
        let map = Arc::new(map);
        self.then_named(naming::FLAT_MAP, true, move |name, out| TryFlatMap {
            name,
            map: Arc::clone(&map),
            out,
        })
    }

    /// As [`KStream::for_each`], with code that may fail.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let texts = builder.stream::<String, String>("in");
    ///     texts.try_for_each(|_key, text| text.parse::<i64>().map(|n| println!("{n}")));
    /// })
    /// .pipe("in", [("a", "1")]);
    /// ```
    pub fn try_for_each<E: Into<ProcessorError> + 'static>(
        self,
        each: impl Fn(K, V) -> Result<(), E> + Send + Sync + 'static,
    ) {
        let map = Arc::new(move |key: K, value: V| each(key, value).map(|()| None::<((), ())>));
        let _ = self.then_named(naming::FOR_EACH, false, move |name, out| TryFlatMap {
            name,
            map: Arc::clone(&map),
            out,
        });
    }
}
