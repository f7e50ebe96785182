//! What an event costs on its way to those who watch: the time that this process ran, for each event. And
//! whether a reader that is stopped costs anybody anything.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use flow::{
    Direction, Dns, Event, FieldMask, Filter, Flow, Ip, L4, PolicyRef, RecordType, Time, Uuid,
    Verdict,
};
use observer::proto::observer::GetFlowsRequest;
use observer::proto::observer::get_flows_response::ResponseTypes;
use observer::proto::observer::observer_client::ObserverClient;
use observer::{
    AgentRing, Export, FileTarget, FlowSink, Node, NodeAddresses, Server, SharedRing, Target,
};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use tonic::transport::Endpoint;

/// Runs of each, which take turns; told is the median.
const RUNS: usize = 5;
/// Events of a run.
const EVENTS: u64 = 200_000;
/// After so many a reader says that it has had them.
const STEP: u64 = 8_192;
/// As many as the thread of flows hands on at once.
const BATCH: usize = 512;
/// What the ring keeps here: enough that a reader that reads loses nothing.
const FLOWS_MAX: usize = 65_535;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, socket, events] = &args[..]
        && role == "reader"
    {
        return read(socket, events.parse()?);
    }
    let mut out = std::io::stdout();
    let costs = [
        ("to the ring", to_ring as Run),
        ("to the ring and a file", to_file),
        ("to the ring and a reader by gRPC", to_reader),
    ];
    let told = medians(&costs)?;
    for ((name, _), cost) in costs.iter().zip(&told) {
        let ratio = cost / told.first().copied().unwrap_or(1.0);
        writeln!(
            out,
            "{name}: {:.0} ns an event, {ratio:.1} to the ring alone",
            cost * 1e9
        )?;
    }
    let offers = [
        ("nobody reads", without_reader as Run),
        ("a reader is stopped", with_stopped_reader),
    ];
    let told = medians(&offers)?;
    for ((name, _), cost) in offers.iter().zip(&told) {
        let ratio = cost / told.first().copied().unwrap_or(1.0);
        writeln!(
            out,
            "200,000 a second, {name}: {:.0} ns an event, {ratio:.2}",
            cost * 1e9
        )?;
    }
    Ok(())
}

/// What gives the seconds that one event takes.
type Run = fn(&[Arc<Flow>]) -> Result<f64>;

/// Runs all in turn, again and again; gives the median of each.
fn medians(all: &[(&str, Run)]) -> Result<Vec<f64>> {
    let flows = flows();
    let mut seen = vec![Vec::new(); all.len()];
    for _ in 0..RUNS {
        for ((_, run), seen) in all.iter().zip(&mut seen) {
            seen.push(run(&flows)?);
        }
    }
    let median = |mut seen: Vec<f64>| {
        seen.sort_by(f64::total_cmp);
        seen.get(seen.len() / 2).copied().unwrap_or_default()
    };
    Ok(seen.into_iter().map(median).collect())
}

/// Seconds that this process ran.
fn ran() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "a time for people")]
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    seconds
}

#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn each(seconds: f64, events: u64) -> f64 {
    seconds / events as f64
}

#[expect(clippy::disallowed_methods, reason = "a benchmark's clock")]
fn now() -> Instant {
    Instant::now()
}

