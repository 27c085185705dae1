//! Processors of an application's own, with stores and clocks.

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_streams::config::{ErrorAction, ProcessingHandler};
use kafka_streams::processor::{
    FixedKeyProcessorContext, KeyValueRef, ProcessorContext, Schedule, SessionRef, WindowRef,
};
use kafka_streams::testing::{DriverError, TestDriver};
use kafka_streams::{
    ChangelogRecords, FixedKeyProcessor, FixedKeyRecord, Processor, ProcessorResult, PunctuationType, Record,
    Store, StreamsBuilder, StreamsError,
};

type Log = Arc<Mutex<Vec<String>>>;

const TEN: Duration = Duration::from_millis(10);

/// What `Punctuated` does was run with Java's test driver; the expectations are what it printed.
struct Punctuated {
    store: KeyValueRef<String, String>,
    log: Log,
    wall_calls: usize,
    wall: Option<Schedule>,
}

impl Punctuated {
    fn note(&self, text: String) {
        self.log.lock().unwrap().push(text);
    }

    fn on_stream_time(&mut self, time: i64, cx: &mut ProcessorContext<'_, Self>) -> ProcessorResult {
        self.note(format!("stream {time}"));
        assert_eq!(cx.record_metadata(), None);
        cx.store(self.store).put(&"p".to_owned(), "v".to_owned())?;
        let headers = Default::default();
        cx.forward(Record { key: "stream".to_owned(), value: "p".to_owned(), timestamp: time, headers })
    }

    fn on_wall_time(&mut self, time: i64, cx: &mut ProcessorContext<'_, Self>) -> ProcessorResult {
        self.note(format!("wall {time}"));
        self.wall_calls += 1;
        if let Some(schedule) = self.wall.filter(|_| self.wall_calls == 2) {
            cx.cancel(schedule);
        }
        Ok(())
    }
}

impl Processor for Punctuated {
    type KIn = String;
    type VIn = String;
    type KOut = String;
    type VOut = String;

    fn init(&mut self, cx: &mut ProcessorContext<'_, Self>) -> ProcessorResult {
        self.note(format!("init {} {}", cx.stream_time(), cx.wall_time()));
        cx.schedule(TEN, PunctuationType::StreamTime, Self::on_stream_time);
        cx.schedule_from(7, TEN, PunctuationType::StreamTime, |this, time, _| {
            this.note(format!("anchored {time}"));
            Ok(())
        });
        self.wall = Some(cx.schedule(TEN, PunctuationType::WallClockTime, Self::on_wall_time));
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<String, String>,
        cx: &mut ProcessorContext<'_, Self>,
    ) -> ProcessorResult {
        let offset = cx.record_metadata().map_or(-1, |at| at.offset);
        self.note(format!("process {} {} {offset}", record.timestamp, cx.stream_time()));
        cx.store(self.store).put(&"k".to_owned(), record.value)?;
        Ok(())
    }
}

#[test]
fn punctuators_are_called_when_java_calls_them() {
    let log = Log::default();
    let builder = StreamsBuilder::new();
    let store = builder.add_store(Store::kv("s").changelog_records(ChangelogRecords::EachUpdate));
    let told = Arc::clone(&log);
    let make = move |store| Punctuated { store, log: Arc::clone(&told), wall_calls: 0, wall: None };
    builder.stream::<String, String>("in").process(&store, make).to("out");
    let mut driver = TestDriver::new(&builder.build().unwrap()).unwrap();
    for time in [5, 9, 12, 7, 45, 50] {
        driver.input::<String, String>("in").pipe("a".to_owned(), "b".to_owned(), time).unwrap();
    }
    for step in [4, 6, 25, 10, 10] {
        driver.advance_wall_time(step).unwrap();
    }
    let expected = [
        "init -1 0",
        "process 5 5 0",
        "stream 5",
        "process 9 9 1",
        "anchored 9",
        "process 12 12 2",
        "stream 12",
        "process 7 12 3",
        "process 45 45 4",
        "anchored 45",
        "stream 45",
        "process 50 50 5",
        "anchored 50",
        "stream 50",
        "wall 10",
        "wall 35",
    ];
    assert_eq!(*log.lock().unwrap(), expected);
    let mut changes = driver.output::<String, String>("test-s-changelog");
    let changes: Vec<_> =
        changes.read_records().unwrap().into_iter().map(|r| format!("{} {}", r.key, r.timestamp)).collect();
    let expected = ["k 5", "p 5", "k 9", "k 12", "p 12", "k 7", "k 45", "p 45", "k 50", "p 50"];
    assert_eq!(changes, expected);
    let out = driver.output::<String, String>("out").read_records().unwrap();
    assert_eq!(out.iter().map(|r| r.timestamp).collect::<Vec<_>>(), [5, 12, 45, 50]);
}

/// Adds up by key, in a store of each kind, and sends the sums on.
struct Sums {
    totals: KeyValueRef<String, i64>,
    by_ten: WindowRef<String, i64>,
    runs: SessionRef<String, i64>,
}

impl FixedKeyProcessor for Sums {
    type K = String;
    type VIn = i64;
    type VOut = String;

    fn process(
        &mut self,
        record: FixedKeyRecord<String, i64>,
        cx: &mut FixedKeyProcessorContext<'_, Self>,
    ) -> ProcessorResult {
        let (key, add, time) = (record.key().clone(), *record.value(), record.timestamp());
        cx.store(self.totals).update(&key, |sum| Some(sum.unwrap_or(0) + add))?;
        let total = cx.store(self.totals).get(&key)?.unwrap_or(0);
        let start = time / 10 * 10;
        let before = cx.store(self.by_ten).get(&key, start)?.unwrap_or(0);
        cx.store(self.by_ten).put(&key, before + add, start)?;
        let windows = cx.store(self.by_ten).fetch(&key, 0, time)?;
        let near = cx.store(self.runs).find(&key, time - 3, time + 3)?;
        let (mut first, mut last, mut run) = (time, time, add);
        for (start, end, sum) in near {
            cx.store(self.runs).delete(&key, start, end)?;
            (first, last, run) = (first.min(start), last.max(end), run + sum);
        }
        cx.store(self.runs).put(&key, first, last, run)?;
        cx.forward(record.with_value(format!("{total} {windows:?} {first}-{last}:{run}")))
    }
}

