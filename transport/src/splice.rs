//! The same without privileges: namespaces of a user namespace, in which rules of nft lead to the proxy
//! what programs lead to it elsewhere. The proxy's process stays outside; sockets are handed out to it.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bpf_redirect_common::{DNS_PORT, Kind, Mark};

use crate::dropped::{DropLog, LOG_GROUP, LOGGED_OCTETS};
use crate::gate::furnish;
use crate::sandbox::{NODE_END, SANDBOX_V4, SANDBOX_V6};
use crate::sys;
use crate::{GateListener, GateUdp, LinkError, Sandbox};

/// Why it can't be had, each with what would help.
#[derive(Debug, thiserror::Error)]
pub enum SpliceError {
    /// No user namespace.
    #[error("a user namespace: {0}")]
    UserNamespace(io::Error),
    /// It was made, but nothing may be done in it.
    #[error("what belongs to a user namespace: {0}")]
    Powerless(io::Error),
    /// Links, addresses and routes.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The program that sets rules can't be run.
    #[error("nft: {0}")]
    NoNft(io::Error),
    /// The rules are refused.
    #[error("nft: {0}")]
    Nft(String),
    /// Sockets.
    #[error("the sockets: {0}")]
    Sockets(io::Error),
}

/// What listens in the gate.
#[derive(Debug)]
pub struct Listening {
    /// Names, by UDP.
    pub dns_udp: OwnedFd,
    /// Names, by TCP.
    pub dns_tcp: OwnedFd,
    /// All other ports of TCP.
    pub tcp: OwnedFd,
    /// What was dropped.
    pub dropped: OwnedFd,
}

/// Octets that may wait for the proxy of names.
const RECEIVE_BUFFER: i32 = 1 << 20;
/// Connections that may wait.
const BACKLOG: i32 = 4_096;

/// Moves the calling process, which has one thread, into a user namespace with a network in it, of which it is
/// root.
///
/// # Errors
/// If the system forbids it.
pub fn enter_user_network() -> Result<(), SpliceError> {
    let (uid, gid) = who();
    unshare()?;
    let furnished = map((0, uid), (0, gid)).and_then(|()| sys::unshare_network());
    furnished.map_err(SpliceError::Powerless)
}

/// The same once more without a network, and the process is who it was before the first time: by what it may
/// do in here nothing of the network, which belongs to the first one, can be changed.
///
/// # Errors
/// If the system forbids it.
pub fn enter_user((uid, gid): (u32, u32)) -> Result<(), SpliceError> {
    unshare()?;
    map((uid, 0), (gid, 0)).map_err(SpliceError::Powerless)
}

/// A thread that was waited for may be there for a moment yet.
const THREAD_GONE_WAIT: Duration = Duration::from_millis(1);
const THREAD_GONE_TRIES: u32 = 1_000;

fn unshare() -> Result<(), SpliceError> {
    for _ in 0..THREAD_GONE_TRIES {
        match sys::unshare_user() {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                std::thread::sleep(THREAD_GONE_WAIT);
            }
            done => return done.map_err(SpliceError::UserNamespace),
        }
    }
    let error = io::Error::other("the process has other threads");
    Err(SpliceError::UserNamespace(error))
}

fn who() -> (u32, u32) {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    (uid.as_raw(), gid.as_raw())
}

/// Who the process is inside, and who that is outside.
fn map(uid: (u32, u32), gid: (u32, u32)) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{} {} 1", uid.0, uid.1))?;
    fs::write("/proc/self/gid_map", format!("{} {} 1", gid.0, gid.1))
}

