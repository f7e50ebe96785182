//! A client that asks all the time and counts what it is told.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::Workload;

/// One query after the other, each [`Asker::DENIED_EVERY`]th for a name that may not be asked.
pub struct Asker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Told>>,
}

/// What it was told.
#[derive(Debug, Default)]
pub struct Told {
    /// Queries that it sent.
    pub asked: usize,
    /// Queries that got no answer.
    pub unanswered: BTreeSet<u16>,
    /// Queries for an allowed name that were answered otherwise than by its address.
    pub unserved: BTreeSet<u16>,
    /// Queries for a denied name that were answered otherwise than by a denial.
    pub undenied: BTreeSet<u16>,
}

impl Asker {
    /// Of so many queries one is for a name that is denied.
    pub const DENIED_EVERY: u16 = 5;
    /// Names that are allowed.
    const NAMES: u16 = 20;

    /// Asks `server` each `pace` until [`Asker::end`].
    ///
    /// # Errors
    /// If there is no socket.
    pub fn start(who: &Workload, server: SocketAddr, pace: Duration) -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a client outside of the gate")]
        let socket = who.ns.run(|| UdpSocket::bind("[::]:0"))??;
        let server = match server {
            SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            SocketAddr::V6(_) => server,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || ask(&socket, server, pace, &stopped));
        Ok(Self { stop, thread })
    }

    /// Stops to ask, waits for what is still to come, and says what it was told.
    ///
    /// # Errors
    /// If it could not ask.
    pub fn end(self) -> Result<Told> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the asker died")?
    }
}

fn ask(socket: &UdpSocket, server: SocketAddr, pace: Duration, stop: &AtomicBool) -> Result<Told> {
    let answers = socket.try_clone()?;
    // Whoever asks so much has room for the answers.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&answers, 4 << 20)?;
    // As long as a stub resolver waits.
    answers.set_read_timeout(Some(Duration::from_secs(5) * crate::patience()))?;
    let heard = std::thread::spawn(move || {
        let (mut all, mut buffer) = (Vec::new(), [0; 1_500]);
        while let Ok(len) = answers.recv(&mut buffer) {
            all.push(buffer.get(..len).unwrap_or(&[]).to_vec());
        }
        all
    });
    let mut id = 0;
    #[expect(clippy::disallowed_methods, reason = "a test's patience")]
    let start = std::time::Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // What the network says of an earlier one is no reason to stop.
        let _ = socket.send_to(&query(id), server);
        id += 1;
        std::thread::sleep((pace * u32::from(id)).saturating_sub(start.elapsed()));
    }
    let heard = heard.join().ok().context("the listener died")?;
    let mut told = Told {
        asked: usize::from(id),
        unanswered: (0..id).collect(),
        ..Told::default()
    };
    for answer in heard {
        let Some([one, two, _, flags]) = answer.first_chunk().copied() else {
            continue;
        };
        let id = u16::from_be_bytes([one, two]);
        told.unanswered.remove(&id);
        let rcode = flags & 15;
        let has_address = answer.get(7).is_some_and(|count| *count == 1);
        let denied = id % Asker::DENIED_EVERY == 0;
        if denied && (rcode, has_address) != (3, false) {
            told.undenied.insert(id);
        } else if !denied && (rcode, has_address) != (0, true) {
            told.unserved.insert(id);
        }
    }
    Ok(told)
}

/// `nI.example.com`, or below the name that is denied.
fn query(id: u16) -> Vec<u8> {
    let number = format!("n{}", id % Asker::NAMES);
    let labels: [&str; 3] = match id % Asker::DENIED_EVERY {
        0 => [&number, "evil", "test"],
        _ => [&number, "example", "com"],
    };
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in labels {
        out.push(u8::try_from(label.len()).unwrap_or(0));
        out.extend(label.as_bytes());
    }
    out.extend([0, 0, 1, 0, 1]);
    out
}
