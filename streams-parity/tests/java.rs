//! kafka-streams beside Java's Kafka Streams.

use std::path::PathBuf;

use streams_parity::Options;

/// Other cases: `cargo xtask parity --seed N`.
const SEED: u64 = 1;
const CASES: u64 = 2000;

#[test]
#[ignore = "needs java and KAFKA_JARS"]
fn random_topologies_do_what_they_do_in_java() -> Result<(), Box<dyn std::error::Error>> {
    let jars = std::env::var_os("KAFKA_JARS")
        .ok_or("KAFKA_JARS does not name the folder of Kafka's jars (`cargo xtask kafka jars` prints it)")?;
    let options =
        Options { jars: PathBuf::from(jars), seed: SEED, cases: CASES, family: None, differences: 5 };
    let report = streams_parity::run(&options)?;
    assert!(report.differences.is_empty(), "{report}");
    let compared: u64 = report.compared.values().sum();
    assert_eq!(compared, CASES, "{report}");
    assert!(report.refused < CASES / 20, "the generator makes too much that is refused: {report}");
    Ok(())
}
