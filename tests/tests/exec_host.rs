//! `namegate exec --net=host`: a command in the machine's own network, judged at its cgroup.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::fs::File;
use std::io::BufRead as _;
use std::process::{Output, Stdio};

use namegate_tests::{Cgroup, ExecStage, must_be_equal, policy, seen_by};

/// One socket of each kind; see there.
const SOCKETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sockets.py");
/// What nginx says of a request, without the client's port.
const NGINX: &str = "cut -d' ' -f1,3-";

/// What a shell says that is run with these words: its code, standard output and error.
fn shell(stage: &ExecStage, words: &[&str], script: &str) -> (Option<i32>, String, String) {
    let words = [&["--net=host"], words, &["--", "sh", "-c", script]].concat();
    let Output {
        status,
        stdout,
        stderr,
    } = stage.run(&words).unwrap();
    let text = |octets: Vec<u8>| String::from_utf8_lossy(&octets).into_owned();
    (status.code(), text(stdout), text(stderr))
}

/// Has no other test see what this one leaves: who starts next takes it away.
fn alone() -> File {
    let root = File::open(Cgroup::root().unwrap()).unwrap();
    root.lock().unwrap();
    root
}

/// Beside others that leave nothing.
fn beside() -> File {
    let root = File::open(Cgroup::root().unwrap()).unwrap();
    root.lock_shared().unwrap();
    root
}

/// Whether a process runs; its parent may be slow to look.
fn runs(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    status.is_ok_and(|status| !status.contains(") Z "))
}

/// Cgroups of commands and folders of pins that are there now.
fn left(stage: &ExecStage) -> Vec<String> {
    let root = Cgroup::root().unwrap().display().to_string();
    let listed = ["/sys/fs/bpf", &root].map(|place| stage.node.check("ls", &[place]).unwrap());
    let names = listed.iter().flat_map(|names| names.lines());
    let ours = names.filter(|name| name.starts_with("namegate-exec-"));
    ours.map(str::to_owned).collect()
}

/// Ends what a test that fails leaves: it has our standard error.
struct Ends(String);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = std::process::Command::new("kill")
            .args(["-9", &self.0])
            .status();
    }
}

#[test]
fn an_allowed_name_is_reached_from_the_machines_network_and_nothing_else_is() {
    let _beside = beside();
    let stage = ExecStage::new().unwrap();
    let before = stage.node.fingerprint().unwrap();
    let script = format!(
        "readlink /proc/self/ns/net
         dig +short web.example.com; dig +short +tcp web.example.com AAAA
         curl -sS -m 5 -4 http://web.example.com/a | {NGINX}
         curl -sS -m 5 -6 http://web.example.com/b | {NGINX}
         dig +noall +comments other.example.com | grep -o NXDOMAIN
         python3 {SOCKETS} tcp 198.18.0.2 80; python3 {SOCKETS} udp 198.18.0.2 80
         python3 {SOCKETS} tcp 169.254.169.254 80
         exit 7"
    );
    let words = ["--allow", "web.example.com", "--allow", "169.254.0.0/16"];
    let (code, said, errors) = shell(&stage, &words, &script);
    let own = stage
        .node
        .check("readlink", &["/proc/self/ns/net"])
        .unwrap();
    let wanted = [
        own.trim(),
        "198.18.0.1",
        "2001:db8:1::1",
        "203.0.113.1 198.18.0.1 web.example.com /a",
        "2001:db8::1 2001:db8:1::1 web.example.com /b",
        "NXDOMAIN",
        "EACCES",
        "EPERM",
        "EACCES",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted, "{errors}");
    assert_eq!(code, Some(7), "{errors}");
    for line in ["--allow other.example.com\n", "--allow 198.18.0.2\n"] {
        assert!(errors.contains(line), "{errors}");
    }
    must_be_equal(&before, &stage.node.fingerprint().unwrap());
}

