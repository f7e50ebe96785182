//! One stream: a request before the policy, and what comes of it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::ALT_SVC;
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};

use super::Shared;
use super::pump::{Broken, Pump};
use crate::Host;
use crate::core::answer::Shape;
use crate::core::framing::BadBody;
use crate::core::h2::{Asked, Permitted, Sought, answer, ask, shape, told_headers};
use crate::core::head::refusal::BadHead;
use crate::core::record::{By, End, EndRecord, Protocol, RequestRecord, ResponseRecord, Told, Why};
use crate::core::step::{AltSvc, Settings};
use crate::io::http1::Trusted;
use crate::io::tally::Count;
use crate::limits::INTERIM_RESPONSES_MAX;

/// A stream of the client's that brought a request.
pub(super) struct Exchange<H: Host> {
    pub(super) shared: Arc<Shared<H>>,
    pub(super) body: RecvStream,
    pub(super) respond: SendResponse<Bytes>,
}

/// A request that went upstream.
struct Running<H: Host> {
    shared: Arc<Shared<H>>,
    record: Arc<RequestRecord>,
    shape: Shape,
    sought: Sought,
    respond: SendResponse<Bytes>,
    response: Option<ResponseFuture>,
    interim: u32,
    up: Pump,
    down: Option<Pump>,
}

/// How an exchange came to its end.
enum Outcome {
    Done,
    /// The client's stream is no more.
    ClientGone(Reason),
    /// What the client sent is no body.
    BadBody(BadBody),
    /// There is no response: the client is answered by us.
    Failed(u16, Why),
    /// The server's stream is no more.
    ServerGone(Reason),
    Idle,
    Revoked,
}

impl<H: Host> Exchange<H> {
    /// Judges the request, forwards it, and moves what follows.
    pub(super) async fn run(self, parts: Parts, sender: SendRequest<Bytes>) {
        let stream = self.respond.stream_id().as_u32();
        let shared = Arc::clone(&self.shared);
        self.judged(parts, sender, stream).await;
        shared.client_frames.lock().forget(stream);
    }

    async fn judged(mut self, parts: Parts, sender: SendRequest<Bytes>, stream: u32) {
        let asked = {
            let Shared { proxy, origin, .. } = &*self.shared;
            let access = self.shared.access();
            let flaws = self.shared.client_frames.lock().flaws_of(stream);
            let given = (&*proxy.settings, origin);
            ask(&parts, given, (&*access, proxy.host.now()), flaws)
        };
        let shape = shape(&parts);
        match asked {
            Asked::Malformed(record, BadHead::ManyLengths | BadHead::Http2) => {
                // Malformed as a message (RFC 9113 §8.1.1), not only as a request.
                self.shared.tell_request(record);
                self.shared.client_frames.lock().is_told();
                self.respond.send_reset(Reason::PROTOCOL_ERROR);
            }
            Asked::Malformed(record, bad) => {
                let record = self.shared.tell_request(record);
                self.answer(&record, (bad.status(), Why::Malformed), Shape::Whole);
            }
            Asked::Denied(record, denied) => {
                let record = self.shared.tell_request(record);
                self.answer(&record, Why::of(denied), shape);
            }
            Asked::Allowed(permitted, record) => {
                let record = self.shared.tell_request(record);
                self.forward((permitted, sender), record, shape).await;
            }
        }
    }

    fn answer(mut self, record: &Arc<RequestRecord>, status: (u16, Why), shape: Shape) {
        self.shared
            .answer(&mut self.respond, record, (status, shape));
    }

