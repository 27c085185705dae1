//! `cargo xtask fuzz`: runs the fuzz targets, beginning from the bytes that Apache Kafka's own classes wrote.

use std::fs;
use std::path::Path;
use std::process::Command;

const TARGETS: &[&str] =
    &["record_batch", "frame_request", "frame_response", "decompress", "internal_records"];
/// Of each target, unless the command names another number.
const DEFAULT_SECONDS: &str = "60";

/// Runs one target or all, each for so many seconds; needs `cargo install cargo-fuzz` and a nightly toolchain.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<(), String> {
    let (targets, seconds) = match arguments {
        [] => (TARGETS, DEFAULT_SECONDS),
        ["all", seconds] => (TARGETS, *seconds),
        [target] => (std::slice::from_ref(target), DEFAULT_SECONDS),
        [target, seconds] => (std::slice::from_ref(target), *seconds),
        _ => return Err("want a target (or all), and seconds".into()),
    };
    for target in targets {
        if !TARGETS.contains(target) {
            return Err(format!("no target {target}; there are {}", TARGETS.join(", ")));
        }
        write_seeds(root, target)?;
        let mut fuzz = Command::new("cargo");
        fuzz.args([
            "+nightly",
            "fuzz",
            "run",
            target,
            "--",
            &format!("-max_total_time={seconds}"),
            "-timeout=10",
        ]);
        let status = fuzz.current_dir(root).status().map_err(|error| format!("cargo: {error}"))?;
        if !status.success() {
            return Err(format!("fuzzing {target}: {status}"));
        }
    }
    Ok(())
}

fn write_seeds(root: &Path, target: &str) -> Result<(), String> {
    let vectors = root.join("kafka-wire/tests/vectors");
    let read = |name: &str| {
        let path = vectors.join(name);
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    match target {
        "record_batch" => seeds.extend(batches(&read("batches.tsv")?)),
        "decompress" => {
            for batch in batches(&read("batches.tsv")?) {
                // The codec is in the low bits of the attributes, the compressed records follow the header.
                if let (Some(attributes), Some(body)) = (batch.get(22), batch.get(61..)) {
                    seeds.push([&[attributes & 7], body].concat());
                }
            }
        }
        "internal_records" => {
            for line in read("records.tsv")?.lines() {
                let columns: Vec<&str> = line.split('\t').collect();
                match columns[..] {
                    ["metadata", _, _, hex] => seeds.push([&[0], &unhex(hex)[..]].concat()),
                    [_, _, _, hex] => seeds.extend((1..8).map(|kind| [&[kind], &unhex(hex)[..]].concat())),
                    _ => {}
                }
            }
        }
        _ => {}
    }
    let folder = root.join("fuzz/corpus").join(target);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for (at, seed) in seeds.iter().enumerate() {
        let path = folder.join(format!("seed-{at}"));
        fs::write(&path, seed).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn batches(text: &str) -> impl Iterator<Item = Vec<u8>> {
    text.lines().filter_map(|line| line.strip_prefix("bytes\t")).map(unhex)
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .filter_map(|digit| digit.try_into().ok())
        .collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
