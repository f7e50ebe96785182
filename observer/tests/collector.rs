//! What a collector of logs gets, over a real connection, and what happens where it takes nothing.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(
    clippy::disallowed_methods,
    reason = "the test's own sockets and clock"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flow::{
    Direction, Dns, DropReason, Endpoint, Event, FieldMask, Filter, Flow, Http, HttpHeader, Ip, L4,
    MessageKind, RecordType, Time, Verdict,
};
use observer::limits::{COLLECTOR_OCTETS_MAX, SINK_FLOWS_MAX};
use observer::proto::otlp::any_value::Value;
use observer::proto::otlp::logs_service_server::{LogsService, LogsServiceServer};
use observer::proto::otlp::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse, KeyValue,
    LogRecord,
};
use observer::{Collector, Export, FlowSink, SinkFigures, Target};
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

/// What a collector answers.
#[derive(Clone, Copy, Default)]
enum Mood {
    #[default]
    Takes,
    Fails(Code),
    /// It takes all but so many.
    TakesBut(i64),
    /// It never answers.
    Sleeps,
}

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Shelf(Arc<Kept>);

#[derive(Default)]
struct Kept {
    mood: Mutex<Mood>,
    calls: AtomicUsize,
    requests: Mutex<Vec<ExportLogsServiceRequest>>,
}

#[tonic::async_trait]
impl LogsService for Shelf {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        let mood = *self.0.mood.lock().unwrap();
        let partial_success = match mood {
            Mood::Takes => None,
            Mood::Fails(code) => return Err(Status::new(code, "not today")),
            Mood::TakesBut(rejected_log_records) => Some(ExportLogsPartialSuccess {
                rejected_log_records,
                error_message: "too old".to_owned(),
            }),
            Mood::Sleeps => std::future::pending().await,
        };
        self.0.requests.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse { partial_success }))
    }
}

impl Shelf {
    /// A collector in this mood, at a port of its own.
    async fn open(mood: Mood) -> (Self, SocketAddr, JoinHandle<()>) {
        let shelf = Self::default();
        *shelf.0.mood.lock().unwrap() = mood;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = shelf.serve(listener);
        (shelf, address, task)
    }

    fn serve(&self, listener: TcpListener) -> JoinHandle<()> {
        let mut server = Server::builder();
        let server = server.add_service(self.service());
        tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            server.serve_with_incoming(incoming).await.unwrap();
        })
    }

    fn service(&self) -> LogsServiceServer<Self> {
        LogsServiceServer::new(self.clone())
    }

    fn calls(&self) -> usize {
        self.0.calls.load(Ordering::Relaxed)
    }

    fn records(&self) -> Vec<LogRecord> {
        let requests = self.0.requests.lock().unwrap();
        let logs = requests.iter().flat_map(|it| &it.resource_logs);
        let logs = logs.flat_map(|it| &it.scope_logs);
        logs.flat_map(|it| it.log_records.clone()).collect()
    }
}

fn export(address: &str) -> Export {
    Export {
        to: Target::Collector(Collector::new(address, None).unwrap()),
        filter: Filter::default(),
        mask: FieldMask::ALL,
        end: None,
        aggregate: None,
    }
}

fn start(export: Export) -> FlowSink {
    FlowSink::start(export, "node-1".into(), || Time::from_unix_nanos(9_000)).unwrap()
}

fn drop_of(number: u8) -> Arc<Flow> {
    let reason = DropReason::from_number(number);
    Arc::new(Flow::new(Event::Drop { reason }, Verdict::Dropped))
}

