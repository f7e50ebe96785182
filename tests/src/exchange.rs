//! An exchange as every network must carry it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{Daemon, Running, Workload};

/// What the server of an [`exchange`] knows, below `example.com`.
pub const WWW: &str = "www 60 IN A 198.18.0.1\nwww 60 IN AAAA 2001:db8:1::1\n";

/// Asks over UDP and TCP, for an allowed name and a denied one, and checks that each went by the gate
/// and came from the address that was asked.
///
/// # Errors
/// If anything is otherwise; the error says what.
pub fn exchange(daemon: &Daemon<'_>, client: &Workload, server: IpAddr) -> Result<()> {
    exchange_at(daemon, client, &server.to_string())
}

/// The same; `server` is the address as the client writes it, with the link of a link-local one.
///
/// # Errors
/// The same.
pub fn exchange_at(daemon: &Daemon<'_>, client: &Workload, server: &str) -> Result<()> {
    for way in ["+notcp", "+tcp"] {
        let before = daemon.status()?;
        for (kind, wanted) in [("A", "198.18.0.1\n"), ("AAAA", "2001:db8:1::1\n")] {
            let answer = client.dig_at(server, &[way, "+short", "www.example.com", kind])?;
            ensure!(
                answer == wanted,
                "{server} {way} {kind}: {answer:?}; {}",
                daemon.status()?["datapath"]
            );
        }
        let denied = client.dig_at(server, &[way, "a.evil.test", "A"])?;
        ensure!(
            denied.contains("status: NXDOMAIN") && denied.contains("EDE: 17 (Filtered)"),
            "{server} {way}: {denied}; {}",
            daemon.status()?["datapath"]
        );
        let after = daemon.status()?;
        let more = |name: &str| exchanges(&after, name) - exchanges(&before, name);
        ensure!(
            (more("answered"), more("denied")) == (2, 1),
            "{server} {way}: {} answered, {} denied",
            more("answered"),
            more("denied")
        );
    }
    Ok(())
}

fn exchanges(status: &Value, outcome: &str) -> u64 {
    status["dns"]["dns_exchanges_total"][outcome]
        .as_u64()
        .unwrap_or(0)
}

/// What a filter lets a namespace see while something runs: a line for each packet.
///
/// # Errors
/// If tcpdump can't be run.
pub fn seen_by(at: &Workload, filter: &str, run: impl FnOnce() -> Result<()>) -> Result<String> {
    let (capture, file) = Running::capture(&at.ns, filter)?;
    run()?;
    // What was sent last is written a moment later.
    std::thread::sleep(Duration::from_millis(200));
    let text = at.check("tcpdump", &["-n", "-r", &file.display().to_string()])?;
    drop(capture);
    Ok(text)
}