#[test]
fn metadata_services_are_closed_in_an_audit_too_and_where_a_policy_only_mentions_them() {
    const SERVICES: [&str; 4] = [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "fd20:ce::254",
    ];
    let _beside = beside();
    let stage = ExecStage::new().unwrap();
    let (node, world) = (&stage.node, &stage.world);
    for service in SERVICES {
        let (family, via) = match service.contains(':') {
            true => ("-6", world.v6.to_string()),
            false => ("-4", world.v4.to_string()),
        };
        let words = [family, "addr", "add", service, "dev", "lo"];
        world.check("ip", &words).unwrap();
        let words = [family, "route", "add", service, "via", &via];
        node.check("ip", &words).unwrap();
    }
    let all = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: all}\nspec:\n  \
               endpointSelector: {}\n  egress:\n  - toCIDRSet: [{cidr: 0.0.0.0/0, except: [169.254.169.254/32]}]\n  \
               - toCIDR: ['::/0']\n";
    let file = stage.file("all.yaml", all).unwrap();
    let try_all = |words: &[&str], services: &[&str]| {
        let ask = |service: &&str| {
            let service = match service.contains(':') {
                true => format!("[{service}]"),
                false => (*service).to_owned(),
            };
            format!("curl -s -o /dev/null -m 2 -w '%{{http_code}}\\n' 'http://{service}/'; ")
        };
        let script: String = services.iter().map(ask).collect();
        let (_, said, errors) = shell(&stage, words, &script);
        (said, errors)
    };
    let with_other = [&SERVICES[..], &["198.18.0.2"]].concat();
    for words in [
        &["--audit"][..],
        &["--policy", &file],
        &["--audit", "--policy", &file],
    ] {
        let (said, errors) = try_all(words, &with_other);
        assert_eq!(said, "000\n000\n000\n000\n200\n", "{words:?}: {errors}");
    }
    for service in SERVICES {
        for words in [&["--allow", service][..], &["--audit", "--allow", service]] {
            let (said, errors) = try_all(words, &[service]);
            assert_eq!(said, "200\n", "{words:?}: {errors}");
        }
    }
}

#[test]
fn it_ends_as_its_command_does_and_tells_what_others_tell() {
    let _beside = beside();
    let stage = ExecStage::new().unwrap();
    for (words, code) in [
        (&["--", "true"][..], 0),
        (&["--", "sh", "-c", "kill -9 $$"], 137),
        (&["--", "no-such-program"], 127),
        (&["--mode", "tc", "--", "true"], 125),
    ] {
        let output = stage.run(&[&["--net=host"], words].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    }
    let learned = stage.dir.path().join("learned.yaml").display().to_string();
    let script = format!("curl -sS -m 9 -4 http://web.example.com/a | {NGINX}");
    let wanted = "203.0.113.1 198.18.0.1 web.example.com /a\n";
    let (_, said, errors) = shell(&stage, &["--audit", "--learn", &learned], &script);
    assert_eq!(said, wanted, "{errors}");
    assert!(errors.contains("--allow web.example.com\n"), "{errors}");
    let (_, said, errors) = shell(&stage, &["--policy", &learned], &script);
    assert_eq!(said, wanted, "{errors}");
    let words = ["--allow", "web.example.com", "--fail-on-deny"];
    let (code, _, errors) = shell(&stage, &words, "dig +short other.example.com");
    assert_eq!(code, Some(124), "{errors}");
}

#[test]
fn the_machines_own_resolver_is_asked_and_judged() {
    let _beside = beside();
    let stage = ExecStage::new().unwrap();
    let zone = "web 60 IN A 198.18.0.1\nother 60 IN A 198.18.0.2\n";
    let _knot = namegate_tests::Running::knot(&stage.node.ns, zone).unwrap();
    for server in ["127.0.0.53", "127.0.0.1", "203.0.113.1"] {
        stage.resolve_by(&format!("nameserver {server}\n")).unwrap();
        let script = format!(
            "dig +short other.example.com; curl -sS -m 5 http://web.example.com/ | {NGINX}"
        );
        let (_, said, errors) = shell(&stage, &["--allow", "web.example.com"], &script);
        let wanted = "203.0.113.1 198.18.0.1 web.example.com /\n";
        assert_eq!(said, wanted, "{server}: {errors}");
    }
}

#[test]
fn from_inside_there_is_no_way_out_of_the_cgroup() {
    let _beside = beside();
    let stage = ExecStage::new().unwrap();
    let root = Cgroup::root().unwrap().display().to_string();
    let seen = seen_by(&stage.world, "dst host 198.18.0.2", || {
        let script = format!(
            "{{ echo $$ > {root}/cgroup.procs; mkdir {root}/x; mount -o remount,rw {root}
                umount /sys/fs/bpf; unshare -n true; nsenter -t 1 -m true; ls /sys/fs/bpf
                for kind in tcp tcp_mapped fastopen udp udp_connected uring_connect raw_icmp; do
                  python3 {SOCKETS} $kind 198.18.0.2 80; done; }} 2>/dev/null
             python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)' 2>&1 | tail -1
             grep ^0:: /proc/self/cgroup | grep -c namegate-exec-"
        );
        let (_, said, errors) = shell(&stage, &["--allow", "web.example.com"], &script);
        assert!(!said.contains("ok\n"), "{said}{errors}");
        assert!(said.contains("PermissionError"), "{said}");
        assert!(said.ends_with("\n1\n"), "{said}");
        Ok(())
    });
    assert_eq!(seen.unwrap(), "");
}

