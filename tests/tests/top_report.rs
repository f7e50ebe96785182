//! `namegate top` and `namegate report` of a real daemon's flows.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::path::Path;
use std::process::Command;

use namegate_tests::{Daemon, Running, Web, internet};
use serde_json::Value;

const ZONE: &str = "web 30 IN A 198.18.0.1\n";

/// `alice` may ask for names below example.com, and connect to one of them.
fn rules() -> String {
    internet("alice", "toPorts: [{ports: [{port: '80', protocol: TCP}]}]")
}

/// A node on which alice asked for two names and called a server twice, on a port that is open and on one
/// that is not; its daemon has told of all of it.
struct Told<'a> {
    web: &'a Web,
    daemon: Daemon<'a>,
    file: String,
    socket: String,
    _knot: Running,
}

impl<'a> Told<'a> {
    fn new(web: &'a Web) -> Self {
        let knot = Running::knot(&web.bob.ns, ZONE).unwrap();
        let mut daemon = Daemon::prepare(&web.node).unwrap();
        daemon.endpoint(&web.alice).unwrap();
        daemon.policy("internet.yaml", &rules()).unwrap();
        let file = daemon.path("flows.jsonl").display().to_string();
        daemon.start(&["--flow-log", &file]).unwrap();
        let dig = |name| web.alice.dig(web.bob.v4.into(), &["+short", name]).unwrap();
        assert_eq!(dig("web.example.com"), "198.18.0.1\n");
        assert_eq!(dig("x.evil.test"), "");
        let curl = ["-sS", "-m", "10", "-o", "/dev/null", "http://198.18.0.1/"];
        web.alice.check("curl", &curl).unwrap();
        let denied = ["-sS", "-m", "1", "http://198.18.0.1:443/"];
        assert!(!web.alice.output("curl", &denied).unwrap().status.success());
        let socket = daemon.path("namegate.sock").display().to_string();
        let told = Self {
            web,
            daemon,
            file,
            socket,
            _knot: knot,
        };
        told.wait();
        told
    }

