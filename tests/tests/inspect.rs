//! What is in the kernel, told in words: with a daemon, and after it was killed.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use namegate_tests::{Daemon, Stage, policy};
use serde_json::Value;

/// What `alice` may reach.
const NAMES: &str = "[{matchName: web.example.com}]";

/// A started daemon that guards alice, who has learned an address and used it.
fn daemon(stage: &Stage) -> Daemon<'_> {
    let mut daemon = stage.daemon(&policy("alice", NAMES)).unwrap();
    daemon.start(&[]).unwrap();
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    assert!(stage.reaches("198.18.0.1:80").unwrap());
    daemon
}

/// What a command says to programs, and whether it ended well.
fn ask(daemon: &Daemon<'_>, command: &str) -> (Value, bool) {
    let socket = daemon.path("namegate.sock").display().to_string();
    let mut args: Vec<&str> = command.split(' ').collect();
    args.extend(["-o", "json", "--socket", &socket]);
    let output = daemon.namegate(&args).unwrap();
    let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (value, output.status.success())
}

/// What a command says to programs.
fn json(daemon: &Daemon<'_>, command: &str) -> Value {
    let (value, is_well) = ask(daemon, command);
    assert!(is_well, "{command}: {value}");
    value
}

/// What a command says to people.
fn text(daemon: &Daemon<'_>, command: &str) -> String {
    let socket = daemon.path("namegate.sock").display().to_string();
    let mut args: Vec<&str> = command.split(' ').collect();
    args.extend(["--socket", &socket]);
    let output = daemon.namegate(&args).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The element of which this is true.
fn find(all: &Value, what: impl Fn(&Value) -> bool) -> &Value {
    let found = all.as_array().unwrap().iter().find(|one| what(one));
    found.unwrap_or_else(|| panic!("{all:#}"))
}

/// The maps as they must be, whether the daemon lives or not; gives the learned identity.
fn check_maps(daemon: &Daemon<'_>) -> u64 {
    let maps = json(daemon, "map list");
    let learned = find(&maps, |map| {
        map["path"] == "/sys/fs/bpf/namegate/maps/LEARNED"
    });
    assert_eq!(learned["type"], "hash");
    assert_eq!(learned["key_size"], 20);
    assert_eq!(learned["max_entries"], 262_144);
    assert_eq!(learned["entries"], 1);
    assert_eq!(
        find(&maps, |map| map["type"] == "ring_buf")["entries"],
        Value::Null
    );
    assert_eq!(maps.as_array().unwrap().len(), 24);

    let learned = json(daemon, "map get learned");
    let opened = find(&learned, |entry| entry["address"] == "198.18.0.1");
    assert_eq!(opened["endpoint"], 1);
    let identity = opened["identity"].as_u64().unwrap();
    assert!(identity >= 16_777_217, "{learned}");

    let policy = json(daemon, "map get policy --endpoint 1");
    let opens = find(&policy, |entry| entry["identity"] == identity);
    assert_eq!(opens["verdict"], "allow");
    assert_eq!(
        (&opens["direction"], &opens["port"]),
        (&"egress".into(), &Value::Null)
    );
    let asks = find(&policy, |entry| {
        entry["port"] == 53 && entry["protocol"] == "UDP"
    });
    assert_eq!(asks["verdict"], "redirect");
    assert!(asks["rule"].as_u64().unwrap() > 0, "{asks}");
    assert_eq!(
        json(daemon, "map get policy --endpoint 2"),
        Value::Array(Vec::new())
    );

    let flows = json(daemon, "map get ct --endpoint 1");
    let flow = find(&flows, |flow| flow["peer"] == "198.18.0.1");
    assert_eq!(
        (&flow["protocol"], &flow["peer_port"]),
        (&"TCP".into(), &80.into())
    );
    assert_eq!(
        (&flow["verdict"], &flow["identity"]),
        (&"allow".into(), &identity.into())
    );
    assert!(flow["idle_secs"].as_u64().unwrap() < 60, "{flow}");

    for name in [
        "config",
        "ep_if",
        "ep_id",
        "next_hop",
        "up_udp",
        "ipcache",
        "counters",
        "event_budget",
    ] {
        let entries = json(daemon, &format!("map get {name}"));
        assert!(!entries.as_array().unwrap().is_empty(), "{name}");
    }
    let prefixes = json(daemon, "map get ipcache");
    find(&prefixes, |entry| entry["prefix"] == "203.0.113.2/32");
    for wrong in [
        "map get events",
        "map get nothing",
        "map get counters --endpoint 1",
    ] {
        assert!(!ask(daemon, wrong).1, "{wrong}");
    }
    identity
}

#[test]
fn the_maps_are_told_in_words_also_when_the_daemon_is_dead() {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    check_maps(&daemon);
    let by_name = json(&daemon, "map get learned --endpoint default/alice");
    assert_eq!(by_name, json(&daemon, "map get learned --endpoint 1"));
    let table = text(&daemon, "map get policy --endpoint 1");
    assert!(
        table.starts_with("ENDPOINT  DIRECTION  IDENTITY"),
        "{table}"
    );

    daemon.end_with("KILL").unwrap();
    check_maps(&daemon);
    assert!(!ask(&daemon, "map get learned --endpoint default/alice").1);

    daemon.namegate(&["detach"]).unwrap();
    assert!(!ask(&daemon, "map list").1, "nothing is pinned any more");
}

#[test]
fn an_endpoint_and_its_identities_are_told() {
    let stage = Stage::new().unwrap();
    let daemon = daemon(&stage);
    let learned = check_maps(&daemon);
    let alice = json(&daemon, "endpoint get default/alice");
    assert_eq!(alice, json(&daemon, "endpoint get 1"));
    assert_eq!(alice["state"], "ready");
    assert_eq!(alice["enforcement"]["egress"], "enforced");
    assert_eq!(alice["enforcement"]["ingress"], "open");
    assert_eq!(alice["policy_revision"], 1);
    assert_eq!(
        (&alice["names"], &alice["open_addresses"]),
        (&1.into(), &1.into())
    );
    find(&alice["labels"], |label| *label == "k8s:app=alice");
    let program = find(&alice["programs"], |one| one["hook"] == "ingress");
    assert_eq!(
        (&program["program"], &program["ours"]),
        (&"ng_from_ep".into(), &true.into())
    );
    find(&alice["policy"], |entry| entry["identity"] == learned);
    assert!(!ask(&daemon, "endpoint get default/bob").1);
    let told = text(&daemon, "endpoint get 1");
    assert!(told.contains("ingress ng_from_ep (tcx)\n"), "{told}");

    let all = json(&daemon, "identity list");
    let own = find(&all, |one| one["id"] == alice["identity"]);
    assert_eq!(own["workloads"], serde_json::json!(["default/alice"]));
    let outside = find(&all, |one| one["id"] == learned);
    assert_eq!(outside["learned"], 1);
    let one = json(&daemon, &format!("identity get {learned}"));
    assert_eq!(
        one["learned"],
        serde_json::json!([{"endpoint": "default/alice", "address": "198.18.0.1"}])
    );
    assert!(
        one["labels"].to_string().contains("web.example.com"),
        "{one}"
    );
    assert!(!ask(&daemon, "identity get 77").1);
}

#[test]
fn the_daemons_writes_are_told_with_what_was_written() {
    let stage = Stage::new().unwrap();
    let daemon = daemon(&stage);
    let writes = |map: &str| -> Vec<Value> {
        let socket = daemon.path("namegate.sock").display().to_string();
        let args = ["map", "events", map, "-o", "json", "--socket", &socket];
        let output = daemon.namegate(&args).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let learned = writes("learned");
    assert_eq!(learned.len(), 1, "{learned:?}");
    assert_eq!(learned[0]["action"], "set");
    assert_eq!(learned[0]["entry"]["address"], "198.18.0.1");
    assert!(
        learned[0]["time"].as_str().unwrap().starts_with("20"),
        "{learned:?}"
    );
    let policy = writes("policy");
    let actions: Vec<&Value> = policy.iter().map(|write| &write["action"]).collect();
    assert_eq!(actions, ["replace", "set"], "{policy:?}");
    assert!(
        policy[0]["entry"]["entries"].as_u64().unwrap() > 0,
        "{policy:?}"
    );
    assert_eq!(policy[1]["entry"]["verdict"], "allow");

    let before = daemon.status().unwrap()["policy"]["revision"]
        .as_u64()
        .unwrap();
    let prefixes = writes("ipcache").len();
    daemon.policy("alice.yaml", &policy_of_nobody()).unwrap();
    daemon.wait_beyond(before).unwrap();
    let last = writes("learned").pop().unwrap();
    assert_eq!(
        (&last["action"], &last["entry"]["address"]),
        (&"delete".into(), &"198.18.0.1".into())
    );
    let new: Vec<Value> = writes("ipcache").split_off(prefixes);
    assert!(
        !new.is_empty() && new.iter().all(|write| write["action"] == "delete"),
        "{new:?}"
    );
    let binary = Daemon::binary().unwrap().display().to_string();
    let socket = daemon.path("namegate.sock").display().to_string();
    let followed = stage
        .node
        .command("timeout")
        .args([
            "1", &binary, "map", "events", "learned", "-f", "--socket", &socket,
        ])
        .output()
        .unwrap();
    assert_eq!(followed.status.code(), Some(124), "it goes on");
    let told = text(&daemon, "map events learned");
    // The time of day is worked out anew each time that somebody asks.
    let untimed = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split_once(' ').unwrap().1);
        lines.map(str::to_owned).collect()
    };
    let followed = String::from_utf8(followed.stdout).unwrap();
    assert_eq!(untimed(&followed), untimed(&told));
    assert!(
        told.contains("address=198.18.0.1 endpoint=1 identity=1677"),
        "{told}"
    );
}

