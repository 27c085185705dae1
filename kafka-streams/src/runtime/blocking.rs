use std::future::Future;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::StreamsError;

/// The application's tokio runtime, as the worker's thread sees it.
#[derive(Debug, Clone)]
pub(super) struct Runtime(Handle);

/// The runtime is shutting down: what was asked of it is not done, or not known to be.
#[derive(Debug, thiserror::Error)]
#[error("the tokio runtime was shut down")]
pub(super) struct RuntimeGone;

impl Runtime {
    pub(super) fn current() -> Self {
        Self(Handle::current())
    }

    /// Runs a future there and waits for it. `Handle::block_on` would drive it here, where its timers panic once the
    /// runtime shuts down.
    pub(super) fn run<F>(&self, future: F) -> Result<F::Output, RuntimeGone>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let (done, result) = oneshot::channel();
        self.0.spawn(async move {
            // The worker waits for it, unless it is gone itself.
            let _ = done.send(future.await);
        });
        result.blocking_recv().map_err(|_| RuntimeGone)
    }
}

impl From<RuntimeGone> for Box<StreamsError> {
    fn from(gone: RuntimeGone) -> Self {
        let operation = "working in the background".to_owned();
        Box::new(StreamsError::Cluster { operation, reason: gone.to_string() })
    }
}
