//! Servers for tests: small ones of our own where thousands of names are wanted, knot where a real one
//! is.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use transport::NetNs;

use crate::{Authority, Issued};

/// Octets of what [`Running::nginx`] serves as `/big`.
pub const BIG_OCTETS: u64 = 64 << 20;

/// A process that ends with this value.
pub struct Running {
    child: Child,
    _dir: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Knot DNS as the authority for example.com and evil.test in a namespace, on every address, at ports 53 and 5353.
    ///
    /// # Errors
    /// If knotd isn't there or doesn't start.
    pub fn knot(ns: &NetNs, example: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let at = dir.path().display().to_string();
        let soa = "@ 60 IN SOA ns hostmaster 1 60 60 60 60\n@ 60 IN NS ns\nns 60 IN A 192.0.2.53\n";
        fs::write(
            dir.path().join("example.com.zone"),
            format!("$ORIGIN example.com.\n{soa}{example}"),
        )?;
        fs::write(
            dir.path().join("evil.test.zone"),
            format!("$ORIGIN evil.test.\n{soa}* 60 IN A 198.18.66.66\n"),
        )?;
        fs::write(
            dir.path().join("knot.conf"),
            format!(
                "server:\n  rundir: {at}\n  listen: [ 0.0.0.0@53, ::@53, 0.0.0.0@5353, ::@5353 ]\ndatabase:\n  storage: {at}\n\
                 template:\n  - id: default\n    storage: {at}\n    semantic-checks: off\n\
                 zone:\n  - domain: example.com\n    file: example.com.zone\n  - domain: evil.test\n    file: evil.test.zone\n"
            ),
        )?;
        let child = ns.run(|| {
            Command::new("knotd")
                .args(["-c", &format!("{at}/knot.conf")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("knotd")
        })??;
        Self { child, _dir: dir }.answering(ns, "knotd")
    }

    /// A program that answers for names, in a namespace, with its files in a folder of its own: `AT` in its
    /// words and files is that folder. It is there once it says that `ns.example.com` is 192.0.2.53.
    ///
    /// # Errors
    /// If it isn't there or doesn't start.
    pub fn name_server(ns: &NetNs, words: &[&str], conf: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let at = dir.path().display().to_string();
        fs::write(dir.path().join("conf"), conf.replace("AT", &at))?;
        let (program, words) = words.split_first().context("no program")?;
        let words = words.iter().map(|word| word.replace("AT", &at));
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = ns.run(|| command.spawn().context((*program).to_owned()))??;
        Self { child, _dir: dir }.answering(ns, program)
    }

    /// The same, once it answers.
    fn answering(self, ns: &NetNs, program: &str) -> Result<Self> {
        for _ in 0..200 {
            let asked = crate::in_ns(
                ns,
                Command::new("dig").args([
                    "+short",
                    "+tries=1",
                    "+time=1",
                    "@127.0.0.1",
                    "ns.example.com",
                ]),
            )?;
            if asked.stdout.starts_with(b"192.0.2.53") {
                return Ok(self);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("{program} doesn't answer")
    }

    /// nginx in a namespace, with HTTP on port 80 and 8080 of every address, HTTP/2 without TLS on 8082,
    /// and TLS on 443. It answers each request with a line: the client's address and port, the server's
    /// address, the host, the target.
    ///
    /// # Errors
    /// If nginx isn't there, or it doesn't start.
    pub fn nginx(ns: &NetNs) -> Result<Self> {
        Self::nginx_as(ns, &Authority::new("nobody")?.issue(&["test"])?)
    }

    /// The same with a certificate of its own.
    ///
    /// # Errors
    /// If nginx isn't there, or it doesn't start.
    pub fn nginx_as(ns: &NetNs, issued: &Issued) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let at = dir.path().display().to_string();
        let (key, certificate) = (format!("{at}/key"), format!("{at}/certificate"));
        fs::write(&key, &issued.key)?;
        fs::write(&certificate, &issued.certificate)?;
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|what| format!("{what}_temp_path {at}/{what}; "))
            .collect();
        let line = "$remote_addr $remote_port $server_addr $host $request_uri";
        fs::write(
            dir.path().join("nginx.conf"),
            format!(
                "daemon off; master_process off; pid {at}/pid; error_log {at}/errors;
                 events {{ worker_connections 4096; }}
                 http {{
                   {temporary} access_log {at}/access; client_max_body_size 1g; default_type text/plain;
                   server {{
                     listen 80; listen [::]:80; listen 8080; listen [::]:8080;
                     listen 8082 http2; listen [::]:8082 http2;
                     listen 443 ssl; listen [::]:443 ssl;
                     listen 8443 ssl http2; listen [::]:8443 ssl http2;
                     ssl_certificate {certificate}; ssl_certificate_key {key};
                     location / {{ return 200 \"{line}\\n\"; }}
                     location /big {{ root {at}; }}
                   }}
                 }}"
            ),
        )?;
        File::create(dir.path().join("big"))?.set_len(BIG_OCTETS)?;
        let child = ns.run(|| {
            Command::new("nginx")
                .args(["-p", &at, "-c", &format!("{at}/nginx.conf")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("nginx")
        })??;
        let running = Self { child, _dir: dir };
        for _ in 0..200 {
            let asked = crate::in_ns(ns, Command::new("curl").args(["-s", "http://127.0.0.1/"]))?;
            if asked.stdout.starts_with(b"127.0.0.1") {
                return Ok(running);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("nginx doesn't answer")
    }

    /// tcpdump in a namespace; its packets go to the file that is given back.
    ///
    /// # Errors
    /// If tcpdump isn't there or doesn't start.
    pub fn capture(ns: &NetNs, filter: &str) -> Result<(Self, std::path::PathBuf)> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("packets.pcap");
        let mut child = ns.run(|| {
            Command::new("tcpdump")
                .args([
                    "-i",
                    "any",
                    "-U",
                    "-n",
                    "--immediate-mode",
                    "-Z",
                    "root",
                    "-w",
                ])
                .arg(&file)
                .arg(filter)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .context("tcpdump")
        })??;
        // It says "listening on" once the socket is there.
        let mut said = [0; 256];
        let stderr = child.stderr.as_mut().context("no error output")?;
        let mut text = String::new();
        while !text.contains("listening on") {
            let count = stderr.read(&mut said)?;
            anyhow::ensure!(count > 0, "tcpdump ended: {text}");
            text.push_str(&String::from_utf8_lossy(said.get(..count).unwrap_or(&[])));
        }
        Ok((Self { child, _dir: dir }, file))
    }
}

/// Ends a thread that serves.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A server whose answers a function makes: none, one, or several to a datagram.
pub struct Answers {
    stop: Stop,
    /// Messages that arrived.
    pub asked: Arc<AtomicU64>,
}

impl Answers {
    /// Serves a UDP port of every address in a namespace.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn serve(
        ns: &NetNs,
        port: u16,
        answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
        let socket = ns.run(|| UdpSocket::bind(("::", port)))??;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (stop, asked) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&asked));
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                count.fetch_add(1, Ordering::Relaxed);
                for answer in answers(buffer.get(..len).unwrap_or(&[])) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self {
            stop: Stop(stop),
            asked,
        })
    }

    /// A DNS server that knows endless names, over UDP and TCP: `nI.example.com` is 198.18.0.0 + I.
    /// To a name that begins with `silent` it says nothing.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn names(ns: &NetNs, ttl_secs: u32) -> Result<Self> {
        Self::names_at(ns, 53, ttl_secs)
    }

    /// The same at another port.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn names_at(ns: &NetNs, port: u16, ttl_secs: u32) -> Result<Self> {
        Self::dns((ns, port), move |query| answer(query, ttl_secs))
    }

    /// The same; what it ever said ends within one second before `end`.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn names_until(ns: &NetNs, end: Instant) -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
        let left = move || end.saturating_duration_since(Instant::now()).as_secs();
        Self::dns((ns, 53), move |query| {
            answer(query, u32::try_from(left()).unwrap_or(0))
        })
    }