#[test]
fn a_processor_keeps_state_in_stores_of_every_kind_through_a_crash() {
    let builder = StreamsBuilder::new();
    let day = Duration::from_secs(86_400);
    let totals = builder.add_store(Store::kv("totals"));
    let by_ten = builder.add_window_store(Store::window("by-ten"), day);
    let runs = builder.add_session_store(Store::session("runs"), day);
    let stream = builder.stream::<String, i64>("in");
    stream
        .process_values((&totals, &by_ten, &runs), |(totals, by_ten, runs)| Sums { totals, by_ten, runs })
        .to("out");
    let mut driver = TestDriver::new(&builder.build().unwrap()).unwrap();
    let pipe = |driver: &mut TestDriver, add, time| {
        driver.input::<String, i64>("in").pipe("k".to_owned(), add, time).unwrap();
        let (key, value) = driver.output::<String, String>("out").read_all().unwrap().remove(0);
        assert_eq!(key, "k");
        value
    };
    assert_eq!(pipe(&mut driver, 1, 5), "1 [(0, 1)] 5-5:1");
    assert_eq!(pipe(&mut driver, 2, 11), "3 [(0, 1), (10, 2)] 11-11:2");
    driver.crash_and_restore().unwrap();
    assert_eq!(pipe(&mut driver, 4, 8), "7 [(0, 5)] 5-11:7");
    assert_eq!(driver.store::<String, i64>("totals").unwrap().get(&"k".to_owned()).unwrap(), Some(7));
}

#[derive(Debug, thiserror::Error)]
#[error("cannot take {0}")]
struct Refused(String);

/// Sends each record on and then fails for those that say so.
struct Picky;

impl Processor for Picky {
    type KIn = String;
    type VIn = String;
    type KOut = String;
    type VOut = String;

    fn process(
        &mut self,
        record: Record<String, String>,
        cx: &mut ProcessorContext<'_, Self>,
    ) -> ProcessorResult {
        let value = record.value.clone();
        cx.forward(record)?;
        if value == "bad" { Err(Refused(value).into()) } else { Ok(()) }
    }
}

fn picky() -> TestDriver {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>("in").process((), |()| Picky).to("out");
    TestDriver::new(&builder.build().unwrap()).unwrap()
}

fn pipe(driver: &mut TestDriver, value: &str) -> Result<(), DriverError> {
    driver.input::<String, String>("in").pipe("k".to_owned(), value.to_owned(), 3)
}

#[test]
fn an_error_of_the_application_stops_the_task_unless_the_handler_goes_on() {
    let mut driver = picky();
    pipe(&mut driver, "good").unwrap();
    let error = pipe(&mut driver, "bad").unwrap_err();
    let DriverError::Streams(error) = error else { panic!("{error}") };
    assert!(matches!(*error, StreamsError::Processing { .. }));
    assert_eq!(
        error.to_string(),
        "task 0_0, node KSTREAM-PROCESSOR-0000000001: failed while processing in-0 at offset 1: cannot take bad"
    );

    let mut driver = picky().processing_handler(ProcessingHandler::LogAndContinue).unwrap();
    for value in ["bad", "good"] {
        pipe(&mut driver, value).unwrap();
    }
    // What was forwarded before the error stays.
    let out: Vec<String> =
        driver.output::<String, String>("out").read_all().unwrap().into_iter().map(|(_, v)| v).collect();
    assert_eq!(out, ["bad", "good"]);
    assert_eq!(driver.dropped_records(), 1);
}

#[test]
fn records_that_fail_become_dead_letters_with_javas_headers() {
    let mut driver = picky()
        .processing_handler(ProcessingHandler::LogAndContinue)
        .unwrap()
        .dead_letter_queue("dlq")
        .unwrap();
    pipe(&mut driver, "good").unwrap();
    pipe(&mut driver, "bad").unwrap();
    let letters = driver.output::<String, String>("dlq").read_records().unwrap();
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((letter.key.as_str(), letter.value.as_str(), letter.timestamp), ("k", "bad", 3));
    let headers: Vec<_> = letter.headers.to_vec();
    let text = |at: usize| {
        let header = &headers[at];
        (header.key.to_string(), String::from_utf8(header.value.clone().unwrap().to_vec()).unwrap())
    };
    let names: Vec<String> = (0..headers.len()).map(|at| text(at).0).collect();
    let expected = ["exception", "message", "stacktrace", "topic", "partition", "offset"];
    assert_eq!(names, expected.map(|name| format!("__streams.errors.{name}")));
    assert_eq!(text(1).1, "cannot take bad");
    assert_eq!((text(3).1, text(4).1, text(5).1), ("in".to_owned(), "0".to_owned(), "1".to_owned()));
}

#[test]
fn a_handler_of_ones_own_decides_by_record() {
    let handler = ProcessingHandler::custom(|failed| match failed.value {
        Some(b"bad") => ErrorAction::resume().dead_letter("set-aside"),
        _ => ErrorAction::fail(),
    });
    let mut driver = picky().processing_handler(handler).unwrap();
    pipe(&mut driver, "bad").unwrap();
    assert_eq!(driver.output::<String, String>("set-aside").read_all().unwrap().len(), 1);
}
