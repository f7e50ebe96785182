//! A client and two web servers: what the tests of HTTP and TLS need.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;

use crate::{Authority, Daemon, Issued, Node, Running, Workload};

/// Alice asks; nginx answers at bob's, on the same bridge, and elsewhere.
pub struct Web {
    /// The node.
    pub node: Node,
    /// Who asks.
    pub alice: Workload,
    /// Who is asked on this node.
    pub bob: Workload,
    /// Who is asked elsewhere.
    pub world: Workload,
    _nginx: [Running; 2],
}

impl Web {
    /// Builds it.
    ///
    /// # Errors
    /// Without root, or if a program is missing.
    pub fn new() -> Result<Self> {
        Self::serving(&Authority::new("nobody")?.issue(&["test"])?)
    }

    /// The same, with a certificate of the web servers'.
    ///
    /// # Errors
    /// Without root, or if a program is missing.
    pub fn serving(issued: &Issued) -> Result<Self> {
        let node = Node::new()?;
        let (alice, bob) = (node.workload("alice", 2)?, node.workload("bob", 3)?);
        let world = node.elsewhere()?;
        Ok(Self {
            _nginx: [
                Running::nginx_as(&bob.ns, issued)?,
                Running::nginx_as(&world.ns, issued)?,
            ],
            node,
            alice,
            bob,
            world,
        })
    }

    /// A daemon that guards alice and bob, with these policy files.
    ///
    /// # Errors
    /// If it doesn't start.
    pub fn daemon(&self, policies: &[(&str, String)]) -> Result<Daemon<'_>> {
        let mut daemon = Daemon::prepare(&self.node)?;
        daemon.endpoint(&self.alice)?;
        daemon.endpoint(&self.bob)?;
        for (file, text) in policies {
            daemon.policy(file, text)?;
        }
        daemon.start(&[])?;
        Ok(daemon)
    }

    /// A daemon with these egress rules of alice's, in `alice.yaml`.
    ///
    /// # Errors
    /// If it doesn't start.
    pub fn egress(&self, rules: &str) -> Result<Daemon<'_>> {
        self.daemon(&[("alice.yaml", about_alice(rules))])
    }

    /// What alice hears until its end when she says this to a port of the world's, the second part a
    /// moment after the first.
    ///
    /// # Errors
    /// As the connection fails; that of the second part is no failure, if there is something to hear.
    pub fn say(&self, port: u16, (first, then): (&[u8], &[u8])) -> std::io::Result<Vec<u8>> {
        let to = SocketAddr::new(self.world.v4.into(), port);
        let talk = || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.write_all(first)?;
            if !then.is_empty() {
                std::thread::sleep(Duration::from_millis(20));
                let _ = stream.write_all(then);
            }
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard)?;
            Ok(heard)
        };
        self.alice.ns.run(talk)?
    }
}

/// A policy about one workload.
#[must_use]
pub fn about(who: &str, spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {who}}}\n\
         spec: {{endpointSelector: {{matchLabels: {{app: {who}}}}}, {spec}}}\n"
    )
}

/// A policy about alice, with these egress rules.
#[must_use]
pub fn about_alice(egress: &str) -> String {
    about("alice", &format!("egress: [{egress}]"))
}

/// What `observe` shows with these flags.
///
/// # Errors
/// If it can't be run.
pub fn observed(daemon: &Daemon<'_>, flags: &[&str]) -> Result<String> {
    // What was told last is a flow a moment later.
    std::thread::sleep(Duration::from_millis(300));
    let socket = daemon.path("namegate.sock").display().to_string();
    let args = [&["observe", "--socket", &socket], flags].concat();
    Ok(String::from_utf8(daemon.namegate(&args)?.stdout)?)
}