    /// Sends the request upstream, if its client is still there.
    async fn forward(
        mut self,
        (permitted, sender): (Box<Permitted>, SendRequest<Bytes>),
        record: Arc<RequestRecord>,
        shape: Shape,
    ) {
        if self.shared.trusted == Trusted::No {
            self.answer(&record, (502, Why::Untrusted), shape);
            return;
        }
        let respond = &mut self.respond;
        let mut ready = std::pin::pin!(sender.ready());
        let sender = poll_fn(|cx| match respond.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => ready.as_mut().poll(cx).map(Some),
        });
        let mut sender = match sender.await {
            Some(Ok(sender)) => sender,
            Some(Err(error)) => {
                self.shared
                    .fail(&mut self.respond, &record, (no_response(&error), shape));
                return;
            }
            None => {
                self.shared
                    .tell_end(&record, (End::ClientGone, 0, 0), false);
                return;
            }
        };
        let sought = permitted.sought;
        let is_end = sought == Sought::Response && self.body.is_end_stream();
        let (response, to) = match sender.send_request(permitted.into_request(), is_end) {
            Ok(sent) => sent,
            Err(error) => {
                self.shared
                    .fail(&mut self.respond, &record, (no_response(&error), shape));
                return;
            }
        };
        let numbers = (self.respond.stream_id().as_u32(), to.stream_id().as_u32());
        let watched = (self.shared.client_frames.clone(), numbers.0);
        let mut up = Pump::new(self.body, to, watched);
        up.is_over = is_end;
        let running = Running {
            record,
            shape,
            sought,
            respond: self.respond,
            response: Some(response),
            interim: 0,
            up,
            down: None,
            shared: self.shared,
        };
        running.run(numbers.1).await;
    }
}

/// What it means for the client that the server's stream could not be used.
fn no_response(error: &h2::Error) -> Outcome {
    let is_left =
        error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
    match error.reason() {
        // It was not looked at: the client may ask again, over a connection of its own.
        _ if is_left => Outcome::ServerGone(Reason::REFUSED_STREAM),
        Some(reason) if error.is_reset() && error.is_remote() => Outcome::ServerGone(reason),
        Some(_) if error.is_reset() => Outcome::Failed(502, Why::BadResponse(BadHead::Http2)),
        _ => Outcome::Failed(502, Why::ServerGone),
    }
}

impl<H: Host> Running<H> {
    async fn run(mut self, upstream: u32) {
        let outcome = self.outcome().await;
        let frames = self.shared.server_frames.clone();
        self.finish(outcome);
        frames.lock().forget(upstream);
    }

    async fn outcome(&mut self) -> Outcome {
        let settings = Arc::clone(&self.shared.proxy.settings);
        let mut reviews = self.shared.reviews.subscribe();
        let mut last = (0, self.now());
        let head_by = settings.response_wait;
        loop {
            let idle = match self.is_tunnel() {
                true => settings.tunnel_idle,
                false => settings.stream_idle,
            };
            let rest = (last.1 + idle).saturating_duration_since(self.now());
            let rest = match head_by {
                Some(wait) if self.response.is_some() => rest.min(wait),
                _ => rest,
            };
            let is_tunnel = self.is_tunnel();
            tokio::select! {
                outcome = poll_fn(|cx| match self.poll(cx) {
                    Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                    // It is one since now.
                    Poll::Pending if self.is_tunnel() != is_tunnel => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }) => if let Some(outcome) = outcome {
                    return outcome;
                },
                _ = reviews.changed(), if is_tunnel => {
                    if !self.shared.access().still_allows(&self.record, settings.paths) {
                        self.shared.proxy.counters.count(Count::Cut);
                        return Outcome::Revoked;
                    }
                }
                () = tokio::time::sleep(rest.max(Duration::from_millis(1))) => {
                    let (moved, now) = (self.moved(), self.now());
                    let is_thinking = self.response.is_some() && self.up.is_over;
                    if is_thinking && head_by.is_some_and(|wait| self.record.at + wait <= now) {
                        return Outcome::Failed(504, Why::ServerSlow);
                    }
                    if moved != last.0 || is_thinking {
                        last = (moved, now);
                    } else if last.1 + idle <= now {
                        return Outcome::Idle;
                    }
                }
            }
        }
    }

    fn now(&self) -> Instant {
        self.shared.proxy.host.now()
    }

    fn moved(&self) -> u64 {
        self.up.moved + self.down.as_ref().map_or(0, |down| down.moved)
    }

