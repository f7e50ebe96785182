//! A client and two web servers: what the tests of HTTP and TLS need.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
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

    /// The same with options of `run`.
    ///
    /// # Errors
    /// If it doesn't start.
    pub fn egress_with(&self, rules: &str, options: &[&str]) -> Result<Daemon<'_>> {
        let mut daemon = Daemon::prepare(&self.node)?;
        daemon.endpoint(&self.alice)?;
        daemon.policy("alice.yaml", &about_alice(rules))?;
        daemon.start(options)?;
        Ok(daemon)
    }

    /// A connection of alice's to a port of the world's.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn connect(&self, port: u16) -> Result<TcpStream> {
        let to = SocketAddr::new(self.world.v4.into(), port);
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(2));
        let stream = self.alice.ns.run(connect)??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(stream)
    }

    /// Serves connections to a port of the world's, on threads that end with the test's process.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn serve(
        &self,
        port: u16,
        serve: impl Fn(&mut TcpStream) + Clone + Send + 'static,
    ) -> Result<()> {
        #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
        let listener = self.world.ns.run(|| TcpListener::bind(("::", port)))??;
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let serve = serve.clone();
                std::thread::spawn(move || serve(&mut stream));
            }
        });
        Ok(())
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

/// Whoever it is, on a port, by these HTTP rules.
#[must_use]
pub fn asked(port: u16, rules: &str) -> String {
    format!(
        "{{toPorts: [{{ports: [{{port: '{port}', protocol: TCP}}], rules: {{http: [{rules}]}}}}]}}"
    )
}

/// Reads to the end of a head, or of what there is.
pub fn read_head(stream: &mut TcpStream) -> String {
    let (mut head, mut octet) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut octet).unwrap_or(0) == 1 {
        head.extend(octet);
    }
    String::from_utf8_lossy(&head).into_owned()
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
