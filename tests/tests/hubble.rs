//! Hubble's Observer of a real node, asked by a client in another language: over its unix socket, and over
//! TCP with certificates on both sides.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use namegate_tests::{Daemon, Node, Running, TcpSink, Workload, internet};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;

const ZONE: &str = "web 30 IN A 198.18.0.1\n";
const NAME: &str = "node.hubble.test";

/// `client` may ask for names below example.com and reach what `web` is.
fn rules() -> String {
    internet("client", "")
}

struct Stage {
    node: Node,
    client: Workload,
    dns: Workload,
    _world: Workload,
    _servers: (Running, TcpSink),
}

impl Stage {
    fn new() -> Self {
        let node = Node::new().unwrap();
        let client = node.workload("client", 2).unwrap();
        let dns = node.workload("dns", 3).unwrap();
        let world = node.elsewhere().unwrap();
        let servers = (
            Running::knot(&dns.ns, ZONE).unwrap(),
            TcpSink::serve(&world.ns, 80).unwrap(),
        );
        Self {
            node,
            client,
            dns,
            _world: world,
            _servers: servers,
        }
    }

    fn daemon(&self, flags: &[&str]) -> Daemon<'_> {
        let mut daemon = Daemon::prepare(&self.node).unwrap();
        daemon.endpoint(&self.client).unwrap();
        daemon.policy("internet.yaml", &rules()).unwrap();
        daemon.start(flags).unwrap();
        daemon
    }

    /// An answer, a denied name, a connection.
    fn play(&self) {
        let asks = |name| {
            self.client
                .dig(self.dns.v4.into(), &["+short", name])
                .unwrap()
        };
        assert_eq!(asks("web.example.com"), "198.18.0.1\n");
        assert_eq!(asks("x.evil.test"), "");
        let to: SocketAddr = "198.18.0.1:80".parse().unwrap();
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(5)).is_ok();
        assert!(self.client.ns.run(connect).unwrap());
        // Events come a moment after what they tell.
        std::thread::sleep(Duration::from_millis(500));
    }

    fn ask(&self, words: &[&str]) -> Output {
        let room = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = self.node.command("/usr/bin/python3");
        let command = command.arg(room.join("hubble/client.py"));
        let command = command.arg(room.join("../observer/proto")).args(words);
        command.output().unwrap()
    }
}

/// What the client prints of a node on which the story was played.
fn check(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |filter: &str| {
        let lines = lines.iter().filter(|line| line["filter"] == filter);
        lines.cloned().collect::<Vec<_>>()
    };
    assert_eq!(lines[0]["status"]["max_flows"], 1023, "{text}");
    assert_eq!(lines[0]["status"]["has_flows"], true, "{text}");
    let denied = of("denied names");
    assert_eq!(denied.len(), 1, "{text}");
    assert_eq!(denied[0]["summary"], "DNS Query x.evil.test. A");
    assert_eq!(denied[0]["pod"], "client");
    let answers = of("answers");
    let answer = "DNS Answer \"198.18.0.1\" TTL: 30 (Proxy web.example.com. A)";
    assert!(answers.iter().any(|it| it["summary"] == answer), "{text}");
    let to_web = of("to web");
    assert_eq!(to_web[0]["summary"], "TCP Flags: SYN", "{text}");
    assert_eq!(to_web[0]["names"][0], "web.example.com", "{text}");
    let refused = lines
        .iter()
        .find(|line| line["refused"].is_string())
        .unwrap();
    assert_eq!(refused["refused"], "INVALID_ARGUMENT", "{text}");
    assert!(
        refused["why"].as_str().unwrap().contains("source_ip"),
        "{text}"
    );
    for event in [
        "AGENT_STARTED",
        "IPCACHE_UPSERTED",
        "POLICY_UPDATED",
        "ENDPOINT_CREATED",
    ] {
        assert!(
            lines.iter().any(|line| line["agent"] == event),
            "{event}: {text}"
        );
    }
}

#[test]
fn a_client_in_another_language_reads_flows_over_the_unix_socket() {
    let stage = Stage::new();
    let daemon = stage.daemon(&["--hubble-event-buffer-capacity", "1023"]);
    stage.play();
    let socket = daemon.path("hubble.sock");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    check(&stage.ask(&[&format!("unix://{}", socket.display())]));
}

/// The files of a certificate that an authority gave.
fn files(folder: &Path) -> [PathBuf; 3] {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "the authority of a test");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([NAME.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let texts = [
        ("ca.crt", authority.pem()),
        ("tls.crt", certificate.pem()),
        ("tls.key", key.serialize_pem()),
    ];
    texts.map(|(name, text)| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    })
}

