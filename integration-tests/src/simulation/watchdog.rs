//! A run that spins does not get to the end of its virtual time, so nothing inside it can say so: a thread looks at the
//! real clock.

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// No run takes so long on any machine; most take milliseconds.
pub const LONGEST: Duration = Duration::from_secs(60);

/// Does `work`. If that takes longer than `limit` of real time, `name` is printed to standard error and the process fails.
pub fn watched<T>(limit: Duration, name: &str, work: impl FnOnce() -> T) -> T {
    let (done, waits) = channel::<()>();
    let story = format!("still running after {limit:?} of real time: {name}\n");
    let watchdog = std::thread::spawn(move || {
        if waits.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            // Not `eprintln`, which the test harness would keep to itself.
            let _ = std::io::stderr().write_all(story.as_bytes());
            std::process::exit(101);
        }
    });
    let result = work();
    drop(done);
    let _ = watchdog.join();
    result
}
