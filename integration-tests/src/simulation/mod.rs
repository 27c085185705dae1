//! A seeded simulation: producers and a cluster of one or three nodes joined in memory on a paused clock and one thread.
//!
//! A seed decides everything: settings, who sends what when, how long each frame takes, where connections are cut, when
//! nodes die, leaders move, disks fail, the power is cut, topics are deleted. So a run takes milliseconds, and one that
//! fails can be run again: `cargo xtask simulate` prints how. What callers were told is compared with the log afterwards
//! ([`check`]): every send is answered, no acknowledged record is lost but where the settings say so, none is written
//! twice, order within a partition holds for each sender, and all replicas hold the same.

pub mod bank;
mod budget;
mod chaos;
pub mod check;
pub mod faults;
pub mod groups;
pub mod history;
pub mod network;
pub mod plan;
pub mod random;
mod raw;
mod run;
mod sender;
pub mod site;
mod tamper;
pub mod trace;
pub mod watchdog;

pub use faults::Profile;
pub use plan::Plan;
pub use run::{Report, run};
pub use watchdog::watched;

/// Makes a failing plan smaller as long as it fails: fewer records, then fewer faults.
///
/// `fails` runs a plan and says whether it fails. Returns the smallest plan found, which may be the one given.
pub fn shrink(plan: &Plan, report: &Report, mut fails: impl FnMut(&Plan) -> bool) -> Plan {
    let mut smallest = plan.clone();
    (smallest.max_records, smallest.max_faults) = (report.records, report.faults.values().sum());
    if !fails(&smallest) {
        return plan.clone();
    }
    // Fewer records shift nothing that happens before; a fault less may change everything after it. Both are tried from
    // the boldest step on, until neither helps.
    loop {
        let (records, faults) = (smallest.max_records, smallest.max_faults);
        for step in [2, 4, 8, 16, u32::MAX] {
            let less = |count: u32| count - (count / step).max(1).min(count);
            let candidate = Plan { max_records: less(smallest.max_records), ..smallest.clone() };
            if fails(&candidate) {
                smallest = candidate;
            }
            let candidate = Plan { max_faults: less(smallest.max_faults), ..smallest.clone() };
            if fails(&candidate) {
                smallest = candidate;
            }
        }
        if (smallest.max_records, smallest.max_faults) == (records, faults) {
            return smallest;
        }
    }
}