    /// The same for an hour; who asks it for a name with such a label is counted.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn names_but(ns: &NetNs, label: &'static [u8], count: Arc<AtomicU64>) -> Result<Self> {
        Self::dns((ns, 53), move |query| {
            if query.windows(label.len()).any(|part| part == label) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            answer(query, 3_600)
        })
    }

    fn dns(
        (ns, port): (&NetNs, u16),
        answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Clone + Send + 'static,
    ) -> Result<Self> {
        let over_tcp = answer.clone();
        let answers = Self::serve(ns, port, move |query| answer(query).into_iter().collect())?;
        let asked = Arc::clone(&answers.asked);
        accept(ns, port, Arc::clone(&answers.stop.0), move |stream| {
            while let Some(query) = read_frame(stream) {
                asked.fetch_add(1, Ordering::Relaxed);
                if let Some(answer) = over_tcp(&query) {
                    let len = u16::try_from(answer.len()).unwrap_or(0);
                    stream.write_all(&[&len.to_be_bytes()[..], &answer].concat())?;
                }
            }
            Ok(())
        })?;
        Ok(answers)
    }

    /// Sends every datagram back.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn echo(ns: &NetNs, port: u16) -> Result<Self> {
        Self::serve(ns, port, |bytes| vec![bytes.to_vec()])
    }
}

