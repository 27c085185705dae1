//! Seeded runs of producers against a cluster that fails in every way; see `integration_tests::simulation`.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests: they tell of a run and end the test"
)]

use std::time::Instant;

use std::collections::BTreeMap;

use integration_tests::simulation::check::Violation;
use integration_tests::simulation::faults::Faults;
use integration_tests::simulation::plan::{End, Fsync, Sabotage};
use integration_tests::simulation::{Plan, Profile, Report, run, shrink, watchdog, watched};
use kafka_client::consumer::IsolationLevel;
use kafka_client::producer::Acks;

/// Runs a plan in a world of its own.
fn simulate(plan: &Plan) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    watched(watchdog::LONGEST, &plan.replay_command(), || runtime.block_on(run(plan)))
}

/// Runs seeds and names those that fail; of the first it prints all there is to know, made as small as it can be.
fn check_seeds(seeds: impl Iterator<Item = u64>, profile: Profile) {
    let (mut runs, mut records, mut acknowledged) = (0, 0, 0);
    let mut faults: BTreeMap<&str, u32> = BTreeMap::new();
    let mut failed = Vec::new();
    let began = Instant::now();
    for seed in seeds {
        if std::env::var_os("SIMULATION_LIVE").is_some() {
            eprintln!("seed {seed}");
        }
        let report = simulate(&Plan::new(seed, profile));
        runs += 1;
        records += report.records;
        acknowledged += report.acknowledged;
        for (kind, times) in &report.faults {
            *faults.entry(kind).or_default() += times;
        }
        if let Some(violation) = report.violations.first() {
            println!("seed {seed}: {violation}");
            failed.push((seed, report));
        }
    }
    println!(
        "{profile}: {runs} seeds, {} failed, {records} records, {acknowledged} acknowledged, {} faults, {:.1?}",
        failed.len(),
        faults.values().sum::<u32>(),
        began.elapsed()
    );
    let kinds: Vec<String> = faults.iter().map(|(kind, times)| format!("{kind} {times}")).collect();
    println!("    {}", kinds.join(", "));
    if let Some((seed, report)) = failed.first() {
        explain(&Plan::new(*seed, profile), report);
    }
}

/// Ends the test with a failing run's story.
fn explain(plan: &Plan, report: &Report) -> ! {
    let smallest = shrink(plan, report, |candidate| !simulate(candidate).violations.is_empty());
    let report = simulate(&smallest);
    println!("{smallest:#?}");
    for line in &report.trace {
        println!("{line}");
    }
    for violation in &report.violations {
        println!("violated: {violation}");
    }
    panic!("seed {} failed; the smallest run found that fails: {}", plan.seed, smallest.replay_command());
}

#[test]
fn producers_keep_their_promises_whatever_happens() {
    check_seeds(0..60, Profile::All);
    for profile in Profile::all().filter(|profile| *profile != Profile::All) {
        check_seeds(0..5, profile);
    }
}

/// `cargo xtask simulate` runs this one with its arguments in the environment.
#[test]
#[ignore = "by hand: cargo xtask simulate"]
fn by_hand() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let profile =
        std::env::var("SIMULATION_PROFILE").map_or(Profile::All, |name| name.parse().expect("a profile"));
    let Some(seed) = number("SIMULATION_SEED") else {
        let from = number("SIMULATION_FROM").unwrap_or(0);
        return check_seeds(from..from + number("SIMULATION_SEEDS").unwrap_or(1000), profile);
    };
    integration_tests::show_logs();
    let mut plan = Plan::new(seed, profile);
    plan.max_records = number("SIMULATION_RECORDS").map_or(u32::MAX, |records| records as u32);
    plan.max_faults = number("SIMULATION_FAULTS").map_or(u32::MAX, |faults| faults as u32);
    let report = simulate(&plan);
    println!("{plan:#?}");
    report.trace.iter().for_each(|line| println!("{line}"));
    report.violations.iter().for_each(|violation| println!("violated: {violation}"));
    assert!(report.violations.is_empty(), "seed {seed} failed");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..10 {
        let plan = Plan::new(seed, Profile::All);
        let (first, second) = (simulate(&plan), simulate(&plan));
        for (line, (one, other)) in first.trace.iter().zip(&second.trace).enumerate() {
            assert_eq!(one, other, "seed {seed}, line {line}");
        }
        assert_eq!(first.trace.len(), second.trace.len(), "seed {seed}");
    }
}