/// A policy that closes alice.
fn policy_of_nobody() -> String {
    "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: alice}\n\
     spec: {endpointSelector: {matchLabels: {app: alice}}, egress: [{}]}\n"
        .to_owned()
}

/// The findings of `doctor` on the folders of a daemon.
fn doctor(daemon: &Daemon<'_>) -> (Value, bool) {
    let [policies, endpoints] = ["policies", "endpoints"].map(|dir| daemon.path(dir));
    let command = format!(
        "doctor --policy-dir {} --endpoint-dir {}",
        policies.display(),
        endpoints.display()
    );
    ask(daemon, &command)
}

#[test]
fn filters_of_others_are_told_with_ours() {
    let stage = Stage::new().unwrap();
    let mut daemon = stage.daemon("").unwrap();
    daemon.start(&["--hooks", "clsact"]).unwrap();
    let programs = || json(&daemon, "endpoint get 1")["programs"].clone();
    let ours = find(&programs(), |one| one["hook"] == "egress").clone();
    assert_eq!(
        (&ours["program"], &ours["by"], &ours["ours"]),
        (&"ng_to_ep".into(), &"clsact".into(), &true.into())
    );
    assert_eq!(programs().as_array().unwrap().len(), 2);
    let interface = json(&daemon, "endpoint get 1")["interface"].clone();
    let interface = interface.as_str().unwrap();
    // One instruction of the old machine: classify nothing.
    let words = format!("filter add dev {interface} ingress pref 50 bpf bytecode 1,6_0_0_0");
    let words: Vec<String> = words
        .split(' ')
        .map(|word| word.replace('_', " "))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    stage.node.check("tc", &words).unwrap();
    let foreign = find(&programs(), |one| one["program"] == "bpf").clone();
    assert_eq!(
        (&foreign["by"], &foreign["ours"]),
        (&"clsact".into(), &false.into())
    );
    let (after, _) = doctor(&daemon);
    assert_eq!(
        find(&after, |one| one["check"] == "programs")["status"],
        "ok"
    );

    // Without ours before it, whoever is on the link is told of.
    daemon
        .namegate(&[
            "detach",
            "--socket",
            &daemon.path("namegate.sock").display().to_string(),
        ])
        .unwrap();
    let (alone, is_well) = doctor(&daemon);
    let finding = find(&alone, |one| one["check"] == "programs");
    assert_eq!((&finding["status"], is_well), (&"warn".into(), true));
    let text = finding["message"].as_str().unwrap();
    assert!(
        text.contains("bpf is on ingress") && text.contains("default/alice"),
        "{text}"
    );
}

