//! Threads on which a proxy's sockets are served, each in its network namespace.

use std::thread::JoinHandle;
use std::time::Duration;

use transport::NetNs;

/// One for each core, since each batches by itself; more gain nothing.
const WORKERS_MAX: usize = 4;
/// How long a stopping proxy lets go on what is open. For HTTP, `--drain-timeout` comes before.
pub(crate) const DRAIN: Duration = Duration::from_millis(1_500);

/// How many workers a proxy has.
pub(crate) fn workers() -> usize {
    std::thread::available_parallelism()
        .map_or(1, std::num::NonZero::get)
        .min(WORKERS_MAX)
}

/// Starts a thread with a runtime of its own. That it `ended` is logged only if it was by an error.
///
/// # Errors
/// If the thread can't be made.
pub(crate) fn spawn<F: Future<Output = std::io::Result<()>> + Send + 'static>(
    name: String,
    ns: &NetNs,
    ended: &'static str,
    serve: impl FnOnce() -> F + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let ns = ns.clone();
    std::thread::Builder::new().name(name).spawn(move || {
        let end = ns.enter().and_then(|()| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            // As a task: each wake of what `block_on` waits for itself is a write to an eventfd.
            let serving = async { tokio::spawn(serve()).await };
            runtime
                .block_on(serving)
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
        });
        if let Err(error) = end {
            tracing::error!("{ended}: {error}");
        }
    })
}
