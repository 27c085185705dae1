//! Windows: the same payments counted in five ways, in the test driver, so that the times are the example's own.
//!
//! Time is that of the records. A window takes records until one comes that is later than its end and its grace.

use std::error::Error;
use std::time::Duration;

use kafka_streams::testing::TestDriver;
use kafka_streams::{
    BufferConfig, Emit, KGroupedStream, KTable, SessionWindows, SlidingWindows, Store, StreamsBuilder,
    Suppressed, TimeWindows, Windowed,
};

/// Account, cents and second of each payment. The fourth one is late, the last one is much later than all others.
const PAYMENTS: [(&str, i64, i64); 6] =
    [("ann", 10, 1), ("ann", 20, 4), ("bob", 5, 12), ("ann", 1, 9), ("ann", 7, 16), ("zoe", 0, 1_000)];

/// Sums payments by account and window; returns `account start..end: sum` for each result.
fn sums(
    cut: impl FnOnce(KGroupedStream<String, i64>) -> KTable<Windowed<String>, i64>,
) -> Result<Vec<String>, Box<dyn Error>> {
    let builder = StreamsBuilder::new();
    let payments = builder.stream::<String, i64>("payments").group_by_key("by-account");
    cut(payments)
        .to_stream()
        .map(|w, sum| ((), format!("{} {}..{}: {sum:?}", w.key, w.start / 1_000, w.end / 1_000)))
        .to("sums");
    let mut driver = TestDriver::new(&builder.build()?)?;
    for (account, cents, second) in PAYMENTS {
        driver.input::<String, i64>("payments").pipe(account.to_owned(), cents, second * 1_000)?;
    }
    let results = driver.output::<(), String>("sums").read_all()?.into_iter().map(|(_, sum)| sum);
    Ok(results.filter(|sum| !sum.starts_with("zoe")).collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let secs = Duration::from_secs;
    let sum = |total: i64, cents: i64| total + cents;

    // One after the other, and three seconds of grace: the late payment still counts.
    let tumbling = sums(|p| {
        p.windowed_by(TimeWindows::tumbling(secs(10)).grace(secs(3))).reduce(sum, Store::window("s"))
    })?;
    println!("tumbling: {tumbling:#?}");
    assert_eq!(tumbling[3], "ann 0..10: Some(31)");

    // A window of ten seconds begins every five: each payment is in two. Without grace the late one has only the later left.
    let hopping =
        sums(|p| p.windowed_by(TimeWindows::hopping(secs(10), secs(5))).reduce(sum, Store::window("s")))?;
    println!("hopping: {hopping:#?}");
    assert!(hopping.contains(&"ann 5..15: Some(1)".to_owned()));

    // Whatever lies within five seconds of each other, exactly.
    let sliding =
        sums(|p| p.windowed_by(SlidingWindows::of(secs(5)).grace(secs(60))).reduce(sum, Store::window("s")))?;
    println!("sliding: {sliding:#?}");

    // A session ends when an account is silent for six seconds; the late payment makes one longer after all.
    let sessions = sums(|p| {
        p.windowed_by(SessionWindows::gap(secs(6)).grace(secs(60))).reduce(sum, Store::session("s"))
    })?;
    println!("sessions: {sessions:#?}");
    assert!(sessions.contains(&"ann 1..9: Some(31)".to_owned()));

    // Only final results: asked of the aggregation, or of its table afterwards. Both say the same.
    let windows = TimeWindows::tumbling(secs(10)).grace(secs(3));
    let closed = sums(|p| p.windowed_by(windows).emit(Emit::OnClose).reduce(sum, Store::window("s")))?;
    println!("final: {closed:#?}");
    let until_closed = || Suppressed::until_window_closes(BufferConfig::unbounded());
    let suppressed =
        sums(|p| p.windowed_by(windows).reduce(sum, Store::window("s")).suppress(until_closed()))?;
    assert_eq!(closed, ["ann 0..10: Some(31)", "ann 10..20: Some(7)", "bob 10..20: Some(5)"]);
    assert_eq!(closed, suppressed);
    Ok(())
}