    /// Whether it is a tunnel by now: the server has said so.
    fn is_tunnel(&self) -> bool {
        self.sought == Sought::Tunnel && self.down.is_some()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        // Nothing of a tunnel goes before the server has opened it.
        let may_send = self.sought == Sought::Response || self.down.is_some();
        if may_send && let Poll::Ready(Err(broken)) = self.up.poll(cx) {
            match broken {
                // It takes no more; what it answers is still to come.
                Broken::To(_) => self.up.is_over = true,
                Broken::From(error) => return Poll::Ready(client_broke(&error)),
                Broken::Trailers => {
                    let bad = BadBody::Trailer(BadHead::Http2);
                    return Poll::Ready(Outcome::BadBody(bad));
                }
            }
        }
        if self.response.is_some() {
            let polled = self.poll_head(cx);
            if polled.is_ready() || self.response.is_some() {
                return polled;
            }
        }
        let Some(down) = &mut self.down else {
            return Poll::Ready(Outcome::Done); // the head was all of it
        };
        match down.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if self.up.is_over => Poll::Ready(Outcome::Done),
            Poll::Ready(Ok(())) => Poll::Pending, // the client may go on
            Poll::Ready(Err(Broken::To(reason))) => Poll::Ready(Outcome::ClientGone(reason)),
            Poll::Ready(Err(Broken::Trailers)) => {
                Poll::Ready(Outcome::ServerGone(Reason::INTERNAL_ERROR))
            }
            Poll::Ready(Err(Broken::From(error))) => {
                let reason = error.reason().filter(|reason| {
                    error.is_reset() && error.is_remote() && *reason != Reason::NO_ERROR
                });
                let reason = reason.unwrap_or(Reason::INTERNAL_ERROR);
                Poll::Ready(Outcome::ServerGone(reason))
            }
        }
    }

    /// Waits for the head of the response.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Poll::Ready(reason) = self.respond.poll_reset(cx) {
            return Poll::Ready(Outcome::ClientGone(reason.unwrap_or(Reason::CANCEL)));
        }
        let Some(response) = &mut self.response else {
            return Poll::Pending;
        };
        while let Poll::Ready(Some(Ok(mut head))) = response.poll_informational(cx) {
            self.interim += 1;
            strip(&self.shared.proxy.settings, head.headers_mut());
            if self.interim > INTERIM_RESPONSES_MAX {
                let why = Why::BadResponse(BadHead::TooManyInterim);
                return Poll::Ready(Outcome::Failed(502, why));
            }
            if head.status() != StatusCode::SWITCHING_PROTOCOLS {
                // A client that is gone shows next.
                let _ = self.respond.send_informational(head);
            }
        }
        match Pin::new(response).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(no_response(&error)),
            Poll::Ready(Ok(head)) => match self.answered(head) {
                Ok(()) => Poll::Pending,
                Err(outcome) => Poll::Ready(outcome),
            },
        }
    }

    /// Passes on the head of the response.
    fn answered(&mut self, response: Response<RecvStream>) -> Result<(), Outcome> {
        self.response = None;
        let (mut head, body) = response.into_parts();
        strip(&self.shared.proxy.settings, &mut head.headers);
        let (status, fields) = (head.status, told_headers(&head.headers));
        let is_open = self.sought == Sought::Tunnel && status.is_success();
        let is_end = body.is_end_stream() && !is_open;
        let head = Response::from_parts(head, ());
        let to = self
            .respond
            .send_response(head, is_end)
            .map_err(|_| Outcome::ClientGone(Reason::CANCEL))?;
        self.shared
            .tell_response(&self.record, (status.as_u16(), By::Server), fields);
        let number = body.stream_id().as_u32();
        let watched = (self.shared.server_frames.clone(), number);
        let mut down = Pump::new(body, to, watched);
        down.is_over = is_end;
        self.down = Some(down);
        match self.sought {
            Sought::Response => {}
            Sought::Tunnel if is_open => self.shared.proxy.counters.count(Count::Tunnel),
            // No tunnel on any other status: what the client sends into it goes nowhere.
            Sought::Tunnel => {
                self.sought = Sought::Response;
                self.up.is_over = true;
            }
        }
        Ok(())
    }

    fn finish(mut self, outcome: Outcome) {
        let moved = (
            self.up.moved,
            self.down.as_ref().map_or(0, |down| down.moved),
        );
        let end = match outcome {
            Outcome::Done if self.is_tunnel() => Some(End::TunnelClosed),
            Outcome::Done => None,
            Outcome::ClientGone(reason) => {
                self.up.reset(reason);
                Some(End::ClientGone)
            }
            Outcome::BadBody(bad) => {
                self.up.reset(Reason::CANCEL);
                self.reset_client(Reason::PROTOCOL_ERROR);
                Some(End::BadRequestBody(bad))
            }
            Outcome::ServerGone(reason) => {
                self.up.reset(Reason::CANCEL);
                self.reset_client(reason);
                Some(End::ServerGone)
            }
            Outcome::Failed(..) => {
                self.up.reset(Reason::CANCEL);
                let shared = Arc::clone(&self.shared);
                shared.fail(&mut self.respond, &self.record, (outcome, self.shape));
                None
            }
            Outcome::Idle => {
                self.up.reset(Reason::CANCEL);
                self.reset_client(Reason::CANCEL);
                Some(End::Idle)
            }
            Outcome::Revoked => {
                self.up.reset(Reason::CANCEL);
                self.reset_client(Reason::CANCEL);
                Some(End::Revoked)
            }
        };
        if let Some(end) = end {
            let is_answered = self.down.is_some();
            self.shared
                .tell_end(&self.record, (end, moved.0, moved.1), is_answered);
        }
    }

    fn reset_client(&mut self, reason: Reason) {
        if reason == Reason::PROTOCOL_ERROR {
            self.shared.client_frames.lock().is_told();
        }
        match &mut self.down {
            Some(down) => down.reset(reason),
            None => self.respond.send_reset(reason),
        }
    }
}