/// The address of `nI.example.com`.
fn address_of(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + index)
}

/// One A record for the question, an empty answer, or silence.
fn answer(query: &[u8], ttl_secs: u32) -> Option<Vec<u8>> {
    let label_len = usize::from(*query.get(12)?);
    let label = std::str::from_utf8(query.get(13..13 + label_len)?).ok()?;
    if label.starts_with("silent") {
        return None;
    }
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(*query.get(end)?);
    }
    let qtype = query.get(end + 1..end + 3)?;
    let question = query.get(12..end + 5)?;
    let index = label
        .strip_prefix('n')
        .and_then(|digits| digits.parse::<u32>().ok());
    let address = index.filter(|_| qtype == [0, 1]).map(address_of);
    let mut out = query.get(..2)?.to_vec();
    out.extend([0x84, 0, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    out.extend(question);
    if let Some(address) = address {
        out.extend([0xc0, 12, 0, 1, 0, 1]);
        out.extend(ttl_secs.to_be_bytes());
        out.extend([0, 4]);
        out.extend(address.octets());
    }
    Some(out)
}

/// One DNS message from a stream; `None` at its end.
pub fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// Serves each connection to a port of every address in a namespace on a thread of its own.
fn accept(
    ns: &NetNs,
    port: u16,
    stop: Arc<AtomicBool>,
    serve: impl Fn(&mut TcpStream) -> std::io::Result<()> + Clone + Send + 'static,
) -> Result<()> {
    #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
    let listener = ns.run(|| TcpListener::bind(("::", port)))??;
    listener.set_nonblocking(true)?;
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            };
            let serve = serve.clone();
            std::thread::spawn(move || {
                stream.set_nonblocking(false)?;
                serve(&mut stream)
            });
        }
    });
    Ok(())
}

/// Accepts connections and sends back what comes.
pub struct TcpEcho {
    _stop: Stop,
}

impl TcpEcho {
    /// Listens on a port of every address in a namespace.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn serve(ns: &NetNs, port: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        accept(ns, port, Arc::clone(&stop), |stream| {
            let mut back = stream.try_clone()?;
            std::io::copy(stream, &mut back).map(drop)
        })?;
        Ok(Self { _stop: Stop(stop) })
    }
}

/// Accepts connections and closes them.
pub struct TcpSink {
    _stop: Stop,
}

impl TcpSink {
    /// Listens on a port of every address in a namespace.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn serve(ns: &NetNs, port: u16) -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
        let listener = ns.run(|| TcpListener::bind(("::", port)))??;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        listener.set_nonblocking(true)?;
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => drop(stream.write_all(b"hello\n")),
                    Err(_) => std::thread::sleep(Duration::from_micros(200)),
                }
            }
        });
        Ok(Self { _stop: Stop(stop) })
    }
}