#[test]
fn doctor_says_what_is_missing_and_what_is_in_the_way() {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    let (well, is_well) = doctor(&daemon);
    assert!(is_well, "{well:#}");
    for check in [
        "privileges",
        "kernel",
        "btf",
        "hooks",
        "bpffs",
        "daemon",
        "policies",
        "endpoints",
        "programs",
    ] {
        let finding = find(&well, |one| one["check"] == check);
        assert_eq!(finding["status"], "ok", "{finding}");
    }

    daemon.end_with("KILL").unwrap();
    let (killed, is_well) = doctor(&daemon);
    assert!(is_well, "{killed:#}");
    let left = find(&killed, |one| one["check"] == "daemon");
    assert_eq!(left["status"], "warn", "{left}");

    daemon.policy("bad.yaml", "kind: X\n").unwrap();
    daemon
        .endpoint_file("gone.yaml", "name: gone\nnetns: /nowhere\n")
        .unwrap();
    let twin = "name: twin\ninterface: nosuch\nmac: 02:00:00:00:00:01\naddresses: [10.9.9.9]\n";
    daemon.endpoint_file("twin.yaml", twin).unwrap();
    let (ill, is_well) = doctor(&daemon);
    assert!(!is_well, "{ill:#}");
    for (check, word) in [
        ("policies", "bad.yaml:1:"),
        ("endpoints", "default/gone"),
        ("endpoints", "default/twin"),
    ] {
        let named =
            |one: &Value| one["check"] == check && one["message"].as_str().unwrap().contains(word);
        let finding = find(&ill, named);
        assert_eq!(finding["status"], "fail", "{finding}");
    }
}
