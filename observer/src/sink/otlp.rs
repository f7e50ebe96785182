//! Flows for a collector of logs, by OpenTelemetry's protocol over gRPC: one log record for each.
//!
//! A collector that is gone, or has no room, is tried again and again, each time after a longer rest. Flows
//! wait meanwhile as far as the queue holds them.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use flow::{Flow, Losses, LostEvents, Printer, Time, Verdict};
use prost::Message as _;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use super::facts::{self, Fact};
use super::{Account, Outlet};
use crate::limits::COLLECTOR_OCTETS_MAX;
use crate::proto::otlp::logs_service_client::LogsServiceClient;
use crate::proto::otlp::{
    AnyValue, ExportLogsServiceRequest, ExportLogsServiceResponse, InstrumentationScope, KeyValue,
    LogRecord, Resource, ResourceLogs, ScopeLogs, SeverityNumber, any_value,
};

/// How long a connection to be made, and an answer, are waited for.
const CONNECT_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The same once all is to end.
const LAST_MAX: Duration = Duration::from_secs(2);
/// How long a collector that could not take something is left alone: at first, and at most.
const REST_MIN: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(30);
/// How often it is asked whether it is still there.
const SIGN_EVERY: Duration = Duration::from_secs(10);

/// A collector of logs.
#[derive(Clone)]
pub struct Collector {
    address: String,
    endpoint: Box<Endpoint>,
}

/// Why a collector can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// No address of one.
    #[error("{0:?} is no address of a collector: http://HOST:4317 or https://HOST:4317")]
    Address(String),
    /// Nothing to know it by.
    #[error("{0}: TLS needs the certificate of an authority")]
    NoAuthority(String),
    /// An authority for a connection without TLS.
    #[error("{0}: an authority is for https://")]
    NoTls(String),
    /// The authority's certificate can't be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It can't be used.
    #[error("{address}: {error}")]
    Tls {
        /// For which collector.
        address: String,
        /// Why.
        #[source]
        error: tonic::transport::Error,
    },
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Collector").field(&self.address).finish()
    }
}

impl Collector {
    /// The collector at an address, `http://HOST:PORT`, or `https://HOST:PORT` with the certificates (PEM) of
    /// those who vouch for it.
    ///
    /// # Errors
    /// What can't be used.
    pub fn new(address: &str, authority: Option<&Path>) -> Result<Self, CollectorError> {
        let bad = || CollectorError::Address(address.to_owned());
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| bad())?;
        let uri = endpoint.uri();
        if uri.host().is_none() || !matches!(uri.path(), "" | "/") {
            return Err(bad());
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(SIGN_EVERY)
            .keep_alive_timeout(CONNECT_MAX);
        let endpoint = match (endpoint.uri().scheme_str(), authority) {
            (Some("http"), None) => endpoint,
            (Some("http"), Some(_)) => return Err(CollectorError::NoTls(address.to_owned())),
            (Some("https"), None) => return Err(CollectorError::NoAuthority(address.to_owned())),
            (Some("https"), Some(path)) => {
                let pem = std::fs::read(path).map_err(|error| CollectorError::File {
                    path: path.display().to_string(),
                    error,
                })?;
                let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
                let failed = |error| CollectorError::Tls {
                    address: address.to_owned(),
                    error,
                };
                endpoint.tls_config(tls).map_err(failed)?
            }
            _ => return Err(bad()),
        };
        Ok(Self {
            address: address.to_owned(),
            endpoint: Box::new(endpoint),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// The way to a collector.
pub(super) struct Otlp {
    runtime: Runtime,
    client: LogsServiceClient<Channel>,
    account: Account,
    batch: Batch,
    json: String,
    rest: Duration,
}

/// Records that are sent at once.
#[derive(Default)]
struct Batch {
    records: Vec<LogRecord>,
    octets: usize,
    flows: u64,
    /// Lost events that records of these tell.
    told: Losses,
}

impl Otlp {
    pub(super) fn new(collector: &Collector, account: Account) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = {
            let _entered = runtime.enter();
            LogsServiceClient::new(collector.endpoint.connect_lazy())
        };
        Ok(Self {
            runtime,
            client,
            account,
            batch: Batch::default(),
            json: String::new(),
            rest: REST_MIN,
        })
    }

    fn record(&mut self, flow: &Flow) -> LogRecord {
        let mask = &self.account.mask;
        self.json.clear();
        flow.write_wanted_line(mask, &mut self.json);
        let is_warning = mask.of("verdict").is_some()
            && matches!(flow.verdict, Verdict::Dropped | Verdict::Error);
        let trace_id = match mask.of("trace_context") {
            Some(_) => octets(&flow.trace_id),
            None => Vec::new(),
        };
        let json = ("hubble.flow", Fact::Text(self.json.clone()));
        let facts = std::iter::once(json).chain(facts::of(flow, mask));
        LogRecord {
            time_unix_nano: nanos(flow.time.filter(|_| mask.of("time").is_some())),
            trace_id,
            attributes: facts.map(attribute).collect(),
            event_name: "hubble.flow".to_owned(),
            ..self.said(facts::line(flow, (mask, &self.json)), is_warning)
        }
    }

    fn lost_record(&self, lost: &LostEvents) -> LogRecord {
        let mut line = String::new();
        Printer::default().write_loss(lost, &mut line);
        let count = i64::try_from(lost.count).unwrap_or(i64::MAX);
        LogRecord {
            attributes: vec![
                attribute(("hubble.lost_events", Fact::Number(count))),
                attribute(("hubble.lost_where", Fact::Text(lost.source.to_string()))),
            ],
            event_name: "hubble.lost_events".to_owned(),
            ..self.said(line, true)
        }
    }

    /// A record of a line for people.
    fn said(&self, line: String, is_warning: bool) -> LogRecord {
        let (number, text) = match is_warning {
            true => (SeverityNumber::Warn, "WARN"),
            false => (SeverityNumber::Info, "INFO"),
        };
        LogRecord {
            observed_time_unix_nano: nanos(Some((self.account.now)())),
            severity_number: number.into(),
            severity_text: text.to_owned(),
            body: Some(value(Fact::Text(line))),
            ..LogRecord::default()
        }
    }

    fn request(&self, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
        let text = |text: &str| Fact::Text(text.to_owned());
        let version = env!("CARGO_PKG_VERSION");
        let who = [
            ("service.name", text("namegate")),
            ("service.version", text(version)),
            ("host.name", text(&self.account.node_name)),
        ];
        let scope = InstrumentationScope {
            name: "namegate".to_owned(),
            version: version.to_owned(),
        };
        ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource: Some(Resource {
                    attributes: who.into_iter().map(attribute).collect(),
                }),
                scope_logs: vec![ScopeLogs {
                    scope: Some(scope),
                    log_records,
                }],
            }],
        }
    }