/// Leaves out of a response what is not to pass.
fn strip(settings: &Settings, fields: &mut HeaderMap) {
    if settings.alt_svc == AltSvc::Dropped {
        fields.remove(ALT_SVC);
    }
}

/// What it means that nothing more can be read of a client's stream.
fn client_broke(error: &h2::Error) -> Outcome {
    match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => Outcome::ClientGone(reason),
        Some(_) if error.is_reset() => Outcome::BadBody(BadBody::Frames),
        _ => Outcome::ClientGone(Reason::CANCEL),
    }
}

impl<H: Host> Shared<H> {
    fn tell_request(&self, record: RequestRecord) -> Arc<RequestRecord> {
        self.proxy.counters.request(&record.verdict);
        let record = Arc::new(record);
        self.tell(Told::Request(Arc::clone(&record)));
        record
    }

    fn tell_response(
        &self,
        record: &Arc<RequestRecord>,
        status: (u16, By),
        fields: Vec<(String, String)>,
    ) {
        let (head, now) = ((Protocol::Http2, fields), self.proxy.host.now());
        let record = ResponseRecord::new(record, status, head, now);
        self.tell(Told::Response(record));
    }

    fn tell_end(&self, record: &Arc<RequestRecord>, end: (End, u64, u64), is_answered: bool) {
        let record = EndRecord::new(record, end, (is_answered, self.proxy.host.now()));
        self.tell(Told::Ended(record));
    }

    /// Answers a request ourselves.
    fn answer(
        &self,
        respond: &mut SendResponse<Bytes>,
        record: &Arc<RequestRecord>,
        ((status, why), shape): ((u16, Why), Shape),
    ) {
        let text = self.proxy.settings.answer_text(status);
        let (head, body) = answer((status, &text), shape, self.proxy.host.wall());
        let sent = respond.send_response(head, body.is_none());
        if let (Ok(mut to), Some(body)) = (sent, body) {
            let _ = to.send_data(body, true); // a client that is gone needs none
        }
        self.tell_response(record, (status, By::Proxy(why)), Vec::new());
    }

    /// There is no response of the server's.
    fn fail(
        &self,
        respond: &mut SendResponse<Bytes>,
        record: &Arc<RequestRecord>,
        (outcome, shape): (Outcome, Shape),
    ) {
        match outcome {
            Outcome::Failed(status, why) => self.answer(respond, record, ((status, why), shape)),
            Outcome::ServerGone(reason) => {
                respond.send_reset(reason);
                self.tell_end(record, (End::ServerGone, 0, 0), false);
            }
            Outcome::Done
            | Outcome::ClientGone(_)
            | Outcome::BadBody(_)
            | Outcome::Idle
            | Outcome::Revoked => {}
        }
    }
}