#[test]
fn over_tcp_both_sides_show_a_certificate() {
    let stage = Stage::new();
    let folder = tempfile::tempdir().unwrap();
    let [authority, certificate, key] = files(folder.path());
    let [authority, certificate, key] =
        [&authority, &certificate, &key].map(|it| it.to_str().unwrap());
    let address = "127.0.0.1:4244";
    let daemon = stage.daemon(&[
        "--cluster-name",
        "prod",
        "--hubble-event-buffer-capacity",
        "1023",
        "--hubble-listen-address",
        "0.0.0.0:4244",
        "--hubble-tls-cert-file",
        certificate,
        "--hubble-tls-key-file",
        key,
        "--hubble-tls-client-ca-files",
        authority,
    ]);
    stage.play();
    let output = stage.ask(&[address, authority, certificate, key, NAME]);
    check(&output);
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().map(|line| line.parse::<Value>().unwrap());
    let lines: Vec<Value> = lines.collect();
    let node = lines.iter().find_map(|line| line.get("node_address"));
    // Neither the one that stands for all of them, nor the bridge's: the one by which it goes to the outside.
    assert_eq!(node.unwrap(), "203.0.113.1:4244");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let name = Value::from(format!("prod/{}", host.trim()));
    for line in lines.iter().filter(|line| line["event"].is_object()) {
        assert_eq!(line["node"], name, "{line}");
    }
    let socket = daemon.path("namegate.sock").display().to_string();
    let observe = ["observe", "--socket", &socket, "-o", "json", "--all"];
    let of = |flags: &[&str]| {
        let output = daemon.namegate(&[&observe[..], flags].concat()).unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let flows = text.lines().map(|line| line.parse::<Value>().unwrap());
        flows.collect::<Vec<Value>>()
    };
    for line in of(&["--pod", "client"]) {
        let told = [&line["node_name"], &line["flow"]["node_name"]];
        assert_eq!(told, [&name; 2], "{line}");
        let ends = [&line["flow"]["source"], &line["flow"]["destination"]];
        let client = ends.iter().find(|end| end["pod_name"] == "client");
        assert_eq!(client.unwrap()["cluster_name"], "prod", "{line}");
    }
    assert!(!of(&["--cluster", "prod", "--node-name", "prod/"]).is_empty());
    assert!(of(&["--cluster", "default"]).is_empty());
    assert!(of(&["--node-name", "default/"]).is_empty());
    let stranger = stage.ask(&[address]);
    assert!(!stranger.status.success(), "{stranger:?}");
    drop(daemon);
}