/// Queries and answers of one workload, and the connections that follow, as the daemon makes them.
fn flows() -> Vec<Arc<Flow>> {
    let policy = PolicyRef {
        name: "internet".into(),
        namespace: "shop".into(),
        labels: ["k8s:io.cilium.k8s.policy.name=internet".into()].into(),
        revision: 7,
        kind: "CiliumNetworkPolicy".into(),
    };
    let labels = [
        "k8s:app=cart",
        "k8s:io.kubernetes.pod.namespace=shop",
        "k8s:tier=front",
    ];
    let cart = flow::Endpoint {
        id: 7,
        identity: 300,
        namespace: "shop".into(),
        pod_name: "cart-6f7c9d5b8-x2x4p".into(),
        labels: labels.map(Arc::from).into(),
        ..flow::Endpoint::default()
    };
    let flow = |number: u64, event: Event| Flow {
        time: Some(Time::from_unix_nanos(
            1_700_000_000_000_000_000 + i128::from(number),
        )),
        uuid: Some(Uuid::from_random([7; 16])),
        ip: Some(Ip::new([10, 0, 0, 2].into(), [198, 18, 0, 1].into())),
        l4: Some(L4::Udp {
            source_port: 40_000,
            destination_port: 53,
        }),
        source: cart.clone(),
        node_name: "node-1".into(),
        destination_names: vec!["api.example.com".into()],
        traffic_direction: Direction::Egress,
        is_reply: Some(false),
        egress_allowed_by: vec![policy.clone()],
        ..Flow::new(event, Verdict::Forwarded)
    };
    let events = |number| {
        let name: Arc<str> = format!("n{number}.example.com.").into();
        let qtype = RecordType::Number(1);
        let answer = Dns {
            ips: vec![[198, 18, 0, 1].into(), [198, 18, 0, 2].into()],
            ttl: 60,
            rrtypes: vec![qtype.clone(), qtype.clone()],
            latency_ns: 1_000_000,
            ..Dns::response(Arc::clone(&name), qtype.clone(), 0)
        };
        let verdict = Event::PolicyVerdict {
            match_type: 2,
            drop_reason: None,
        };
        [
            Event::Dns(Dns::request(name, qtype)),
            Event::Dns(answer),
            verdict,
        ]
    };
    let all = (0..1_000).flat_map(|number| events(number).map(|event| flow(number, event)));
    all.map(Arc::new).collect()
}

/// Hands on `EVENTS` events; after each batch `rest` may wait.
fn push(ring: &SharedRing, flows: &[Arc<Flow>], mut each: impl FnMut(&[Arc<Flow>])) {
    let mut left = EVENTS;
    let mut batches = flows.chunks(BATCH).cycle();
    while let Some(batch) = batches.next().filter(|_| left > 0) {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(batch.len());
        let batch = batch.get(..len).unwrap_or_default();
        each(batch);
        ring.push(batch.iter().map(Arc::clone), now());
        left -= u64::try_from(len).unwrap_or(left);
    }
}

fn to_ring(flows: &[Arc<Flow>]) -> Result<f64> {
    let ring = SharedRing::new(FLOWS_MAX, now());
    let before = ran();
    push(&ring, flows, |_| {});
    Ok(each(ran() - before, EVENTS))
}