/// Makes the calling thread's network namespace the gate of a sandbox, and listens there.
///
/// # Errors
/// If the kernel refuses something, or nft isn't there.
pub fn open_splice() -> Result<(Sandbox, Listening), SpliceError> {
    let sandbox = Sandbox::create_here()?;
    furnish(NODE_END)?;
    let udp = GateUdp::bind(DNS_PORT, RECEIVE_BUFFER, true).map_err(SpliceError::Sockets)?;
    let dns_tcp = GateListener::bind(DNS_PORT, BACKLOG).map_err(SpliceError::Sockets)?;
    let tcp = GateListener::bind_shared(0, BACKLOG).map_err(SpliceError::Sockets)?;
    let port = tcp.port().map_err(SpliceError::Sockets)?;
    let dropped = DropLog::open().map_err(SpliceError::Sockets)?;
    // Where the kernel has no tproxy, likely; if it has neither, the first is what to tell.
    nft(&rules(port)).or_else(|error| nft(&rules_by_nat(port)).map_err(|_| error))?;
    let listening = Listening {
        dns_udp: udp.into(),
        dns_tcp: dns_tcp.into_std().into(),
        tcp: tcp.into_std().into(),
        dropped,
    };
    Ok((sandbox, listening))
}

/// What a kernel says by itself of packets; so are its reports of neighbours and groups (130 to 136, 143 and
/// IGMP).
const ERRORS: &str = "destination-unreachable, time-exceeded, parameter-problem";

/// What is the command's gets the mark that it has by programs elsewhere; what is neither TCP nor a question
/// for a name is dropped and logged, unless the kernel says it by itself. Of a fragment it is the whole that is judged: the kernel puts it together first.
fn rules(port: u16) -> String {
    let to = |port: u16| format!("tproxy to :{port} ");
    table(&to(DNS_PORT), &to(port), "")
}

/// Where those addresses go to that the kernel translates: nobody's, and the gate's own as all are.
pub(crate) const NAT: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 1, 3)),
    IpAddr::V6(Ipv6Addr::new(0xfd6e, 0x6761, 0x7465, 0, 0, 0, 0, 3)),
];

/// The same without tproxy. Every address is the gate's own, so names come to those who listen at their port;
/// other ports are translated to the proxy's, who asks the kernel what was meant.
fn rules_by_nat(port: u16) -> String {
    let [v4, v6] = NAT;
    let chain = format!(
        "chain ports {{
             type nat hook prerouting priority dstnat;
             tcp dport {DNS_PORT} accept
             iifname {NODE_END} meta l4proto tcp dnat ip to {v4}:{port}
             iifname {NODE_END} meta l4proto tcp dnat ip6 to [{v6}]:{port}
           }}"
    );
    table("", "", &chain)
}

/// `to_names` and `to_others` say where to, `more` is further chains.
fn table(to_names: &str, to_others: &str, more: &str) -> String {
    let mark = Mark::new(Kind::Client, SPLICE_ENDPOINT).map_or(0, Mark::number);
    let log = format!("log group {LOG_GROUP} snaplen {LOGGED_OCTETS}");
    format!(
        "table inet namegate {{
           chain command {{
             type filter hook prerouting priority mangle; policy drop;
             iifname lo accept
             icmp type {{ {ERRORS} }} drop
             icmpv6 type {{ {ERRORS}, packet-too-big }} drop
             icmpv6 type {{ 130-136, 143 }} drop
             meta l4proto 2 drop
             ip saddr != {SANDBOX_V4} {log} drop
             ip6 saddr != {SANDBOX_V6} {log} drop
             tcp dport {DNS_PORT} meta mark set {mark:#x} {to_names}accept
             meta l4proto tcp meta mark set {mark:#x} {to_others}accept
             udp dport {DNS_PORT} meta mark set {mark:#x} {to_names}accept
             {log} drop
           }}
           chain others {{ type filter hook forward priority 0; policy drop; }}
           {more}
         }}\n"
    )
}

/// The number of the only endpoint there is.
pub const SPLICE_ENDPOINT: u32 = 1;

/// Where the program is that sets rules: a user's `PATH` often has no folder of the administrator's.
const NFT: [&str; 4] = [
    "/usr/sbin/nft",
    "/sbin/nft",
    "/usr/local/sbin/nft",
    "/usr/bin/nft",
];

fn nft(rules: &str) -> Result<(), SpliceError> {
    let program = NFT.into_iter().find(|path| Path::new(path).exists());
    let mut child = Command::new(program.unwrap_or("nft"))
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(SpliceError::NoNft)?;
    if let Some(mut input) = child.stdin.take() {
        // Where it has ended before it read them, it says why.
        let _ = input.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output().map_err(SpliceError::NoNft)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("it failed");
    Err(SpliceError::Nft(first.to_owned()))
}
