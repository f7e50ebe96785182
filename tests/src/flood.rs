//! Packets without end.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::Workload;

/// Packets that a workload sends all the time, to where it may and to where it may not. They end with this
/// value.
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Flood {
    /// About three thousand datagrams a second: one to where they are allowed, one to where they are denied
    /// in the same flow all the time, one in a new flow.
    ///
    /// # Errors
    /// If the workload has no sockets.
    pub fn start(workload: &Workload, allowed: SocketAddr, denied: SocketAddr) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sockets = workload.ns.run(|| anyhow::Ok([open()?, open()?]))??;
        let ns = workload.ns.clone();
        let thread = std::thread::spawn(move || {
            let [one, other] = sockets;
            while !stopped.load(Ordering::Relaxed) {
                // A refusal by ICMP is a failed send.
                let _ = one.send_to(b"allowed", allowed);
                let _ = other.send_to(b"denied", denied);
                // A new flow each time, too.
                let _ = ns.run(|| open().and_then(|fresh| fresh.send_to(b"denied", denied)));
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let thread = Some(thread);
        Ok(Self { stop, thread })
    }
}

fn open() -> std::io::Result<UdpSocket> {
    #[expect(clippy::disallowed_methods, reason = "a client outside of the gate")]
    UdpSocket::bind("0.0.0.0:0")
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
