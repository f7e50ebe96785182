//! gRPC through the gate: a client and a server of tonic, all kinds of calls.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a test may die; a server outside of the gate, a clock of the tests"
)]

use std::convert::Infallible;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};
use namegate_tests::{Web, Workload, observed};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::codegen::tokio_stream::{StreamExt as _, once, wrappers::ReceiverStream};
use tonic::codegen::{BoxFuture, BoxStream, Context, Poll, Service};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

/// The server: what a call does is in its path.
#[derive(Clone, Copy)]
struct Calls;

impl Service<HttpRequest<Body>> for Calls {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let call = Call(request.uri().path().to_owned());
        Box::pin(async move {
            Ok(tonic::server::Grpc::new(Plain)
                .streaming(call, request)
                .await)
        })
    }
}

struct Call(String);

impl Service<Request<Streaming<Vec<u8>>>> for Call {
    type Response = Response<BoxStream<Vec<u8>>>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move {
            let (send, receive) = mpsc::channel(1);
            let mut messages = request.into_inner();
            tokio::spawn(async move {
                let failed = match &*path {
                    "/test.Calls/Fail" => Some(Status::data_loss("as asked")),
                    "/test.Calls/Stream" => {
                        let message = messages.next().await.unwrap().unwrap();
                        for number in 0..5u8 {
                            let part = [&message[..], &[number]].concat();
                            if send.send(Ok(part)).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        None
                    }
                    _ => {
                        while let Some(Ok(message)) = messages.next().await {
                            if send.send(Ok(message)).await.is_err() {
                                return;
                            }
                        }
                        None
                    }
                };
                if let Some(status) = failed {
                    let _ = send.send(Err(status)).await;
                }
            });
            let stream: BoxStream<Vec<u8>> = Box::pin(ReceiverStream::new(receive));
            Ok(Response::new(stream))
        })
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Serves at a workload's, until the test ends.
fn serve(at: &Workload, port: u16) {
    let bind = || TcpListener::bind(("0.0.0.0", port));
    let listener = at.ns.run(bind).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Server::builder().serve_with_incoming(Calls, incoming).await
        })
    });
}

type Client = tonic::client::Grpc<Channel>;

async fn client(to: String) -> Client {
    let channel = Endpoint::from_shared(to).unwrap().connect().await.unwrap();
    Client::new(channel)
}

/// A call with one message, and its one answer.
async fn ask(client: &mut Client, message: Vec<u8>, name: &'static str) -> Result<Vec<u8>, Status> {
    client.ready().await.unwrap();
    let answer = client.unary(Request::new(message), path(name), Plain).await;
    answer.map(Response::into_inner)
}

fn path(name: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(name)
}

const ALLOWED: &str = "{toPorts: [{ports: [{port: '50051', protocol: TCP}], rules: {http: \
    [{method: POST, path: '/test.Calls/(Unary|Stream|Both|Fail)'}]}}]}";

#[test]
fn calls_of_each_kind_pass_and_a_denied_one_is_a_denial() {
    let web = Web::new().unwrap();
    let daemon = web.egress(ALLOWED).unwrap();
    serve(&web.world, 50_051);
    let to = format!("http://{}:50051", web.world.v4);
    let talk = || runtime().block_on(calls(to.clone()));
    web.alice.ns.run(talk).unwrap();
    let told = observed(&daemon, &["--protocol", "http"]).unwrap();
    assert_eq!(
        told.matches(
            "http-request FORWARDED (HTTP/2 POST http://203.0.113.2:50051/test.Calls/Unary)"
        )
        .count(),
        3,
        "{told}"
    );
    assert_eq!(
        told.matches("/test.Calls/Unary))").count(),
        3,
        "its response: {told}"
    );
    assert!(
        told.contains(
            "http-request DROPPED (HTTP/2 POST http://203.0.113.2:50051/test.Calls/Denied)"
        ),
        "{told}"
    );
}

async fn calls(to: String) {
    let mut client = client(to).await;
    let answer = ask(&mut client, b"one".to_vec(), "/test.Calls/Unary").await;
    assert_eq!(answer.unwrap(), b"one");

    // One message after the other, each when it was sent.
    client.ready().await.unwrap();
    let begin = Instant::now();
    let answer = client
        .server_streaming(
            Request::new(b"s".to_vec()),
            path("/test.Calls/Stream"),
            Plain,
        )
        .await;
    let mut stream = answer.unwrap().into_inner();
    let mut times = Vec::new();
    while let Some(message) = stream.next().await {
        assert_eq!(message.unwrap().len(), 2);
        times.push(begin.elapsed());
    }
    assert_eq!(times.len(), 5);
    assert!(
        times[4] - times[0] > Duration::from_millis(300),
        "{times:?}"
    );

    // Each message of ours is answered before the next one is sent.
    client.ready().await.unwrap();
    let (send, receive) = mpsc::channel(1);
    send.send(vec![0]).await.unwrap();
    let messages = Request::new(ReceiverStream::new(receive));
    let answer = client
        .streaming(messages, path("/test.Calls/Both"), Plain)
        .await;
    let mut stream = answer.unwrap().into_inner();
    for number in 0..50u8 {
        assert_eq!(stream.next().await.unwrap().unwrap(), [number]);
        send.send(vec![number + 1]).await.unwrap();
    }
    drop(send);
    assert_eq!(stream.next().await.unwrap().unwrap(), [50]);
    assert!(
        stream.next().await.is_none(),
        "the trailers say that all is well"
    );

    // A large message, in both directions.
    let large = vec![7; 3 << 20];
    let answer = ask(&mut client, large.clone(), "/test.Calls/Unary").await;
    assert_eq!(answer.unwrap(), large);

    // What the server says in its trailers, and what we say instead of it.
    let failed = ask(&mut client, Vec::new(), "/test.Calls/Fail")
        .await
        .unwrap_err();
    assert_eq!(
        (failed.code(), failed.message()),
        (Code::DataLoss, "as asked")
    );
    let denied = ask(&mut client, Vec::new(), "/test.Calls/Denied")
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
    assert_eq!(denied.message(), "Access denied\r\n");
    client.ready().await.unwrap();
    let messages = Request::new(once(vec![1]));
    let denied = client
        .streaming(messages, path("/test.Calls/Denied"), Plain)
        .await;
    assert_eq!(denied.unwrap_err().code(), Code::PermissionDenied);
    // The connection lives.
    let answer = ask(&mut client, b"two".to_vec(), "/test.Calls/Unary").await;
    assert_eq!(answer.unwrap(), b"two");
}