    /// Until the last of it stands in the file.
    fn wait(&self) {
        let is_there = || {
            let text = std::fs::read_to_string(&self.file).unwrap_or_default();
            text.contains("\"destination_port\":443") && text.contains("x.evil.test")
        };
        let tries = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            is_there()
        });
        assert!(tries, "not told in five seconds");
    }

    fn top(&self, more: &[&str]) -> String {
        let args = [&["top", "--socket", &self.socket], more].concat();
        let output = self.daemon.namegate(&args).unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn top_shows_who_talked_to_which_names() {
    let web = Web::new().unwrap();
    let told = Told::new(&web);
    let value: Value = serde_json::from_str(&told.top(&["-o", "json"])).unwrap();
    let pair = |how: &str| {
        let pairs = value["pairs"].as_array().unwrap().iter();
        let mut found = pairs.filter(|pair| pair["how"] == how);
        found.next().cloned().unwrap_or_default()
    };
    let web_pair = pair("80/TCP");
    assert_eq!(web_pair["from"], "default/alice", "{value:#}");
    assert_eq!(web_pair["to"], "web.example.com", "{value:#}");
    let counted = (&web_pair["allowed"], &web_pair["denied"]);
    assert_eq!(counted, (&1.into(), &0.into()));
    assert!(pair("443/TCP")["denied"].as_u64() > Some(0), "{value:#}");
    let mut names = value["names"].as_array().unwrap().iter();
    let evil = names.find(|name| name["name"] == "x.evil.test").unwrap();
    assert_eq!((&evil["asked"], &evil["denied"]), (&1.into(), &1.into()));
    // No terminal: a table, once.
    let text = told.top(&[]);
    let is_plain = !text.contains('\u{1b}');
    assert!(text.contains("web.example.com") && is_plain, "{text}");
    let refused = told.daemon.namegate(&["top", "--interval", "0"]).unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn on_a_terminal_top_is_drawn_anew_until_it_is_interrupted() {
    let web = Web::new().unwrap();
    let told = Told::new(&web);
    let (binary, socket) = (Daemon::binary().unwrap(), &told.socket);
    let live = format!(
        "stty cols 100 rows 30; timeout --foreground -s INT 4 {} top --socket {socket}",
        binary.display()
    );
    let mut script = told.web.node.command("script");
    let output = script.args(["-qfc", &live, "/dev/null"]).output().unwrap();
    let screen = String::from_utf8_lossy(&output.stdout);
    for part in ["\u{1b}[?1049h", "\u{1b}[?1049l", "web.example.com"] {
        assert!(screen.contains(part), "{part:?}: {screen}");
    }
    assert!(screen.matches("namegate top ").count() >= 3, "{screen}");
}

#[test]
fn a_report_has_the_names_and_the_policy_that_would_allow_what_was_denied() {
    let web = Web::new().unwrap();
    let told = Told::new(&web);
    let page = told.daemon.path("report.html").display().to_string();
    let args = ["report", "--from", &told.file, "--output", &page];
    let output = told.daemon.namegate(&args).unwrap();
    assert!(output.status.success(), "{output:?}");
    let page = std::fs::read_to_string(page).unwrap();
    for part in [
        "<title>default/alice → web.example.com: ",
        "→ web.example.com (443/TCP)</summary>",
        "This policy would allow",
        "x.evil.test",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    let args = ["report", "--live", "--socket", &told.socket];
    let output = told.daemon.namegate(&args).unwrap();
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(page.starts_with("<!DOCTYPE html>"), "{output:?}");
}

/// What a browser shows of a page.
fn seen(page: &Path) -> Value {
    let is_there = Command::new("chromium").arg("--version").output();
    assert!(
        is_there.is_ok_and(|it| it.status.success()),
        "the report is looked at in a browser, and chromium is not installed: `cargo xtask test --install`"
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/look.py");
    let mut command = Command::new("timeout");
    let command = command.args(["120", "/usr/bin/python3"]);
    let output = command.arg(script).arg(page).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_browser_draws_the_report_opens_its_denials_and_loads_nothing_else() {
    let web = Web::new().unwrap();
    let told = Told::new(&web);
    let page = told.daemon.path("report.html");
    let to = page.display().to_string();
    let args = ["report", "--from", &told.file, "--output", &to];
    assert!(told.daemon.namegate(&args).unwrap().status.success());
    let seen = seen(&page);
    let list = |name: &str| seen[name].as_array().cloned().unwrap_or_default();
    assert_eq!(seen["title"], "What the gate saw", "{seen:#}");
    let headings = [
        "What the gate saw",
        "Services by name",
        "Who talks to whom",
        "What was denied",
        "Names, the slowest first",
    ];
    assert_eq!(list("headings"), headings, "{seen:#}");
    assert_eq!(seen["scripts"], 0);
    assert_eq!(
        (list("asked_for"), list("said")),
        (vec![], vec![]),
        "{seen:#}"
    );
    // The map: lines, and names inside of the drawing.
    assert!(seen["edges"].as_u64() > Some(0), "{seen:#}");
    assert!(!list("bad").is_empty() && list("bad").iter().all(|it| it != "none"));
    let names = list("names");
    for name in ["default/alice", "web.example.com"] {
        assert!(names.contains(&name.into()), "{name}: {seen:#}");
    }
    assert_eq!(list("outside"), Vec::<Value>::new());
    assert_eq!(seen["wider"], false, "it must be scrolled sideways");
    // The tables and the latency.
    assert!(
        seen["rows"].as_u64() > Some(1) && seen["bars"].as_u64() > Some(0),
        "{seen:#}"
    );
    assert!(
        list("asked").contains(&"web.example.com".into()),
        "{seen:#}"
    );
    // A denial is closed until somebody clicks on it.
    assert_eq!(list("policy"), Vec::<Value>::new());
    let opened = list("opened");
    let policy = opened.first().and_then(Value::as_str).unwrap_or_default();
    assert!(policy.contains("kind: CiliumNetworkPolicy"), "{seen:#}");
    assert!(seen["picture"].as_u64() > Some(10_000), "an empty picture");
}

#[test]
fn a_report_of_nothing_fails_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(Daemon::binary().unwrap());
        command.arg("report").args(args).output().unwrap()
    };
    let empty = folder.path().join("empty.jsonl");
    std::fs::write(&empty, "no flow\n").unwrap();
    let output = run(&["--from", &empty.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 lines that can't be read"));
    assert!(output.stdout.is_empty());
    assert_eq!(run(&["--from", "/nowhere/x"]).status.code(), Some(2));
    assert_eq!(run(&[]).status.code(), Some(2));
}
