//! `namegate sysdump` of the real daemon: what somebody needs who looks for a fault is in it, and no secret is.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use namegate_tests::{Stage, policy};

/// What is planted where secrets are, and must not come out.
const SECRET: &str = "hunter2planted";

const KEYED: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: keyed}
spec:
  endpointSelector: {matchLabels: {app: nobody}}
  egress:
  - toPorts:
    - ports: [{port: '80', protocol: TCP}]
      rules:
        http:
        - method: GET
          headers:
          - 'X-Shop: SECRET'
        - headerMatches:
          - name: X-Other
            value: SECRET
";

/// What is there without secrets.
const PARTS: [&str; 12] = [
    "version.txt",
    "config.json",
    "doctor.json",
    "status.json",
    "endpoints.json",
    "identities.json",
    "names.json",
    "maps/list.json",
    "maps/LEARNED.jsonl",
    "policies0/000-alice.yaml",
    "machine/proc/version",
    "errors.txt",
];

fn tar(words: &[&str]) -> String {
    let output = Command::new("tar").args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_archive_tells_all_but_secrets() {
    let stage = Stage::new().unwrap();
    let alice = policy("alice", "[{matchName: web.example.com}]");
    let mut daemon = stage.daemon(&alice).unwrap();
    daemon
        .secret(
            "default/shop",
            "tls.key",
            &format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"),
        )
        .unwrap();
    let headers = KEYED.replace("SECRET", SECRET);
    daemon.policy("keyed.yaml", &headers).unwrap();
    let config = daemon.path("config.yaml").display().to_string();
    let (policies, pins) = (
        daemon.path("policies").display().to_string(),
        "/sys/fs/bpf/namegate-sysdump",
    );
    let text = format!(
        "policy_dir: {policies}\nbpf_dir: {pins}\nhubble_export_otlp_endpoint: http://me:{SECRET}@127.0.0.1:9\n\
         tls_secrets: {}\n",
        daemon.path("secrets").display()
    );
    fs::write(&config, text).unwrap();
    daemon
        .start(&["--config", &config, "--instance", "sysdump"])
        .unwrap();
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");

    let file = daemon.path("dump.tar").display().to_string();
    let socket = daemon.path("namegate.sock").display().to_string();
    let words = [
        "sysdump",
        "--output",
        &file,
        "--config",
        &config,
        "--socket",
        &socket,
        "--instance",
        "sysdump",
    ];
    let output = daemon.namegate(&words).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let names = tar(&["-tf", &file]);
    for name in PARTS {
        assert!(
            names.lines().any(|line| line == name),
            "{name} is not in\n{names}"
        );
    }
    assert!(tar(&["-xOf", &file, "names.json"]).contains("web.example.com"));
    assert!(tar(&["-xOf", &file, "maps/LEARNED.jsonl"]).contains("198.18.0.1"));
    assert!(tar(&["-xOf", &file, "policies0/001-keyed.yaml"]).contains("headerMatches"));
    assert!(tar(&["-xOf", &file, "config.json"]).contains("[redacted]@127.0.0.1:9"));
    let all = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
    assert!(!all.contains(SECRET), "a secret is in it");

    let again = daemon.namegate(&words).unwrap();
    assert_eq!(again.status.code(), Some(1), "a file that is there stays");
    let socket = ["--instance", "sysdump", "--socket", &socket];
    let detached = daemon
        .namegate(&[&["detach"], &socket[..]].concat())
        .unwrap();
    assert!(detached.status.success(), "{detached:?}");
}

#[test]
fn without_a_daemon_there_is_less_and_that_is_said() {
    let stage = Stage::new().unwrap();
    let daemon = stage.daemon("").unwrap();
    let file = daemon.path("dump.tar").display().to_string();
    let socket = daemon.path("no.sock").display().to_string();
    let config = daemon.path("config.yaml").display().to_string();
    fs::write(&config, "audit: perhaps\n").unwrap();
    let words = [
        "sysdump", "--output", &file, "--config", &config, "--socket", &socket,
    ];
    let output = daemon.namegate(&words).unwrap();
    assert!(output.status.success(), "{output:?}");
    let errors = tar(&["-xOf", &file, "errors.txt"]);
    for told in [
        "status.json: no daemon answers",
        "config.yaml:1:8: error: audit",
    ] {
        assert!(errors.contains(told), "{told} is not in\n{errors}");
    }
}
