//! What a finished child process cost, by the operating system's account.

use std::fmt;
use std::fs;
use std::io;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// One run of one client.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) records: u64,
    pub(crate) wall: Duration,
    /// User and system time of the process and its children.
    pub(crate) cpu: Duration,
    /// The largest resident set seen, or 0 where the run was too short to look.
    pub(crate) peak_bytes: u64,
    /// User and system time of the broker meanwhile; 0 if its process is not known.
    pub(crate) broker_cpu: Duration,
}

impl Measured {
    pub(crate) fn cpu_micros_per_record(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.records.max(1) as f64
    }

    pub(crate) fn broker_micros_per_record(&self) -> f64 {
        self.broker_cpu.as_secs_f64() * 1e6 / self.records.max(1) as f64
    }

    pub(crate) fn records_per_second(&self) -> f64 {
        self.records as f64 / self.wall.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} records in {:.2} s, {:.2} s CPU, {:.3} µs a record, {} MB",
            self.records,
            self.wall.as_secs_f64(),
            self.cpu.as_secs_f64(),
            self.cpu_micros_per_record(),
            self.peak_bytes / 1_000_000,
        )
    }
}

/// The median of one figure.
pub(crate) fn median(of: &[Measured], figure: impl Fn(&Measured) -> f64) -> f64 {
    let mut figures: Vec<f64> = of.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How often the child's memory is looked at.
const SAMPLE: Duration = Duration::from_millis(50);

/// Runs a command to its end, or kills it after `stop_after`, and returns its output with what it cost.
pub(crate) fn run(
    command: &mut Command,
    stop_after: Option<Duration>,
) -> io::Result<(Output, Duration, Duration, u64)> {
    let cpu_before = children_cpu()?;
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = child.id();
    // The pipes are drained by threads, so that a chatty peer never blocks on them.
    let drain = |pipe: Option<Box<dyn io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let stdout = drain(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = drain(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let mut peak_bytes = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        peak_bytes = peak_bytes.max(peak_memory(pid));
        if stop_after.is_some_and(|limit| started.elapsed() >= limit) {
            child.kill()?;
        }
        std::thread::sleep(SAMPLE);
    };
    let wall = started.elapsed();
    let cpu = children_cpu()?.saturating_sub(cpu_before);
    let output = Output {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    };
    Ok((output, wall, cpu, peak_bytes))
}

/// `USER_HZ` is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of all children that have ended (`cutime` and `cstime` of `/proc/self/stat`).
fn children_cpu() -> io::Result<Duration> {
    cpu("/proc/self/stat", 13)
}

/// User and system time of another process so far; 0 if there is none of this id.
pub(crate) fn cpu_of(pid: u32) -> Duration {
    cpu(&format!("/proc/{pid}/stat"), 11).unwrap_or_default()
}

/// Two neighbouring fields of a `stat` file, counted after the name in parentheses, which may hold spaces.
fn cpu(stat: &str, field: usize) -> io::Result<Duration> {
    let stat = fs::read_to_string(stat)?;
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u32 =
        after_name.split(' ').skip(field).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    Ok(TICK * ticks)
}

fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_child_is_charged_its_cpu_time() {
        let mut busy = Command::new("sh");
        busy.args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done"]);
        let (output, wall, cpu, peak_bytes) = run(&mut busy, None).unwrap();
        assert_eq!(output.stdout, b"done\n");
        assert!(cpu >= Duration::from_millis(10) && cpu <= 4 * wall, "{cpu:?} in {wall:?}");
        assert!(peak_bytes > 0);
    }

    #[test]
    fn the_median_ignores_one_outlier() {
        let with_cpu = |millis| Measured {
            records: 1000,
            wall: Duration::from_secs(1),
            cpu: Duration::from_millis(millis),
            peak_bytes: 0,
            broker_cpu: Duration::ZERO,
        };
        let runs = [with_cpu(1), with_cpu(900), with_cpu(2)];
        assert_eq!(median(&runs, Measured::cpu_micros_per_record), 2.0);
    }
}
