//! Codecs at work beside the task.

use bytes::Bytes;
use kafka_wire::compression::{Compression, Compressor};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::super::batch::Uncompressed;

/// As many batches are compressed at a time as there are processors, since more would only take turns; and as many
/// compressors are kept.
#[derive(Debug)]
pub(super) struct Compressors {
    turns: Semaphore,
    idle: Mutex<Vec<Compressor>>,
    most: usize,
}

impl Compressors {
    pub(super) fn new() -> Self {
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        Self { turns: Semaphore::new(most), idle: Mutex::default(), most }
    }

    /// Compresses, which takes as long as the codec does.
    pub(super) fn compress(&self, codec: Compression, work: Uncompressed) -> Result<Bytes, String> {
        let mut compressor = self.idle.lock().pop().unwrap_or_default();
        let compressed = work.compress(codec, &mut compressor).map_err(|error| error.to_string());
        let mut idle = self.idle.lock();
        if idle.len() < self.most {
            idle.push(compressor);
        }
        compressed
    }

    /// Compresses on a thread that may be kept busy, when it is this batch's turn.
    pub(super) async fn compress_elsewhere(
        self: std::sync::Arc<Self>,
        codec: Compression,
        work: Uncompressed,
    ) -> Result<Bytes, String> {
        // It is never closed.
        let _turn = self.turns.acquire().await;
        let here = self.clone();
        let done = tokio::task::spawn_blocking(move || here.compress(codec, work)).await;
        done.map_err(|error| error.to_string())?
    }
}
