//! Metrics and health by HTTP, for Prometheus and for probes.
//!
//! A scraper gets what there is at once, or is turned away. One that reads slowly, or asks slowly, is cut off
//! after [`SCRAPE_MAX`]; it holds a place among a few meanwhile, and nothing else.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::limits::SCRAPERS_MAX;
use crate::serve::ServeError;

/// How long a scrape may take, from the connection to the last octet.
const SCRAPE_MAX: Duration = Duration::from_secs(10);

/// Octets of a request's head; more are refused.
const HEAD_OCTETS_MAX: usize = 16 * 1024;

/// The forms that metrics can be read in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricsForm {
    /// Prometheus' own text, 0.0.4.
    Prometheus,
    /// OpenMetrics' text, which alone has exemplars.
    OpenMetrics,
}

impl MetricsForm {
    /// What a scraper takes: OpenMetrics if it says so.
    fn wanted(request: &Request<Incoming>) -> Self {
        let accepted = request.headers().get_all(ACCEPT).iter();
        let mut accepted = accepted.filter_map(|value| value.to_str().ok());
        let is_open = |text: &str| text.contains("application/openmetrics-text");
        match accepted.any(is_open) {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What is served.
pub struct Pages {
    /// All metrics as text.
    pub metrics: Box<dyn Fn(MetricsForm) -> String + Send + Sync>,
    /// Why it is not well; none if it is.
    pub fault: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// Why it is not ready, though it may be well; none if it is.
    pub unready: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// Scrapers that were turned away or cut off.
    pub refused: Arc<AtomicU64>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

/// A socket that scrapers come to.
#[derive(Debug)]
pub struct MetricsServer {
    listener: std::net::TcpListener,
    address: SocketAddr,
    pages: Arc<Pages>,
}

impl MetricsServer {
    /// Opens the socket.
    ///
    /// # Errors
    /// If it can't be made.
    #[expect(
        clippy::disallowed_methods,
        reason = "a socket of the node's own, where scrapers look for it"
    )]
    pub fn open(address: SocketAddr, pages: Pages) -> Result<Self, ServeError> {
        let failed = |error| ServeError::Listen {
            place: address.to_string(),
            error,
        };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            address: listener.local_addr().map_err(failed)?,
            listener,
            pages: Arc::new(pages),
        })
    }

    /// Where it is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// If the socket can't be used.
    pub async fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        tokio::select! {
            () = accept(&listener, &self.pages) => Ok(()),
            () = stop => Ok(()),
        }
    }
}

async fn accept(listener: &TcpListener, pages: &Arc<Pages>) {
    /// How long no connection is taken where the process has no descriptor left.
    const REST: Duration = Duration::from_millis(100);
    let open = Arc::<AtomicUsize>::default();
    loop {
        match listener.accept().await {
            Ok((socket, _)) => admit(socket, pages, &open),
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
}

/// Serves a scraper in a task of its own; one over the limit is turned away.
fn admit(socket: TcpStream, pages: &Arc<Pages>, open: &Arc<AtomicUsize>) {
    const BUSY: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let place = Place::take(open);
    if place.is_none() {
        pages.refused.fetch_add(1, Ordering::Relaxed);
        // It fits into the empty buffer; whoever is gone needs no answer.
        let _ = socket.try_write(BUSY);
        return;
    }
    let pages = Arc::clone(pages);
    tokio::spawn(async move {
        let answering = |request| {
            let answer = answer(&pages, &request);
            std::future::ready(Ok::<_, Infallible>(answer))
        };
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .max_buf_size(HEAD_OCTETS_MAX)
            .serve_connection(TokioIo::new(socket), service_fn(answering));
        if tokio::time::timeout(SCRAPE_MAX, served).await.is_err() {
            pages.refused.fetch_add(1, Ordering::Relaxed);
        }
        drop(place);
    });
}

/// A scraper's place among [`SCRAPERS_MAX`]; free again when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(open));
        let before = open.fetch_add(1, Ordering::Relaxed);
        (before < SCRAPERS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn answer(pages: &Pages, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        let allow = HeaderValue::from_static("GET, HEAD");
        answer.headers_mut().insert(ALLOW, allow);
        return answer;
    }
    match request.uri().path() {
        "/metrics" => {
            let form = MetricsForm::wanted(request);
            let mut answer = text(StatusCode::OK, (pages.metrics)(form));
            let form = HeaderValue::from_static(form.content_type());
            answer.headers_mut().insert(CONTENT_TYPE, form);
            answer
        }
        "/healthz" => well((pages.fault)()),
        "/readyz" => well((pages.fault)().or_else(|| (pages.unready)())),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /healthz and /readyz\n".to_owned(),
        ),
    }
}

fn well(fault: Option<String>) -> Response<Full<Bytes>> {
    match fault {
        None => text(StatusCode::OK, "ok\n".to_owned()),
        Some(fault) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{fault}\n")),
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    let form = HeaderValue::from_static(MetricsForm::Prometheus.content_type());
    answer.headers_mut().insert(CONTENT_TYPE, form);
    answer
}