#[test]
fn many_run_at_once_beside_a_daemon_and_each_has_its_own_policy() {
    let _beside = beside();
    let stage = ExecStage::new().unwrap();
    let mut daemon = namegate_tests::Daemon::prepare(&stage.node).unwrap();
    daemon
        .policy("job.yaml", &policy("job", "[{matchName: x.test}]"))
        .unwrap();
    daemon.start(&[]).unwrap();
    let script = "dig +short web.example.com; dig +short other.example.com";
    let running: Vec<_> = (0..4)
        .map(|number| {
            let name = ["web.example.com", "other.example.com"][number % 2];
            let words = ["--net=host", "--allow", name, "--", "sh", "-c", script];
            let mut command = stage.command(&words).unwrap();
            (name, command.stdout(Stdio::piped()).spawn().unwrap())
        })
        .collect();
    for (name, child) in running {
        let output = child.wait_with_output().unwrap();
        let wanted = match name.starts_with("web") {
            true => "198.18.0.1\n",
            false => "198.18.0.2\n",
        };
        assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{name}");
    }
}

/// Links without a pin end with their process: then what was left would be open.
#[test]
fn killed_what_it_leaves_stays_closed_and_the_next_start_ends_it_and_says_so() {
    let _alone = alone();
    let stage = ExecStage::new().unwrap();
    // What is left has another parent, and tries for as long as it lives.
    let script = format!(
        "curl -s -m 5 -o /dev/null http://web.example.com/
         (while :; do python3 {SOCKETS} tcp 198.18.0.2 80; sleep 0.1; done) & echo $!; exec sleep 7654"
    );
    let words = [
        "--net=host",
        "--allow",
        "web.example.com",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let mut child = stage.command(&words).unwrap();
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let left_behind = lines.next().unwrap().unwrap();
    let _ends = Ends(left_behind.clone());
    let seen = seen_by(&stage.world, "dst host 198.18.0.2", || {
        assert_eq!(lines.next().unwrap().unwrap(), "EACCES");
        child.kill().unwrap();
        child.wait().unwrap();
        // Of which some were written before.
        for _ in 0..10 {
            assert_eq!(lines.next().unwrap().unwrap(), "EACCES");
        }
        Ok(())
    });
    assert_eq!(seen.unwrap(), "");
    assert!(runs(&left_behind));
    assert_eq!(left(&stage).len(), 2);

    let (code, _, errors) = shell(&stage, &[], "true");
    assert_eq!(code, Some(0));
    assert!(errors.contains("an earlier exec was killed"), "{errors}");
    assert!(!runs(&left_behind), "{errors}");
    assert_eq!(left(&stage), [""; 0]);
    let (_, _, errors) = shell(&stage, &[], "true");
    assert_eq!(errors, "");
}

#[test]
fn what_a_command_leaves_running_ends_with_it() {
    let _alone = alone();
    let stage = ExecStage::new().unwrap();
    let script = "setsid sleep 7653 >/dev/null 2>&1 & echo $!";
    let (_, said, errors) = shell(&stage, &[], script);
    assert!(!runs(&said), "{said}{errors}");
    assert_eq!(left(&stage), [""; 0]);
}

#[test]
fn a_port_of_the_machine_is_reached_where_it_is_allowed() {
    let _beside = beside();
    let stage = ExecStage::new().unwrap();
    let _web = namegate_tests::Running::nginx(&stage.node.ns).unwrap();
    let ask = "curl -s -o /dev/null -m 2 -w '%{http_code}\n' http://127.0.0.1";
    let script = format!("{ask}:8080/; {ask}:80/");
    let (_, said, errors) = shell(&stage, &["--allow-host-port", "8080"], &script);
    assert_eq!(said, "200\n000\n", "{errors}");
    assert!(errors.contains("--allow-host-port 80\n"), "{errors}");
}
