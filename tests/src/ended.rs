//! What tests of TLS that is ended at the gate need: authorities, secrets, and clients in TLS.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::{Authority, Daemon, Web, Workload};

/// The end of a client's TLS, by the secret that [`Trust`] makes.
pub const ENDED: &str = "terminatingTLS: {secret: {namespace: web, name: own}}";
/// The beginning of TLS to the server.
pub const BEGUN: &str = "originatingTLS: {secret: {namespace: web, name: roots}}";
/// What may be asked for.
pub const PUBLIC: &str = "rules: {http: [{path: '/public.*'}]}";

/// Both authorities, and the files with their certificates: `gate` and `servers`.
pub struct Trust {
    /// Issues the gate's certificates: clients trust it.
    pub gate: Authority,
    /// Issues the servers'.
    pub servers: Authority,
    dir: tempfile::TempDir,
}

impl Trust {
    /// New ones.
    ///
    /// # Errors
    /// If there is no randomness, or no room for files.
    pub fn new() -> Result<Self> {
        let one = Self {
            gate: Authority::new("gate")?,
            servers: Authority::new("servers")?,
            dir: tempfile::tempdir()?,
        };
        fs::write(one.file("gate"), one.gate.pem())?;
        fs::write(one.file("servers"), one.servers.pem())?;
        Ok(one)
    }

    /// A file of its folder.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Web servers with these names.
    ///
    /// # Errors
    /// As [`Web::serving`].
    pub fn web(&self, names: &[&str]) -> Result<Web> {
        Web::serving(&self.servers.issue(names)?)
    }

    /// Gives the gate a certificate of a server with these names; gives it back as PEM.
    ///
    /// # Errors
    /// If the files can't be written.
    pub fn own(&self, daemon: &Daemon<'_>, names: &[&str]) -> Result<String> {
        let issued = self.gate.issue(names)?;
        daemon.secret("web/own", "tls.crt", &issued.certificate)?;
        daemon.secret("web/own", "tls.key", &issued.key)?;
        Ok(issued.certificate)
    }

    /// A daemon with these policies, whose gate has a certificate of these names.
    ///
    /// # Errors
    /// If it doesn't start.
    pub fn daemon<'a>(
        &self,
        web: &'a Web,
        names: &[&str],
        policies: &[(&str, String)],
    ) -> Result<Daemon<'a>> {
        let mut daemon = self.prepare(web, names, policies)?;
        let secrets = secrets(&daemon);
        daemon.start(&["--tls-secrets", &secrets])?;
        Ok(daemon)
    }

    /// The same, not started.
    ///
    /// # Errors
    /// If its files can't be written.
    pub fn prepare<'a>(
        &self,
        web: &'a Web,
        names: &[&str],
        policies: &[(&str, String)],
    ) -> Result<Daemon<'a>> {
        let daemon = Daemon::prepare(&web.node)?;
        daemon.endpoint(&web.alice)?;
        daemon.endpoint(&web.bob)?;
        for (file, text) in policies {
            daemon.policy(file, text)?;
        }
        self.own(&daemon, names)?;
        daemon.secret("web/roots", "ca.crt", self.servers.pem())?;
        Ok(daemon)
    }
}

/// The folder of a daemon's secrets, for `--tls-secrets`.
#[must_use]
pub fn secrets(daemon: &Daemon<'_>) -> String {
    daemon.path("secrets").display().to_string()
}

/// Whoever it is, on this port.
#[must_use]
pub fn to(port: u16, parts: &[&str]) -> String {
    let parts = parts.join(", ");
    format!("{{toPorts: [{{ports: [{{port: '{port}', protocol: TCP}}], {parts}}}]}}")
}

/// What curl says: its exit code, what it got, with marks for [`statuses`], and what it complains of.
///
/// # Errors
/// If it can't be run.
pub fn curl(from: &Workload, args: &[&str]) -> Result<(i32, String, String)> {
    let marks = "<%{http_code} %{http_version}>";
    let all = [&["-sS", "-m", "8", "-w", marks], args].concat();
    let output = from.output("curl", &all)?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    Ok((
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    ))
}

/// The status of each answer that [`curl`] got, and its version of HTTP.
#[must_use]
pub fn statuses(text: &str) -> Vec<&str> {
    let parts = text.split('<').skip(1);
    parts
        .filter_map(|part| Some(part.split_once('>')?.0))
        .collect()
}

/// Asks the server at an address for paths of a name, over one connection, trusting these.
///
/// # Errors
/// If curl can't be run.
pub fn ask(
    from: &Workload,
    ca: &str,
    (name, server): (&str, IpAddr),
    paths: &[&str],
) -> Result<(i32, String, String)> {
    ask_with(from, &["--cacert", ca], (name, (server, 443).into()), paths)
}

/// The same on any port, with these options.
///
/// # Errors
/// If curl can't be run.
pub fn ask_with(
    from: &Workload,
    options: &[&str],
    (name, server): (&str, SocketAddr),
    paths: &[&str],
) -> Result<(i32, String, String)> {
    let port = server.port();
    let resolve = match server.ip() {
        IpAddr::V4(v4) => format!("{name}:{port}:{v4}"),
        IpAddr::V6(v6) => format!("{name}:{port}:[{v6}]"),
    };
    let urls = paths.iter();
    let urls: Vec<String> = urls
        .map(|path| format!("https://{name}:{port}{path}"))
        .collect();
    let mut args = options.to_vec();
    args.extend(["--resolve", &resolve]);
    args.extend(urls.iter().map(String::as_str));
    curl(from, &args)
}

/// How many connections were refused for this reason.
///
/// # Errors
/// If the daemon doesn't answer.
pub fn refused(daemon: &Daemon<'_>, word: &str) -> Result<u64> {
    let status = daemon.status()?;
    let count = &status["http"]["http_refused_total"][word];
    Ok(count.as_u64().unwrap_or(0))
}
