use std::fmt::Debug;

use super::TestDriver;
use crate::dsl::StreamsBuilder;
use crate::serde::HasSerde;

/// A topology, what goes in and what must come out, in three lines: for documentation and for the smallest of tests. Keys
/// are strings; a test that needs more takes a [`TestDriver`].
///
/// ```
/// use kafka_streams::testing::Example;
///
/// Example::of(|builder| builder.stream::<String, i64>("in").filter(|_key, n| *n > 1).to("out"))
///     .pipe("in", [("a", 1), ("b", 2)])
///     .gives("out", [("b", 2)]);
/// ```
#[derive(Debug)]
pub struct Example {
    /// Or why it could not be built or go on.
    driver: Result<TestDriver, String>,
    /// The next record's time, in milliseconds.
    time: i64,
}

impl Example {
    /// Builds the topology that `build` writes down.
    pub fn of(build: impl FnOnce(&StreamsBuilder)) -> Self {
        let builder = StreamsBuilder::new();
        build(&builder);
        let driver = match builder.build() {
            Ok(topology) => TestDriver::new(&topology).map_err(|error| error.to_string()),
            Err(problems) => Err(problems.to_string()),
        };
        Self { driver, time: 0 }
    }

    /// Pipes records in, each a millisecond later than the one before.
    pub fn pipe<'a, C: ExampleValue>(
        mut self,
        topic: &str,
        records: impl IntoIterator<Item = (&'a str, C)>,
    ) -> Self {
        for (key, value) in records {
            let time = self.time;
            self = self.pipe_at(time, topic, [(key, value)]);
        }
        self
    }

    /// Pipes records in, all with this time in milliseconds; those that follow are later.
    pub fn pipe_at<'a, C: ExampleValue>(
        mut self,
        time: i64,
        topic: &str,
        records: impl IntoIterator<Item = (&'a str, C)>,
    ) -> Self {
        for (key, value) in records {
            if let Ok(driver) = &mut self.driver
                && let Err(error) =
                    driver.input::<String, C::Value>(topic).pipe(key.to_owned(), value.value(), time)
            {
                self.driver = Err(error.to_string());
            }
        }
        self.time = time + 1;
        self
    }

    /// Checks what a topic has got since it was looked at last.
    ///
    /// # Panics
    /// If that is something else.
    pub fn gives<'a, C: ExampleValue>(
        mut self,
        topic: &str,
        expected: impl IntoIterator<Item = (&'a str, C)>,
    ) -> Self {
        let found = match &mut self.driver {
            Ok(driver) => {
                driver.output::<String, C::Value>(topic).read_all().map_err(|error| error.to_string())
            }
            Err(error) => Err(error.clone()),
        };
        let expected = expected.into_iter().map(|(key, value)| (key.to_owned(), value.value()));
        assert_eq!(found, Ok(expected.collect::<Vec<_>>()), "{topic}");
        self
    }
}

/// A value as examples write it.
pub trait ExampleValue {
    /// As topologies have it.
    type Value: HasSerde + Debug + PartialEq;

    /// Turns it into that.
    fn value(self) -> Self::Value;
}

impl ExampleValue for &str {
    type Value = String;

    fn value(self) -> String {
        self.to_owned()
    }
}

impl ExampleValue for i64 {
    type Value = i64;

    fn value(self) -> i64 {
        self
    }
}

/// `None` is Kafka's null.
impl<C: ExampleValue> ExampleValue for Option<C> {
    type Value = Option<C::Value>;

    fn value(self) -> Self::Value {
        self.map(ExampleValue::value)
    }
}