/// The figures once they are as they should be.
async fn wait(sink: &FlowSink, is_it: impl Fn(&SinkFigures) -> bool) -> SinkFigures {
    let begun = Instant::now();
    loop {
        let figures = sink.figures();
        if is_it(&figures) {
            return figures;
        }
        let is_late = begun.elapsed() > Duration::from_secs(90);
        assert!(!is_late, "{figures:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends it without holding up the collector's thread; says how long that took.
async fn stop(sink: FlowSink) -> Duration {
    let begun = Instant::now();
    tokio::task::spawn_blocking(|| sink.stop()).await.unwrap();
    begun.elapsed()
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let mut found = attributes.iter().filter(|it| it.key == key);
    let value = found.next().and_then(|it| it.value.clone());
    match value.and_then(|it| it.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        None => String::new(),
    }
}

fn body(record: &LogRecord) -> String {
    match record.body.clone().and_then(|it| it.value) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_flow_is_a_record_with_a_line_its_facts_and_its_trace() {
    let (shelf, address, _server) = Shelf::open(Mood::Takes).await;
    let sink = start(export(&format!("http://{address}")));
    let message = Http {
        kind: MessageKind::Request,
        latency_ns: 0,
        code: 0,
        method: "DELETE".into(),
        url: "http://web.test/x".into(),
        protocol: "HTTP/1.1".into(),
        headers: Vec::new(),
    };
    let flow = Flow {
        time: Some(Time::from_unix_nanos(1_700_000_000_000_000_007)),
        ip: Some(Ip::new([10, 0, 0, 2].into(), [198, 18, 0, 1].into())),
        l4: Some(L4::Tcp {
            source_port: 40_000,
            destination_port: 80,
            flags: None,
        }),
        source: Endpoint {
            namespace: "shop".into(),
            pod_name: "cart".into(),
            ..Endpoint::default()
        },
        traffic_direction: Direction::Egress,
        is_reply: Some(false),
        trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
        ..Flow::new(Event::Http(message), Verdict::Dropped)
    };
    let mut json = String::new();
    flow.write_exporter_line(&mut json);
    sink.tell(&Arc::new(flow));
    let query = Dns::request("a.example.".into(), RecordType::Number(1));
    let allowed = Flow::new(Event::Dns(query), Verdict::Forwarded);
    sink.tell(&Arc::new(allowed));
    stop(sink).await;

    let request = shelf.0.requests.lock().unwrap()[0].clone();
    let logs = &request.resource_logs[0];
    let who = &logs.resource.as_ref().unwrap().attributes;
    assert_eq!(text(who, "service.name"), "namegate");
    assert_eq!(text(who, "host.name"), "node-1");
    let records = shelf.records();
    let denied = &records[0];
    assert_eq!(denied.time_unix_nano, 1_700_000_000_000_000_007);
    assert_eq!(denied.observed_time_unix_nano, 9_000);
    assert_eq!(
        (denied.severity_number, &*denied.severity_text),
        (13, "WARN")
    );
    assert_eq!(denied.event_name, "hubble.flow");
    assert_eq!(
        body(denied),
        "shop/cart:40000 (unknown) -> 198.18.0.1:80 (unknown) http-request DROPPED \
         (HTTP/1.1 DELETE http://web.test/x)"
    );
    assert_eq!(text(&denied.attributes, "hubble.flow"), json);
    assert_eq!(text(&denied.attributes, "hubble.verdict"), "DROPPED");
    assert_eq!(text(&denied.attributes, "destination.port"), "80");
    assert_eq!(text(&denied.attributes, "http.request.method"), "DELETE");
    let trace = &denied.trace_id;
    assert_eq!((trace.len(), trace[0], trace[15]), (16, 0x0a, 0x9c));
    let allowed = &records[1];
    assert_eq!(
        (allowed.severity_number, &*allowed.severity_text),
        (9, "INFO")
    );
    assert_eq!(text(&allowed.attributes, "dns.question.name"), "a.example.");
    assert!(allowed.trace_id.is_empty() && allowed.time_unix_nano == 0);
}

/// The octets of a small request, written down from OpenTelemetry's own text of the protocol.
#[test]
fn the_numbers_are_opentelemetrys() {
    let value = |text: &str| {
        Some(observer::proto::otlp::AnyValue {
            value: Some(Value::StringValue(text.to_owned())),
        })
    };
    let record = LogRecord {
        time_unix_nano: 1,
        observed_time_unix_nano: 2,
        severity_number: 9,
        severity_text: "I".to_owned(),
        body: value("b"),
        attributes: vec![KeyValue {
            key: "k".to_owned(),
            value: value("v"),
        }],
        trace_id: vec![7],
        event_name: "e".to_owned(),
    };
    let expected = [
        &[0x09, 1, 0, 0, 0, 0, 0, 0, 0][..],               // 1, fixed64
        &[0x10, 9],                                        // 2, varint
        &[0x1a, 1, b'I'],                                  // 3
        &[0x2a, 3, 0x0a, 1, b'b'],                         // 5, AnyValue: 1
        &[0x32, 8, 0x0a, 1, b'k', 0x12, 3, 0x0a, 1, b'v'], // 6, KeyValue: 1, 2
        &[0x4a, 1, 7],                                     // 9
        &[0x59, 2, 0, 0, 0, 0, 0, 0, 0],                   // 11, fixed64
        &[0x62, 1, b'e'],                                  // 12
    ];
    assert_eq!(record.encode_to_vec(), expected.concat());
}

#[tokio::test]
async fn only_what_is_wanted_is_told() {
    let (shelf, address, _server) = Shelf::open(Mood::Takes).await;
    let sink = start(Export {
        mask: FieldMask::new(["verdict"]).unwrap(),
        end: Some(Time::from_unix_nanos(5)),
        ..export(&format!("http://{address}"))
    });
    let query = Dns::request("secret.example.".into(), RecordType::Number(1));
    for nanos in [4, 6] {
        let flow = Flow::new(Event::Dns(query.clone()), Verdict::Dropped);
        let time = Some(Time::from_unix_nanos(nanos));
        sink.tell(&Arc::new(Flow { time, ..flow }));
    }
    stop(sink).await;
    let records = shelf.records();
    assert_eq!(records.len(), 1);
    assert_eq!(text(&records[0].attributes, "hubble.verdict"), "DROPPED");
    assert_eq!(records[0].time_unix_nano, 0);
    let octets = records[0].encode_to_vec();
    let has_name = octets.windows(6).any(|it| it == b"secret");
    assert!(!has_name, "{:?}", records[0]);
}

#[tokio::test]
async fn a_collector_that_comes_late_gets_what_waited_and_is_told_what_did_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let sink = start(export(&format!("http://{address}")));
    let flow = drop_of(133);
    let offered = SINK_FLOWS_MAX + 5_000;
    for _ in 0..offered {
        sink.tell(&flow);
    }
    let figures = wait(&sink, |it| it.fault.is_some()).await;
    assert_eq!(figures.written, 0);
    let shelf = Shelf::default();
    let _server = shelf.serve(TcpListener::bind(address).await.unwrap());
    let all = u64::try_from(offered).unwrap();
    let figures = wait(&sink, |it| it.written + it.lost == all).await;
    assert_eq!(figures.fault, None);
    assert!(figures.lost > 0, "the queue held everything");
    stop(sink).await;
    let records = shelf.records();
    let lost: u64 = records
        .iter()
        .filter(|it| it.event_name == "hubble.lost_events")
        .map(|it| {
            text(&it.attributes, "hubble.lost_events")
                .parse::<u64>()
                .unwrap()
        })
        .sum();
    assert_eq!(lost, figures.lost, "told to the flow");
    let told = records.iter().filter(|it| it.event_name == "hubble.flow");
    assert_eq!(u64::try_from(told.count()).unwrap(), figures.written);
}

#[tokio::test]
async fn what_waits_for_a_collector_is_not_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let sink = start(export(&format!("http://{address}")));
    for _ in 0..10 {
        sink.tell(&drop_of(133));
    }
    wait(&sink, |it| it.fault.is_some()).await;
    let shelf = Shelf::default();
    let _server = shelf.serve(TcpListener::bind(address).await.unwrap());
    let figures = wait(&sink, |it| it.written + it.lost == 10).await;
    assert_eq!((figures.written, figures.fault), (10, None));
    stop(sink).await;
    assert_eq!(shelf.records().len(), 10);
}

#[tokio::test]
async fn what_is_refused_for_good_is_lost_and_not_tried_again() {
    let (shelf, address, _server) = Shelf::open(Mood::Fails(Code::InvalidArgument)).await;
    let sink = start(export(&format!("http://{address}")));
    sink.tell(&drop_of(133));
    let figures = wait(&sink, |it| it.lost == 1).await;
    let fault = figures.fault.unwrap();
    assert!(fault.contains("not today"), "{fault}");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(shelf.calls(), 1);
    *shelf.0.mood.lock().unwrap() = Mood::TakesBut(1);
    for _ in 0..3 {
        sink.tell(&drop_of(133));
    }
    let figures = wait(&sink, |it| it.written + it.lost == 4).await;
    assert!(figures.lost > 1, "{figures:?}");
    assert!(figures.fault.unwrap().contains("too old"));
    *shelf.0.mood.lock().unwrap() = Mood::Takes;
    sink.tell(&drop_of(133));
    let figures = wait(&sink, |it| it.written + it.lost == 5).await;
    assert_eq!(figures.fault, None);
    stop(sink).await;
}

#[tokio::test]
async fn a_collector_that_has_no_room_is_left_alone_for_longer_each_time() {
    let (shelf, address, _server) = Shelf::open(Mood::Fails(Code::Unavailable)).await;
    let sink = start(export(&format!("http://{address}")));
    sink.tell(&drop_of(133));
    wait(&sink, |it| it.fault.is_some()).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    // At 0, 0.25, 0.75 and 1.75 s; a busy machine makes them fewer.
    let calls = shelf.calls();
    assert!((2..=4).contains(&calls), "{calls}");
    *shelf.0.mood.lock().unwrap() = Mood::Takes;
    let figures = wait(&sink, |it| it.written == 1).await;
    assert_eq!((figures.lost, figures.fault), (0, None));
    stop(sink).await;
}

#[tokio::test]
async fn no_collector_holds_up_the_end() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = nobody.local_addr().unwrap();
    drop(nobody);
    let (_shelf, sleeping, _server) = Shelf::open(Mood::Sleeps).await;
    // One that takes connections and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for address in [refusing, sleeping, mute.local_addr().unwrap()] {
        let sink = start(export(&format!("http://{address}")));
        for _ in 0..5_000 {
            sink.tell(&drop_of(133));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let took = stop(sink).await;
        assert!(took < Duration::from_secs(20), "{address}: {took:?}");
    }
}

#[tokio::test]
async fn no_request_is_larger_than_collectors_take() {
    let (shelf, address, _server) = Shelf::open(Mood::Takes).await;
    let sink = start(export(&format!("http://{address}")));
    let header = |number: usize| HttpHeader {
        key: format!("h{number}").into(),
        value: "v".repeat(250).into(),
    };
    let message = Http {
        kind: MessageKind::Request,
        latency_ns: 0,
        code: 0,
        method: "GET".into(),
        url: "http://web.test/".into(),
        protocol: "HTTP/1.1".into(),
        headers: (0..64).map(header).collect(),
    };
    let flow = Arc::new(Flow::new(Event::Http(message), Verdict::Forwarded));
    for _ in 0..400 {
        sink.tell(&flow);
    }
    stop(sink).await;
    assert_eq!(shelf.records().len(), 400);
    let requests = shelf.0.requests.lock().unwrap();
    let largest = requests.iter().map(prost::Message::encoded_len).max();
    let room = COLLECTOR_OCTETS_MAX..COLLECTOR_OCTETS_MAX + 70_000;
    assert!(largest.is_some_and(|it| it < room.end), "{largest:?}");
    assert!(
        requests.len() >= 400 * 16_000 / room.start,
        "{}",
        requests.len()
    );
}

#[tokio::test]
async fn over_tls_only_a_collector_that_somebody_vouches_for_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let authority = || {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (known, other) = (authority(), authority());
    let file = folder.path().join("ca.crt");
    std::fs::write(&file, known.pem()).unwrap();
    for (issuer, is_told) in [(&known, true), (&other, false)] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        let identity = Identity::from_pem(certificate.pem(), key.serialize_pem());
        let shelf = Shelf::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = ServerTlsConfig::new().identity(identity);
        let mut server = Server::builder().tls_config(tls).unwrap();
        let server = server.add_service(shelf.service());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let address = format!("https://localhost:{port}");
        let collector = Collector::new(&address, Some(&file)).unwrap();
        let sink = start(Export {
            to: Target::Collector(collector),
            ..export("http://127.0.0.1:1")
        });
        sink.tell(&drop_of(133));
        let figures = wait(&sink, |it| it.written == 1 || it.fault.is_some()).await;
        assert_eq!(figures.written == 1, is_told, "{figures:?}");
        stop(sink).await;
        assert_eq!(shelf.records().len(), usize::from(is_told));
    }
}

#[test]
fn an_address_that_is_none_is_refused_with_the_reason() {
    let here = Path::new("/nowhere/ca.crt");
    for (address, authority, said) in [
        ("", None, "no address"),
        ("localhost:4317", None, "no address"),
        ("ftp://h:4317", None, "no address"),
        ("http://h:4317/v1/logs", None, "no address"),
        ("https://h:4317", None, "needs the certificate"),
        ("http://h:4317", Some(here), "is for https://"),
        ("https://h:4317", Some(here), "/nowhere/ca.crt"),
    ] {
        let error = Collector::new(address, authority).unwrap_err().to_string();
        assert!(error.contains(said), "{address}: {error}");
    }
}
