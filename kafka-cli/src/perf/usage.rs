//! What this process has cost so far, from `/proc`.

use std::fs;
use std::time::Duration;

/// Processor time and memory of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time of all threads, those that have ended included.
    pub(crate) cpu: Option<Duration>,
    /// The largest resident set.
    pub(crate) peak_rss_bytes: Option<u64>,
}

/// `USER_HZ` is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

impl Usage {
    /// Reads `/proc/self/stat` and not the threads' `schedstat`: those count nanoseconds, but a thread's file is gone
    /// when the thread is. The kernel scales the ticks from the same exact clock, so they are 10 ms off at most.
    pub(crate) fn now() -> Self {
        Self {
            cpu: fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu),
            peak_rss_bytes: fs::read_to_string("/proc/self/status").ok().as_deref().and_then(peak_rss),
        }
    }
}

/// Fields 14 and 15, `utime` and `stime`. The second field is the program's name in parentheses, which may hold spaces.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut ticks = rest.split(' ').skip(11).map(str::parse::<u32>);
    Some(TICK * ticks.next()?.ok()?.checked_add(ticks.next()?.ok()?)?)
}

fn peak_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat = "17 (a) b) R 1 17 17 0 -1 4194304 120 0 0 0 250 50 0 0 20 0 1 0";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu("17 (x) R"), None);
        assert_eq!(peak_rss("VmPeak:\t 10 kB\nVmHWM:\t    2048 kB\n"), Some(2 * 1024 * 1024));
        assert_eq!(peak_rss(""), None);
    }
}
