//! `cargo xtask simulate`: many seeds of the simulation, or one again.

use std::path::Path;
use std::process::Command;

/// Arguments and the variables by which the test learns of them.
const ARGUMENTS: [(&str, &str); 6] = [
    ("--seeds", "SIMULATION_SEEDS"),
    ("--from", "SIMULATION_FROM"),
    ("--seed", "SIMULATION_SEED"),
    ("--records", "SIMULATION_RECORDS"),
    ("--faults", "SIMULATION_FAULTS"),
    ("--profile", "SIMULATION_PROFILE"),
];

pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(["test", "--quiet", "--release", "-p", "integration-tests", "--test", "it"]);
    cargo.args(["simulation::by_hand", "--", "--ignored", "--exact", "--nocapture"]);
    for pair in arguments.chunks(2) {
        let &[name, value] = pair else {
            return Err(format!("{} needs a value", pair.concat()));
        };
        let known = ARGUMENTS.iter().find(|(known, _)| *known == name);
        let (_, variable) = known.ok_or_else(|| {
            let names: Vec<&str> = ARGUMENTS.iter().map(|(name, _)| *name).collect();
            format!("unknown argument {name}: {}", names.join(", "))
        })?;
        cargo.env(variable, value);
    }
    let status = cargo.status().map_err(|error| format!("cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err("a promise was broken; see above".to_owned()) }
}