fn to_file(flows: &[Arc<Flow>]) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let export = Export {
        to: Target::File(FileTarget {
            path: folder.path().join("flows"),
            octets_max: u64::MAX,
            backups_max: None,
            compress: false,
            agent_events: false,
        }),
        filter: Filter::default(),
        mask: FieldMask::ALL,
        end: None,
        aggregate: None,
    };
    let sink = FlowSink::start(export, "node-1".into(), || Time::from_unix_nanos(0))?;
    let ring = SharedRing::new(FLOWS_MAX, now());
    let before = ran();
    let mut told = 0;
    push(&ring, flows, |batch| {
        batch.iter().for_each(|flow| sink.tell(flow));
        told += batch.len() as u64;
        // No more than the queue holds.
        while told - sink.figures().written > 32_768 {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    while sink.figures().written < EVENTS {
        std::thread::sleep(Duration::from_millis(1));
    }
    let cost = each(ran() - before, EVENTS);
    sink.stop();
    Ok(cost)
}

/// Serves a ring, in a thread that lives as long as the process.
fn serve(ring: &Arc<SharedRing>, socket: &Path) -> Result<()> {
    let node = Node {
        name: "node-1".into(),
        version: "0".into(),
        flows: Arc::clone(ring),
        agent: Arc::new(AgentRing::default()),
        exact_masks: false,
        now,
        time_of_day: || Time::from_unix_nanos(0),
        addresses: NodeAddresses::default,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let server = Server::unix(node, socket)?;
    std::thread::spawn(move || runtime.block_on(server.run(std::future::pending())));
    Ok(())
}

/// What a reader says.
type Said = std::io::Lines<BufReader<std::process::ChildStdout>>;

/// A reader in a process of its own, once it follows; it ends when it has had so many, and says so after each
/// [`STEP`] of them.
fn reader(socket: &Path, events: u64) -> Result<(Child, Said)> {
    let mut command = Command::new(std::env::current_exe()?);
    let command = command.arg("reader").arg(socket).arg(events.to_string());
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(child.stdout.take().context("no output")?).lines();
    let first = said.next().context("the reader said nothing")??;
    if first != "following" {
        bail!("the reader said {first:?}");
    }
    Ok((child, said))
}

/// Follows by gRPC until so many flows have come.
fn read(socket: &str, events: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let server = Endpoint::from_shared(format!("unix://{socket}"))?;
        let mut client = ObserverClient::new(server.connect().await?);
        let follow = GetFlowsRequest {
            follow: true,
            ..GetFlowsRequest::default()
        };
        let mut flows = client.get_flows(follow).await?.into_inner();
        writeln!(std::io::stdout(), "following")?;
        let mut got = 0;
        while got < events
            && let Some(answer) = flows.message().await?
        {
            match answer.response_types {
                Some(ResponseTypes::Flow(_)) => {
                    got += 1;
                    if got % STEP == 0 {
                        writeln!(std::io::stdout(), "{got}")?;
                    }
                }
                Some(ResponseTypes::LostEvents(lost)) => {
                    bail!("{} were lost", lost.num_events_lost)
                }
                Some(ResponseTypes::NodeStatus(_)) | None => {}
            }
        }
        Ok(())
    })
}

fn to_reader(flows: &[Arc<Flow>]) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("socket");
    let ring = Arc::new(SharedRing::new(FLOWS_MAX, now()));
    serve(&ring, &socket)?;
    let (mut child, mut said) = reader(&socket, EVENTS)?;
    let before = ran();
    // As fast as it reads: it is never further behind than the ring holds.
    let (mut given, mut had) = (0, 0);
    push(&ring, flows, |batch| {
        given += batch.len() as u64;
        while given - had > 4 * STEP && said.next().is_some() {
            had += STEP;
        }
    });
    let ended = child.wait()?;
    if !ended.success() {
        bail!("the reader was too slow");
    }
    Ok(each(ran() - before, EVENTS))
}

/// Offers 200,000 events a second for two seconds, a few each millisecond.
fn offer(ring: &SharedRing, flows: &[Arc<Flow>]) -> f64 {
    const MILLISECONDS: u64 = 2_000;
    const EACH: usize = 200;
    let (before, begun) = (ran(), now());
    let mut batches = flows.chunks_exact(EACH).cycle();
    for millisecond in 1..=MILLISECONDS {
        let batch = batches.next().unwrap_or_default();
        ring.push(batch.iter().map(Arc::clone), now());
        let next = begun + Duration::from_millis(millisecond);
        std::thread::sleep(next.saturating_duration_since(now()));
    }
    each(ran() - before, MILLISECONDS * EACH as u64)
}

fn without_reader(flows: &[Arc<Flow>]) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let ring = Arc::new(SharedRing::new(4_095, now()));
    serve(&ring, &folder.path().join("socket"))?;
    Ok(offer(&ring, flows))
}

fn with_stopped_reader(flows: &[Arc<Flow>]) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("socket");
    let ring = Arc::new(SharedRing::new(4_095, now()));
    serve(&ring, &socket)?;
    let (mut child, _said) = reader(&socket, u64::MAX)?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.context("no process")?, Signal::STOP)?;
    let cost = offer(&ring, flows);
    child.kill()?;
    child.wait()?;
    Ok(cost)
}
