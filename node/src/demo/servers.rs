//! The servers of the story: one that knows the names, and web servers that know each other.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use policy::L4Protocol;
use transport::NetNs;

use super::client;
use super::stage::PODS;
use dnsproxy::{Frames, gate_query, write_frame};

/// The servers; their threads end with the process.
pub(super) struct Servers;

/// Where the web servers of the pods listen.
pub(super) const WEB_PORT: u16 = 9080;
/// How long `ifconfig.me` may be kept: seconds, so that its end can be watched.
pub(super) const IFCONFIG_TTL: u32 = 3;
const CNN_TTL: u32 = 30;
const CLUSTER_TTL: u32 = 30;

/// Starts all of them.
pub(super) fn start(internet: &NetNs, ns_of: impl Fn(&str) -> Option<NetNs>) -> Result<Servers> {
    let coredns = ns_of("coredns").context("coredns")?;
    serve_names(&coredns)?;
    serve_web(internet, 80, |_| {
        Page::Text("hello from the Internet\n".to_owned())
    })?;
    for pod in &PODS {
        let Some(ns) = ns_of(pod.name) else { continue };
        let service = pod.name.split('-').next().unwrap_or(pod.name);
        match service {
            "productpage" => serve_web(&ns, WEB_PORT, |_| Page::Text(client::product_page()))?,
            "details" | "ratings" => serve_web(&ns, WEB_PORT, |_| Page::Text("ok\n".to_owned()))?,
            "reviews" => serve_web(&ns, WEB_PORT, |_| Page::Text(client::review()))?,
            _ => {}
        }
    }
    Ok(Servers)
}

/// The addresses of a name, and their TTL; `None`: there is no such name.
fn look_up(name: &str) -> Option<(Vec<IpAddr>, u32)> {
    let v6 = |last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    match name {
        "ifconfig.me." => Some((
            vec![
                v4(198, 51, 100, 44),
                v4(198, 51, 100, 45),
                v6(0x44),
                v6(0x45),
            ],
            IFCONFIG_TTL,
        )),
        "cnn.com." => Some((
            vec![v4(203, 0, 113, 80), v4(203, 0, 113, 81), v6(0x80), v6(0x81)],
            CNN_TTL,
        )),
        _ => {
            let service = name.strip_suffix(".default.svc.cluster.local.")?;
            let pods = PODS
                .iter()
                .filter(|pod| pod.name.starts_with(&format!("{service}-v")));
            let addresses: Vec<IpAddr> = pods.map(|pod| IpAddr::V4(pod.v4())).collect();
            (!addresses.is_empty()).then_some((addresses, CLUSTER_TTL))
        }
    }
}

/// The answer to a query; `None` for what is no query.
fn answer(query: &[u8], protocol: L4Protocol) -> Option<Vec<u8>> {
    const A: u16 = 1;
    const AAAA: u16 = 28;
    let query = gate_query(query, protocol).ok()?;
    let known = look_up(&query.question.name.to_string());
    let (addresses, ttl) = known.clone().unwrap_or_default();
    let wanted: Vec<IpAddr> = addresses
        .into_iter()
        .filter(|ip| {
            (query.question.qtype == A && ip.is_ipv4())
                || (query.question.qtype == AAAA && ip.is_ipv6())
        })
        .collect();
    let rcode: u8 = if known.is_some() { 0 } else { 3 };
    let mut out = query.message.id.to_be_bytes().to_vec();
    // An answer with authority, and the number of its records.
    out.extend([
        0x84,
        rcode,
        0,
        1,
        0,
        u8::try_from(wanted.len()).ok()?,
        0,
        0,
        0,
        0,
    ]);
    out.extend(query.message.bytes.get(12..query.message.question_end)?);
    for ip in wanted {
        // The owner is the question's name.
        out.extend([0xc0, 12]);
        out.extend(query.question.qtype.to_be_bytes());
        out.extend([0, 1]);
        out.extend(ttl.to_be_bytes());
        match ip {
            IpAddr::V4(v4) => {
                out.extend([0, 4]);
                out.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                out.extend([0, 16]);
                out.extend(v6.octets());
            }
        }
    }
    Some(out)
}

fn serve_names(ns: &NetNs) -> Result<()> {
    #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
    let (udp, tcp) = ns.run(|| {
        Ok::<_, std::io::Error>((UdpSocket::bind("[::]:53")?, TcpListener::bind("[::]:53")?))
    })??;
    std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((len, from)) = udp.recv_from(&mut buffer) {
            if let Some(answer) = buffer
                .get(..len)
                .and_then(|query| answer(query, L4Protocol::Udp))
            {
                let _ = udp.send_to(&answer, from);
            }
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            std::thread::spawn(move || drop(serve_frames(stream)));
        }
    });
    Ok(())
}

fn serve_frames(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut frames = Frames::default();
    let mut buffer = [0; 2_048];
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        frames
            .push(buffer.get(..len).unwrap_or(&[]))
            .map_err(std::io::Error::other)?;
        while let Some(query) = frames.next_message().map_err(std::io::Error::other)? {
            let mut out = Vec::new();
            if answer(query, L4Protocol::Tcp).is_some_and(|answer| write_frame(&answer, &mut out)) {
                stream.write_all(&out)?;
            }
        }
    }
}

/// What a web server says.
enum Page {
    Text(String),
}

/// Answers requests, one after the other on a connection, for as long as the client likes.
fn serve_web(
    ns: &NetNs,
    port: u16,
    page: impl Fn(&str) -> Page + Clone + Send + 'static,
) -> Result<()> {
    #[expect(clippy::disallowed_methods, reason = "a server outside of the gate")]
    let listener = ns.run(|| TcpListener::bind(("::", port)))??;
    let ns = ns.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (page, ns) = (page.clone(), ns.clone());
            std::thread::spawn(move || {
                // What the page needs from others is asked from the pod's own namespace.
                if ns.enter().is_ok() {
                    let _ = serve_requests(&stream, page);
                }
            });
        }
    });
    Ok(())
}

fn serve_requests(mut stream: &TcpStream, page: impl Fn(&str) -> Page) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.by_ref().take(4_096).read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.by_ref().take(4_096).read_line(&mut header)? > 2 {
            header.clear();
        }
        let Page::Text(text) = page(&request);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(text.as_bytes())?;
    }
}
