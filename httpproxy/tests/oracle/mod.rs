//! hyper as the oracle for requests: what we take, it takes too, and reads the same.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use httpproxy::fuzzing::{ReadRequest, read_request};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::Service;
use hyper::{Request, Response};

/// A request that we take: hyper takes it, with the same method, target and fields.
///
/// # Panics
/// If it does not.
pub(crate) fn check(bytes: &[u8]) -> bool {
    let Some(ours) = read_request(bytes) else {
        return false;
    };
    let said = || String::from_utf8_lossy(bytes).into_owned();
    let Some(theirs) = theirs(&bytes[..ours.octets]) else {
        assert!(is_allowed_difference(&ours), "hyper refuses {}", said());
        return true;
    };
    assert_eq!(theirs.method().as_str(), ours.method, "{}", said());
    assert!(
        is_same_target(&ours, &theirs),
        "{:?}: {}",
        theirs.uri(),
        said()
    );
    assert_eq!(theirs.headers().len(), ours.fields.len(), "{}", said());
    // hyper pulls lines of the same name together; their order among each other is kept.
    for name in theirs.headers().keys() {
        let lines = theirs.headers().get_all(name);
        let lines: Vec<&[u8]> = lines.iter().map(|value| value.as_bytes()).collect();
        let of_name = |(other, value): &'_ (String, Vec<u8>)| {
            let is_it = other.eq_ignore_ascii_case(name.as_str());
            is_it.then(|| value.clone())
        };
        let own: Vec<Vec<u8>> = ours.fields.iter().filter_map(of_name).collect();
        assert_eq!(lines, own, "{name}: {}", said());
    }
    true
}

/// What hyper's type for targets can't hold. RFC 3986 has no such octets either, but clients send them
/// and servers take them; in a path they go upstream escaped.
fn is_allowed_difference(ours: &ReadRequest) -> bool {
    ours.target.contains(['<', '>', '"', '`'])
}

/// hyper's type keeps of an absolute target no empty path, and of an authority no case.
fn is_same_target(ours: &ReadRequest, theirs: &Request<Incoming>) -> bool {
    let uri = theirs.uri();
    let (ours, theirs) = (ours.target.as_str(), uri.to_string());
    if let Some((_, rest)) = ours.split_once("://").filter(|_| !ours.starts_with('/')) {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = match path {
            "" => "/".to_owned(),
            path if path.starts_with('?') => format!("/{path}"),
            path => path.to_owned(),
        };
        let of_theirs = uri.path_and_query().map_or("", |path| path.as_str());
        // Of `http://h?q` hyper says `?q` or `/?q`.
        let is_same_path = of_theirs == path || format!("/{of_theirs}") == path;
        return uri
            .authority()
            .is_some_and(|other| other.as_str() == authority)
            && is_same_path;
    }
    ours == theirs
}

/// The request as hyper hands it on, if it does.
fn theirs(bytes: &[u8]) -> Option<Request<Incoming>> {
    let seen = Rc::new(RefCell::new(None));
    let client = Client { bytes };
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(client, Keep(Rc::clone(&seen)));
    let mut connection = pin!(connection);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..8 {
        if connection.as_mut().poll(&mut context).is_ready() || seen.borrow().is_some() {
            break;
        }
    }
    seen.take()
}

/// A service that keeps the request.
struct Keep(Rc<RefCell<Option<Request<Incoming>>>>);

impl Service<Request<Incoming>> for Keep {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.0.replace(Some(request));
        ready(Ok(Response::new(String::new())))
    }
}

/// A client that says this and listens to nothing.
struct Client<'b> {
    bytes: &'b [u8],
}

impl Read for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut room: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Poll::Pending;
        }
        let (now, rest) = self.bytes.split_at(self.bytes.len().min(room.remaining()));
        room.put_slice(now);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

impl Write for Client<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