/// Without transactions the bank would not add up: whoever reads what was aborted finds orders booked twice, or by half.
#[test]
fn a_bank_whose_aborted_entries_are_read_is_found_out() {
    let found = (0..10).flat_map(|seed| {
        let mut plan = Plan::new(seed, Profile::Bank);
        if let Some(bank) = &mut plan.bank {
            (bank.reader, bank.given_up) = (IsolationLevel::ReadUncommitted, 0.1);
        }
        simulate(&plan).violations
    });
    assert!(found.count() > 0);
}

/// Runs that keep every promise prove nothing before it is known that others are told from them.
#[test]
fn a_network_that_breaks_promises_is_found_out() {
    let sabotaged = |sabotage| {
        (0..10).flat_map(move |seed| {
            let mut plan = Plan::new(seed, Profile::Calm);
            plan.faults = Faults::default();
            plan.topic_configs.clear();
            (plan.idempotent, plan.acks) = (true, Acks::All);
            (plan.end, plan.records) = (End::Flush, 50);
            plan.sabotage = Some(sabotage);
            simulate(&plan).violations
        })
    };
    let duplicated = |violation: &Violation| matches!(violation, Violation::Duplicated { .. });
    assert!(sabotaged(Sabotage::DuplicateBatches).any(|violation| duplicated(&violation)));
    let lost = |violation: &Violation| matches!(violation, Violation::Lost { .. });
    assert!(sabotaged(Sabotage::WrongOffsets).any(|violation| lost(&violation)));
    let gone = |violation: &Violation| matches!(violation, Violation::Lost { found: None, .. });
    assert!(sabotaged(Sabotage::AcknowledgeLost).any(|violation| gone(&violation)));
}

/// With `flush.messages=1` what is acknowledged is on disk, unless the disk lies.
#[test]
fn disks_that_lie_about_syncs_are_found_out() {
    let plans = (0..60).map(|seed| Plan::new(seed, Profile::Power));
    let plans = plans.filter(|plan| plan.nodes == 1 && plan.fsync == Fsync::EveryBatch);
    let found = plans.flat_map(|plan| {
        let plan = Plan { sabotage: Some(Sabotage::LyingDisks), end: End::Flush, ..plan };
        simulate(&plan).violations
    });
    assert!(found.into_iter().any(|violation| matches!(violation, Violation::Lost { .. })));
}

/// Where no replica that misses records may lead, `acks=all` loses nothing; here one may, and the promises say otherwise.
#[test]
fn unclean_elections_are_found_out() {
    let found = (0..40).flat_map(|seed| {
        let mut plan = Plan::new(seed, Profile::Nodes);
        for (key, value) in &mut plan.topic_configs {
            match *key {
                "unclean.leader.election.enable" => *value = "true".to_owned(),
                "min.insync.replicas" => *value = "1".to_owned(),
                _ => {}
            }
        }
        plan.broker_configs = vec![("replica.lag.time.max.ms", "50".to_owned())];
        (plan.unclean, plan.acks, plan.end) = (false, Acks::All, End::Flush);
        plan.faults = Faults { held_replications: 10, node_crashes: 6, ..Faults::default() };
        simulate(&plan).violations
    });
    assert!(found.into_iter().any(|violation| matches!(violation, Violation::Lost { .. })));
}

/// Found by the simulation: followers did not sync what they copied. With `flush.messages=1` nobody could read on a new
/// leader what the old one had acknowledged, and power cuts of one machine after the other lost it.
#[test]
fn what_is_synced_before_it_is_acknowledged_is_synced_on_every_replica() {
    for seed in 0..8 {
        let mut plan = Plan::new(seed, Profile::Nodes);
        plan.topic_configs =
            vec![("flush.messages", "1".to_owned()), ("min.insync.replicas", "2".to_owned())];
        (plan.unclean, plan.fsync, plan.acks, plan.end) = (false, Fsync::EveryBatch, Acks::All, End::Flush);
        plan.faults = Faults { leader_moves: 10, node_power_cuts: 6, ..Faults::default() };
        assert_eq!(simulate(&plan).violations, [], "seed {seed}");
    }
}

#[test]
fn a_failing_run_is_made_smaller() {
    let mut plan = Plan::new(3, Profile::Calm);
    (plan.records, plan.end) = (60, End::Flush);
    let report = simulate(&plan);
    assert_eq!(report.violations, []);
    let smallest = shrink(&plan, &report, |candidate| candidate.max_records >= 7);
    assert_eq!((smallest.max_records, smallest.max_faults), (7, 0));
    assert_eq!(
        smallest.replay_command(),
        "cargo xtask simulate --seed 3 --profile calm --records 7 --faults 0"
    );
}
