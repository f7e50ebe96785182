//! What scrapers get, over a real socket.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(clippy::disallowed_methods, reason = "sockets of the test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use observer::limits::SCRAPERS_MAX;
use observer::{MetricsForm, MetricsServer, Pages};

struct Stage {
    address: SocketAddr,
    refused: Arc<AtomicU64>,
    is_well: Arc<AtomicBool>,
    is_ready: Arc<AtomicBool>,
}

impl Stage {
    fn new(octets: usize) -> Self {
        let (refused, is_well) = (Arc::<AtomicU64>::default(), Arc::new(AtomicBool::new(true)));
        let is_ready = Arc::new(AtomicBool::new(true));
        let well = Arc::clone(&is_well);
        let pages = Pages {
            metrics: Box::new(move |form| match form {
                MetricsForm::Prometheus => format!("up 1\n{}", "# .\n".repeat(octets / 4)),
                MetricsForm::OpenMetrics => "up 1\n# EOF\n".to_owned(),
            }),
            fault: Box::new(move || {
                let is_well = well.load(Ordering::Relaxed);
                (!is_well).then(|| "the main thread is silent".to_owned())
            }),
            unready: Box::new({
                let ready = Arc::clone(&is_ready);
                move || (!ready.load(Ordering::Relaxed)).then(|| "one is refused".to_owned())
            }),
            refused: Arc::clone(&refused),
        };
        let server = MetricsServer::open("127.0.0.1:0".parse().unwrap(), pages).unwrap();
        let address = server.address();
        // One thread, as in the daemon.
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime
                .block_on(server.run(std::future::pending()))
                .unwrap();
        });
        Self {
            address,
            refused,
            is_well,
            is_ready,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }

    fn get(&self, path: &str) -> String {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

#[test]
fn metrics_health_and_nothing_else_are_served() {
    let stage = Stage::new(0);
    let text = stage.get("/metrics");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(
        text.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{text}"
    );
    assert!(text.ends_with("\r\n\r\nup 1\n"), "{text}");
    // As Prometheus asks.
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2";
    let text = stage.get(&format!("/metrics HTTP/1.1\r\naccept: {accept}\r\nx:"));
    assert!(
        text.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{text}"
    );
    assert!(text.ends_with("up 1\n# EOF\n"), "{text}");
    assert!(stage.get("/healthz").ends_with("ok\n"));
    assert!(stage.get("/readyz").ends_with("ok\n"));
    assert!(stage.get("/").starts_with("HTTP/1.1 404"));
    let mut stream = stage.connect();
    stream
        .write_all(b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 405"), "{text}");
    stage.is_ready.store(false, Ordering::Relaxed);
    assert!(stage.get("/healthz").ends_with("ok\n"));
    let text = stage.get("/readyz");
    assert!(
        text.starts_with("HTTP/1.1 503") && text.ends_with("refused\n"),
        "{text}"
    );
    stage.is_well.store(false, Ordering::Relaxed);
    assert!(stage.get("/readyz").ends_with("silent\n"));
    let text = stage.get("/healthz");
    assert!(
        text.starts_with("HTTP/1.1 503") && text.ends_with("silent\n"),
        "{text}"
    );
}

#[test]
fn scrapers_beyond_the_limit_are_turned_away_and_slow_ones_are_cut_off() {
    // More than a socket's buffers hold, so that who does not read holds up the answer.
    let stage = Stage::new(16 << 20);
    let begun = Instant::now();
    let slow: Vec<_> = (0..SCRAPERS_MAX)
        .map(|_| {
            let mut stream = stage.connect();
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
                .unwrap();
            stream
        })
        .collect();
    let mut text = String::new();
    stage.connect().read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 503"), "{text}");
    assert_eq!(stage.refused.load(Ordering::Relaxed), 1);
    // Their time ends, their places are free, and who asks quickly is served.
    while stage.refused.load(Ordering::Relaxed) < 1 + SCRAPERS_MAX as u64 {
        assert!(begun.elapsed() < Duration::from_secs(40), "never cut off");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(stage.get("/healthz").ends_with("ok\n"));
    drop(slow);
}
