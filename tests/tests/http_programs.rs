//! Programs of others through the gate, for a short while: none of them may see an error.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use namegate_tests::{Web, asked, observed, read_head};

#[test]
fn wrk_sees_no_error() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&asked(80, "{path: /public}")).unwrap();
    let target = format!("http://{}/public", web.world.v4);
    let args = ["-t", "2", "-c", "40", "-d", "3", &target];
    let text = web.alice.check("wrk", &args).unwrap();
    for word in ["Socket errors", "Non-2xx"] {
        assert!(!text.contains(word), "{text}");
    }
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in"));
    let requests: u64 = requests.unwrap().0.parse().unwrap();
    assert!(requests > 500, "{text}");
    let status = daemon.status().unwrap();
    let forwarded = status["http"]["http_requests_total"]["forwarded"].as_u64();
    assert!(forwarded.unwrap() >= requests, "{status:#}");
    assert!(status["http"]["http_requests_total"]["denied"].is_null());
}

#[test]
fn h2load_sees_no_error_and_all_of_its_denials() {
    let web = Web::new().unwrap();
    let _daemon = web.egress(&asked(80, "{path: /public}")).unwrap();
    for (path, answers) in [("/public", "2000 2xx"), ("/secret", "2000 4xx")] {
        // Of an IPv6 address it makes a Host without brackets, which is none.
        let target = format!("http://{}{path}", web.world.v4);
        let args = ["--h1", "-n", "2000", "-c", "20", "-t", "1", &target];
        let text = web.alice.check("h2load", &args).unwrap();
        let counts = "2000 total, 2000 started, 2000 done, ";
        assert!(
            text.contains(counts) && text.contains(" 0 errored, 0 timeout"),
            "{text}"
        );
        assert!(text.contains(answers), "{text}");
    }
}

/// Debian's, which has the package; another one may come before it.
const PYTHON: &str = "/usr/bin/python3";

const SERVER: &str = "
import asyncio, websockets
async def echo(socket, path=None):
    async for message in socket:
        await socket.send(message)
async def main():
    async with websockets.serve(echo, '203.0.113.2', 9000, max_size=None):
        print('ready', flush=True)
        await asyncio.Future()
asyncio.run(main())
";

const CLIENT: &str = "
import asyncio, websockets
async def main():
    async with websockets.connect('ws://203.0.113.2:9000/ws', max_size=None) as socket:
        for message in ['hello', b'\\x00\\xff', 'x' * 300_000, b'y' * 3_000_000]:
            await socket.send(message)
            assert await socket.recv() == message
        await (await socket.ping())
    try:
        async with websockets.connect('ws://203.0.113.2:9000/other'):
            print('open')
    except Exception as error:
        print('echoed', '403' in str(error))
asyncio.run(main())
";

#[test]
fn a_websocket_echoes_where_its_request_is_allowed() {
    let web = Web::new().unwrap();
    let rules = asked(9_000, "{method: GET, path: /ws}");
    let daemon = web.egress(&rules).unwrap();
    let spawn = || {
        Command::new(PYTHON)
            .args(["-c", SERVER])
            .stdout(Stdio::piped())
            .spawn()
    };
    let mut server = web.world.ns.run(spawn).unwrap().unwrap();
    let mut ready = [0; 5];
    server
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    let output = web.alice.output(PYTHON, &["-c", CLIENT]);
    server.kill().unwrap();
    server.wait().unwrap();
    let output = output.unwrap();
    assert_eq!(output.stdout, b"echoed True\n", "{output:?}");
    // The end of a tunnel is no message of HTTP.
    let told = observed(&daemon, &["-o", "json"]).unwrap();
    let ends: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("tunnel-closed"))
        .collect();
    assert_eq!(ends.len(), 1, "one end of the one tunnel: {told}");
    let moved = ends[0]
        .split("octets up")
        .next()
        .unwrap()
        .rsplit('"')
        .next()
        .unwrap();
    let up: u64 = moved.trim().parse().unwrap();
    // The programs agree to compress.
    assert!(up > 3_000, "{}", ends[0]);
}

/// In each of the two long bodies.
const OCTETS: u64 = 1 << 30;

/// One port gives them, one takes them.
fn serve_octets(web: &Web) {
    web.serve(9_000, |stream| {
        read_head(stream);
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {OCTETS}\r\n\r\n"
        );
        let piece = vec![7; 1 << 20];
        for _ in 0..OCTETS >> 20 {
            if stream.write_all(&piece).is_err() {
                return;
            }
        }
    })
    .unwrap();
    web.serve(9_001, |stream| {
        read_head(stream);
        let (mut got, mut room) = (0, vec![0; 1 << 20]);
        while got < OCTETS {
            match stream.read(&mut room) {
                Ok(count @ 1..) => got += count as u64,
                _ => return,
            }
        }
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Got: {got}\r\n\r\n"
        );
    })
    .unwrap();
}

/// A gigabyte each way, while the daemon stays as large as it is.
#[test]
fn a_body_of_any_length_passes_in_constant_memory() {
    let web = Web::new().unwrap();
    let rules = format!("{}, {}", asked(9_000, "{}"), asked(9_001, "{method: PUT}"));
    let daemon = web.egress(&rules).unwrap();
    serve_octets(&web);
    let status = format!("/proc/{}/status", daemon.pid());
    let peak = || {
        let text = std::fs::read_to_string(&status).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let before = peak();
    let mut stream = web.connect(9_000).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    read_head(&mut stream);
    let (mut got, mut room) = (0, vec![0; 1 << 20]);
    while got < OCTETS {
        let count = stream.read(&mut room).unwrap();
        assert!(
            count > 0 && room[..count].iter().all(|octet| *octet == 7),
            "at {got}"
        );
        got += count as u64;
    }
    let mut stream = web.connect(9_001).unwrap();
    write!(
        stream,
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {OCTETS}\r\n\r\n"
    )
    .unwrap();
    for _ in 0..OCTETS >> 20 {
        stream.write_all(&room).unwrap();
    }
    assert!(read_head(&mut stream).contains(&format!("X-Got: {OCTETS}")));
    let grown = peak() - before;
    assert!(grown < 4 << 10, "{grown} KiB more");
}
