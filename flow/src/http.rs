//! An HTTP request or response as an event tells it.

use std::sync::Arc;

use crate::message::MessageKind;

/// An HTTP message that a proxy saw. A response repeats the method and the URL of its request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Http {
    /// Request or response.
    pub kind: MessageKind,
    /// From the request to its response; 0 for requests.
    pub latency_ns: u64,
    /// The status; 0 for requests.
    pub code: u32,
    /// The method, as sent.
    pub method: Arc<str>,
    /// Scheme, authority, path and query.
    pub url: Arc<str>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: Arc<str>,
    /// Sorted by name, one for each value.
    pub headers: Vec<HttpHeader>,
}

/// One line of a head.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HttpHeader {
    /// Its name.
    pub key: Arc<str>,
    /// Its value.
    pub value: Arc<str>,
}