    /// Sends until it is taken, refused for good, or all is to end.
    fn send(
        &mut self,
        request: &ExportLogsServiceRequest,
    ) -> Result<ExportLogsServiceResponse, Status> {
        loop {
            let is_last = self.account.has_stopped();
            let stopped = self.account.stopped.clone();
            let mut client = self.client.clone();
            let answer = client.export(request.clone());
            let answer = self.runtime.block_on(in_time(answer, stopped.clone()));
            match answer {
                Err(status) if is_passing(&status) && !is_last => {
                    self.account.fail(said(&status));
                    self.runtime.block_on(rest(self.rest, stopped));
                    self.rest = (self.rest * 2).min(REST_MAX);
                }
                Err(status) => return Err(status),
                Ok(answer) => {
                    self.rest = REST_MIN;
                    return Ok(answer.into_inner());
                }
            }
        }
    }
}

impl Outlet for Otlp {
    fn take(&mut self, flow: &Flow) {
        let record = self.record(flow);
        let octets = record.encoded_len();
        if self.batch.octets + octets > COLLECTOR_OCTETS_MAX {
            self.flush();
        }
        self.batch.records.push(record);
        self.batch.octets += octets;
        self.batch.flows += 1;
    }

    fn flush(&mut self) {
        self.batch.told = self.account.take_untold();
        let told = self.batch.told.events();
        let records: Vec<_> = told.map(|lost| self.lost_record(&lost)).collect();
        self.batch.records.splice(0..0, records);
        let batch = std::mem::take(&mut self.batch);
        if batch.records.is_empty() {
            return;
        }
        if self.account.gives_up() {
            self.account.lose(batch.flows);
            self.account.leave_untold(batch.told);
            return;
        }
        let request = self.request(batch.records);
        match self.send(&request).map(refused_of) {
            Ok(None) => self.account.arrived(batch.flows),
            Ok(Some((refused, why))) => {
                let refused = refused.min(batch.flows);
                self.account.count(batch.flows - refused);
                self.account.lose(refused);
                self.account
                    .fail(format!("{refused} of {} refused: {why}", batch.flows));
            }
            Err(status) => {
                self.account.lose(batch.flows);
                self.account.leave_untold(batch.told);
                self.account.fail(said(&status));
            }
        }
    }
}

/// How many records a collector did not take, and why; none if it took them all.
fn refused_of(answer: ExportLogsServiceResponse) -> Option<(u64, String)> {
    let partial = answer.partial_success?;
    let refused = u64::try_from(partial.rejected_log_records).ok()?;
    (refused > 0).then_some((refused, partial.error_message))
}

/// Whether it may go well later: by OpenTelemetry's list of what a collector says, or since it was no
/// collector that said it, but the connection that broke.
fn is_passing(status: &Status) -> bool {
    let is_broken = std::error::Error::source(status).is_some();
    let is_said = matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    );
    is_broken || is_said
}

fn said(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// The answer, unless it is too late: sooner so where all is to end.
async fn in_time<T>(
    answer: impl Future<Output = Result<T, Status>>,
    stopped: watch::Receiver<bool>,
) -> Result<T, Status> {
    let overdue = async {
        tokio::select! {
            () = tokio::time::sleep(ANSWER_MAX) => {}
            () = until_stopped(stopped) => tokio::time::sleep(LAST_MAX).await,
        }
    };
    tokio::select! {
        answer = answer => answer,
        () = overdue => Err(Status::deadline_exceeded("no answer in time")),
    }
}

async fn rest(time: Duration, stopped: watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = until_stopped(stopped) => {}
    }
}

async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // Who dropped the sink wants its end too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn nanos(time: Option<Time>) -> u64 {
    time.and_then(|time| u64::try_from(time.unix_nanos()).ok())
        .unwrap_or(0)
}

/// The octets that hexadecimal digits stand for; none if there is something else.
fn octets(hex: &str) -> Vec<u8> {
    let digits: Option<Vec<u32>> = hex.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.unwrap_or_default();
    let octet = |pair: &[u32]| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    };
    digits
        .chunks(2)
        .map(octet)
        .collect::<Option<_>>()
        .unwrap_or_default()
}

fn attribute((name, fact): (&str, Fact)) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(value(fact)),
    }
}

fn value(fact: Fact) -> AnyValue {
    let value = match fact {
        Fact::Text(text) => any_value::Value::StringValue(text),
        Fact::Number(number) => any_value::Value::IntValue(number),
    };
    AnyValue { value: Some(value) }
}