#[test]
fn a_file_gets_the_flows_that_it_wants() {
    let stage = Stage::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flows.json");
    let daemon = stage.daemon(&[
        "--hubble-export-file-path",
        file.to_str().unwrap(),
        "--hubble-export-allowlist",
        r#"{"verdict":["DROPPED"],"protocol":["dns"]} {"uuid":["00000000-0000-4000-8000-000000000000"]}"#,
        "--hubble-export-fieldmask",
        "verdict,l7.dns.query",
    ]);
    stage.play();
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let flows: Vec<_> = lines.iter().filter(|it| it["flow"].is_object()).collect();
    assert_eq!(flows.len(), 1, "{text}");
    let expected = serde_json::json!({
        "verdict": "DROPPED",
        "l7": { "dns": { "query": "x.evil.test." } },
    });
    assert_eq!(flows[0]["flow"], expected);
    // What the daemon itself did is there whatever flows are wanted, as another language reads it from the
    // Observer.
    let answers = stage.ask(&[&format!("unix://{}", daemon.path("hubble.sock").display())]);
    let answers = String::from_utf8(answers.stdout).unwrap();
    let told: Vec<Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["event"].is_object())
        .collect();
    let written: Vec<_> = lines
        .iter()
        .filter(|it| it["agent_event"].is_object())
        .map(|it| serde_json::json!([it["agent_event"], it["node_name"], it["time"]]))
        .collect();
    let told: Vec<_> = told
        .iter()
        .map(|it| serde_json::json!([it["event"], it["node"], it["time"]]))
        .collect();
    assert!(told.len() > 4, "{answers}");
    assert_eq!(written, told);
    let status = daemon.status().unwrap();
    let file = &status["flows"]["files"][0];
    assert_eq!(file["written"], lines.len(), "{status:#}");
    let wrong = [
        "run",
        "--flow-log",
        "x",
        "--hubble-export-allowlist",
        "{\"nope\":1}",
    ];
    let output = daemon.namegate(&wrong).unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn files_of_flows_come_and_go_with_the_file_that_names_them() {
    let stage = Stage::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let config = path("flowlogs.yaml");
    let write = |entries: &str| fs::write(&config, format!("flowLogs:\n{entries}")).unwrap();
    let (all, denied) = (path("all.jsonl"), path("denied.jsonl"));
    let all_entry = format!("- {{name: all, filePath: {}}}\n", all.display());
    let denied_entry = format!(
        "- {{name: denied, filePath: {}, fieldMask: [l7.dns.query], includeFilters: [{{verdict: [DROPPED]}}]}}\n",
        denied.display()
    );
    write(&all_entry);
    let config = config.display().to_string();
    let daemon = stage.daemon(&["--hubble-flowlogs-config-path", &config]);
    stage.play();
    assert!(fs::read_to_string(&all).unwrap().lines().count() > 4);
    assert!(!denied.exists());
    write(&denied_entry);
    let names = || {
        let status = daemon.status().unwrap();
        let files = status["flows"]["files"].as_array().unwrap().clone();
        let names = files.iter().map(|file| file["name"].to_string());
        (
            names.collect::<Vec<_>>().join(" "),
            status["flows"]["files_fault"].clone(),
        )
    };
    let wait = |wanted: &dyn Fn(&(String, Value)) -> bool| {
        let mut tries = 0..100;
        while !wanted(&names()) {
            assert!(tries.next().is_some(), "{:?}", names());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait(&|(names, _)| names == "\"denied\"");
    let before = fs::metadata(&all).unwrap().len();
    stage.play();
    let text = fs::read_to_string(&denied).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(line["flow"]["l7"]["dns"]["query"], "x.evil.test.", "{text}");
    assert_eq!(fs::metadata(&all).unwrap().len(), before);
    // One that can't be used is told, and what was goes on.
    write("- {name: denied}\n");
    wait(&|(names, fault)| names == "\"denied\"" && fault.to_string().contains("filePath"));
    let folders =
        ["policies", "endpoints", "other"].map(|it| daemon.path(it).display().to_string());
    let [policies, endpoints, state] = &folders;
    let wrong = [
        &[
            "run",
            "--hubble-flowlogs-config-path",
            "/nowhere/x",
            "--policy-dir",
            policies,
        ][..],
        &["--endpoint-dir", endpoints, "--state-dir", state],
    ];
    let output = daemon.namegate(&wrong.concat()).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("/nowhere/x"), "{said}");
}

/// Of what is alike one line is written in each interval, with how often it was.
#[test]
fn a_file_that_counts_what_is_alike_counts_all_of_it() {
    let stage = Stage::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (config, file) = (path("flowlogs.yaml"), path("counted.jsonl"));
    let entry = "{name: counted, fieldAggregate: [verdict, l7.dns.query], aggregationInterval: 1s";
    let only = "includeFilters: [{protocol: [dns], reply: [false]}]";
    let text = format!(
        "flowLogs:\n- {entry}, {only}, filePath: {}}}\n",
        file.display()
    );
    fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let mut daemon = stage.daemon(&["--hubble-flowlogs-config-path", &config]);
    let ask = |name: &str, times: usize| {
        for _ in 0..times {
            let _ = stage.client.dig(stage.dns.v4.into(), &["+short", name]);
        }
    };
    ask("x.evil.test", 3);
    ask("web.example.com", 2);
    std::thread::sleep(Duration::from_millis(1_500));
    let lines = || {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().map(|line| line.parse::<Value>().unwrap());
        let flows = lines.filter(|line| line["flow"].is_object());
        flows
            .map(|line| line["flow"].clone())
            .collect::<Vec<Value>>()
    };
    assert!(!lines().is_empty(), "an interval is over");
    // What is left at the end is written then.
    ask("x.evil.test", 4);
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    let of = |verdict: &str, name: &str| {
        let told = lines()
            .into_iter()
            .filter(|flow| flow["verdict"] == verdict && flow["l7"]["dns"]["query"] == name);
        let counts = told.map(|flow| {
            assert_eq!(flow.as_object().unwrap().len(), 3, "{flow}");
            flow["aggregate"]["egress_flow_count"].as_u64().unwrap()
        });
        counts.collect::<Vec<_>>()
    };
    let denied = of("DROPPED", "x.evil.test.");
    assert_eq!(denied.iter().sum::<u64>(), 7, "{denied:?}");
    assert!((2..=5).contains(&denied.len()), "{denied:?}");
    let allowed = of("FORWARDED", "web.example.com.");
    assert_eq!(allowed.iter().sum::<u64>(), 2, "{allowed:?}");
}
