//! What the steps of a record cost, each alone on one core: `cargo run --release -p kafka-wire --example batch_speed`.
#![expect(clippy::print_stdout, reason = "to print is what this program is for")]

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use kafka_wire::record_batch::{BatchBuilder, RecordBatch, Seal};

const BATCH_BYTES: usize = 128 * 1024;
const RECORDS: u64 = 10_000_000;
/// Rounds, of which the fastest counts: a slower one met somebody else's work.
const ROUNDS: usize = 7;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let value = vec![b'x'; 100];
    for key in [None, Some(&b"customer-17"[..])] {
        let name = if key.is_some() { "key and value" } else { "value" };
        let mut buffer = Vec::new();
        let append = fastest(|| {
            let mut left = RECORDS;
            while left > 0 {
                let mut batch = BatchBuilder::with_buffer(std::mem::take(&mut buffer));
                while left > 0 && batch.size_bytes() + 140 < BATCH_BYTES {
                    batch.append(black_box(1_750_000_000_000), black_box(key), black_box(Some(&value)), &[]);
                    left -= 1;
                }
                buffer = batch.into_buffer();
            }
        });
        println!("append, {name} of 100 bytes: {append:.1} ns");

        let mut batch = BatchBuilder::new(BATCH_BYTES);
        while batch.size_bytes() + 140 < BATCH_BYTES {
            batch.append(1_750_000_000_000, key, Some(&value), &[]);
        }
        let records = batch.count() as u64;
        let mut sealed: Bytes = batch.finish(&Seal::default())?;
        let parsed = RecordBatch::split_from(&mut sealed)?.ok_or("no batch")?;
        let rounds = RECORDS / records;
        let checked = fastest(|| (0..rounds).for_each(|_| drop(black_box(parsed.verify_crc()))));
        println!("check the CRC: {checked:.1} ns");
        let views = fastest(|| {
            for _ in 0..rounds {
                let Ok(mut records) = parsed.records(usize::MAX) else { return };
                while let Some(view) = records.next_view() {
                    let _ = black_box(view);
                }
            }
        });
        println!("decode as views, {name}: {views:.1} ns");
        let owned = fastest(|| {
            for _ in 0..rounds {
                let Ok(records) = parsed.records(usize::MAX) else { return };
                records.for_each(|record| drop(black_box(record)));
            }
        });
        println!("decode as owned slices, {name}: {owned:.1} ns");
    }
    Ok(())
}

/// Nanoseconds for each record.
fn fastest(mut work: impl FnMut()) -> f64 {
    (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64() * 1e9 / RECORDS as f64
        })
        .fold(f64::INFINITY, f64::min)
}
