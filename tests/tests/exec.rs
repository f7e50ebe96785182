//! One command by `namegate exec`: what it reaches, what it doesn't, and how it ends.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::os::unix::process::ExitStatusExt;

use namegate_tests::{Caller, ExecStage, must_be_equal};

/// What nginx says of a request, without the client's port.
const NGINX: &str = "cut -d' ' -f1,3-";

#[test]
fn an_allowed_name_is_reached_over_both_families_and_nothing_else_is() {
    ExecStage::each(|stage| {
        let before = stage.node.fingerprint().unwrap();
        let (code, said, errors) = stage
            .shell(
                &["web.example.com", "six.example.com"],
                &format!(
                    "dig +short web.example.com; dig +short +tcp web.example.com AAAA
                 curl -sS -m 5 -4 http://web.example.com/a | {NGINX}
                 curl -sS -m 5 -6 http://six.example.com:8080/b | {NGINX}
                 dig +noall +comments other.example.com | grep -o NXDOMAIN
                 curl -sS -m 2 http://198.18.0.2/c
                 curl -sS -m 2 --resolve other.example.com:80:198.18.0.1 http://other.example.com/d
                 echo end"
                ),
            )
            .unwrap();
        assert_eq!(code, Some(0), "{said}{errors}");
        // The servers see the machine's own addresses. The last two requests are refused: one for its address,
        // one for the name in it.
        let wanted = [
            "198.18.0.1",
            "2001:db8:1::1",
            "203.0.113.1 198.18.0.1 web.example.com /a",
            "2001:db8::1 2001:db8:1::6 six.example.com /b",
            "NXDOMAIN",
            "Access denied",
            "end",
        ];
        assert_eq!(said.lines().collect::<Vec<_>>(), wanted, "{errors}");
        must_be_equal(&before, &stage.node.fingerprint().unwrap());
    });
}

#[test]
fn it_ends_as_its_command_does() {
    ExecStage::each(|stage| {
        let plain = stage.file("plain", "no program").unwrap();
        for (words, code) in [
            (&["--", "true"][..], 0),
            (&["--", "sh", "-c", "exit 7"], 7),
            (&["--", "sh", "-c", "kill -9 $$"], 137),
            (&["--", "/nowhere/at/all"], 127),
            (&["--", "no-such-program"], 127),
            (&["--", &plain], 126),
            (&["--allow", "exa mple", "--", "true"], 125),
            (&["--policy", "/nowhere.yaml", "--", "true"], 125),
            (&["--no-such-option", "--", "true"], 125),
        ] {
            let output = stage.run(words).unwrap();
            assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
            assert!(output.status.signal().is_none());
        }
    });
}

#[test]
fn a_firewall_that_drops_everything_is_passed_and_stays_as_it_is() {
    // INPUT and FORWARD drop, but for what answers; nothing is forwarded, and no port is open.
    const BY_IPTABLES: &[&str] = &[
        "-P INPUT DROP",
        "-P FORWARD DROP",
        "-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT",
    ];
    const REJECTING: &str = "table inet rejecting {
      chain input { type filter hook input priority 0; policy accept;
        ct state established,related accept; icmpv6 type { 133-136 } accept; reject; }
      chain forward { type filter hook forward priority 0; policy accept; reject; }
    }";
    for (firewall, caller) in [
        ("nft", Caller::Root),
        ("legacy", Caller::Root),
        ("rejecting", Caller::Root),
        ("rejecting", Caller::User),
    ] {
        let stage = ExecStage::of(caller).unwrap();
        let node = &stage.node;
        node.check("nft", &["delete", "table", "inet", "hostile"])
            .unwrap();
        node.check("nft", &["delete", "table", "inet", "nat"])
            .unwrap();
        node.sysctl("net.ipv4.ip_forward", "0").unwrap();
        if firewall == "rejecting" {
            node.nft(REJECTING).unwrap();
        } else {
            for program in [
                format!("iptables-{firewall}"),
                format!("ip6tables-{firewall}"),
            ] {
                for rule in BY_IPTABLES {
                    let words: Vec<&str> = rule.split(' ').collect();
                    node.check(&program, &words).unwrap();
                }
                if program.starts_with("ip6") {
                    let neighbours = ["-I", "INPUT", "-p", "ipv6-icmp", "-j", "ACCEPT"];
                    node.check(&program, &neighbours).unwrap();
                }
            }
        }
        let before = (rules(&stage), node.fingerprint().unwrap());
        let (code, said, errors) = stage
            .shell(
                &["web.example.com"],
                &format!(
                    "for f in -4 -6; do curl -sS -m 5 $f http://web.example.com/ | {NGINX}; done"
                ),
            )
            .unwrap();
        let wanted = "203.0.113.1 198.18.0.1 web.example.com /\n2001:db8::1 2001:db8:1::1 web.example.com /\n";
        assert_eq!((code, &*said), (Some(0), wanted), "{firewall}: {errors}");
        assert_eq!(before.0, rules(&stage), "{firewall}");
        must_be_equal(&before.1, &node.fingerprint().unwrap());
    }
}

/// All rules of all firewalls, without what they counted.
fn rules(stage: &ExecStage) -> String {
    let mut all = String::new();
    for program in ["iptables-legacy-save", "ip6tables-legacy-save"] {
        let text = stage.node.check(program, &[]).unwrap();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            all.push_str(line.split(" [").next().unwrap_or_default());
            all.push('\n');
        }
    }
    all + &stage.node.check("nft", &["-s", "list", "ruleset"]).unwrap()
}

#[test]
fn signals_and_standard_streams_are_the_commands() {
    use std::io::{Read, Write};
    use std::process::Stdio;

    ExecStage::each(|stage| {
        let script = "trap 'echo term; exit 3' TERM; trap 'echo usr' USR1; read line; echo got $line; echo err >&2; \
                  while :; do sleep 0.1; done";
        let mut child = stage
            .command(&["--", "sh", "-c", script])
            .unwrap()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut said = String::new();
        let mut wait_for = |wanted: &str| {
            let mut octets = [0; 256];
            while !said.contains(wanted) {
                let count = out.read(&mut octets).unwrap();
                assert!(count > 0, "{said:?} without {wanted:?}");
                said.push_str(&String::from_utf8_lossy(&octets[..count]));
            }
        };
        wait_for("got hello\n");
        let signal = |name: &str| {
            let pid = child.id().to_string();
            let sent = std::process::Command::new("kill")
                .args([name, &pid])
                .status();
            assert!(sent.unwrap().success());
        };
        signal("-USR1");
        wait_for("usr\n");
        signal("-TERM");
        wait_for("term\n");
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(3), "{ended:?}");
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "err\n");
    });
}

/// Runs what its words say on a terminal, waits for `up`, then presses Ctrl-C as often as the first word says;
/// prints the exit code.
const ON_A_TERMINAL: &str = r#"
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
said = b""
while b"up" not in said:
    said += os.read(terminal, 4096)
for _ in range(int(sys.argv[1])):
    os.write(terminal, b"\x03")
    time.sleep(0.2)
try:
    while os.read(terminal, 4096):
        pass
except OSError:
    pass
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

#[test]
fn one_interrupt_of_the_terminal_is_the_commands_and_a_second_soon_after_kills() {
    ExecStage::each(|stage| {
        let pressed = |times: &str, script: &str| {
            let mut python = stage.call("timeout");
            let python = python.args(["60", "python3", "-c", ON_A_TERMINAL, times]);
            let command = python.args([&stage.binary, "exec", "--", "sh", "-c", script]);
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{output:?}");
            said
        };
        let waits = "while :; do sleep 0.05; done";
        let once = format!("trap 'exit 5' INT; echo up; {waits}");
        assert_eq!(pressed("1", &once), "5\n");
        let deaf = format!("trap '' INT; echo up; {waits}");
        assert_eq!(pressed("2", &deaf), "137\n");
    });
}

#[test]
fn where_the_machine_has_no_ipv6_that_is_said() {
    ExecStage::each(|stage| {
        const SAID: &str = "no IPv6: the machine has no route by it";
        let said = || {
            let output = stage.run(&["-v", "--", "true"]).unwrap();
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        assert!(!said().contains(SAID), "{}", said());
        for link in ["all", "default", "uplink"] {
            let _ = stage
                .node
                .sysctl(&format!("net.ipv6.conf.{link}.disable_ipv6"), "1");
        }
        assert!(said().contains(SAID), "{}", said());
    });
}

#[test]
fn many_run_at_once_and_each_has_its_own_policy() {
    ExecStage::each(|stage| {
        let words =
            |name: &'static str, script: &'static str| ["--allow", name, "--", "sh", "-c", script];
        let script = "dig +short web.example.com; dig +short other.example.com";
        let running: Vec<_> = (0..6)
            .map(|number| {
                let name = ["web.example.com", "other.example.com"][number % 2];
                let mut command = stage.command(&words(name, script)).unwrap();
                let stdout = std::process::Stdio::piped();
                (name, command.stdout(stdout).spawn().unwrap())
            })
            .collect();
        for (name, child) in running {
            let output = child.wait_with_output().unwrap();
            let wanted = if name.starts_with("web") {
                "198.18.0.1\n"
            } else {
                "198.18.0.2\n"
            };
            assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{name}");
        }
    });
}

#[test]
fn what_was_denied_is_told_with_what_allows_it() {
    ExecStage::each(|stage| {
        let path = |name: &str| stage.dir.path().join(name).display().to_string();
        let (log, summary, learned) = (
            path("flows.jsonl"),
            path("summary.md"),
            path("learned.yaml"),
        );
        let script = "curl -s -m 5 http://web.example.com/ >/dev/null; curl -s -m 2 http://other.example.com/; \
                  curl -s -m 1 http://198.18.0.9/; true";
        let words = [
            "--allow",
            "web.example.com",
            "--log",
            &log,
            "--summary",
            &summary,
            "--learn",
            &learned,
            "--fail-on-deny",
            "--",
            "sh",
            "-c",
            script,
        ];
        let output = stage.run(&words).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(124), "{errors}");
        assert!(errors.contains("--allow other.example.com\n"), "{errors}");
        assert!(errors.contains("--allow 198.18.0.9\n"), "{errors}");
        let read = |path: &str| std::fs::read_to_string(path).unwrap();
        let flows = read(&log);
        assert!(flows.lines().count() > 4, "{flows}");
        assert!(
            flows.contains("\"query\":\"other.example.com.\""),
            "{flows}"
        );
        let page = read(&summary);
        assert!(page.contains("| other.example.com |"), "{page}");
        assert!(page.contains("| web.example.com | 80/TCP |"), "{page}");

        // What it did it may do again by the policy that was learned, and nothing else.
        let text = read(&learned);
        assert!(text.contains("matchName: web.example.com"), "{text}");
        assert!(
            !text.contains("other.example.com") && !text.contains("198.18.0.9"),
            "{text}"
        );
        let again =
            "curl -s -m 5 http://web.example.com/x | grep -c /x; dig +short other.example.com";
        let output = stage
            .run(&["--policy", &learned, "--", "sh", "-c", again])
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n", "{output:?}");
    });
}

/// Who allows nothing yet learns what to allow, and doesn't wait for answers that never come.
#[test]
fn where_nothing_is_allowed_names_are_refused_and_told() {
    ExecStage::each(|stage| {
        let script =
            "dig other.example.com | grep -o 'status: [A-Z]*'; curl -s http://other.example.com/";
        let (code, said, errors) = stage.shell(&[], script).unwrap();
        assert_eq!(
            (code, said.as_str()),
            (Some(6), "status: NXDOMAIN\n"),
            "{errors}"
        );
        assert!(errors.contains("--allow other.example.com\n"), "{errors}");
        assert!(!errors.contains("53/UDP"), "{errors}");
        // What can't be written at the end is said before the command has begun.
        for flag in ["--learn", "--summary", "--log"] {
            let words = [flag, "/nowhere/file", "--", "echo", "begun"];
            let output = stage.run(&words).unwrap();
            assert_eq!(output.status.code(), Some(125), "{output:?}");
            assert!(output.stdout.is_empty(), "{output:?}");
        }
        let words = [
            "-q",
            "--fail-on-deny",
            "--",
            "sh",
            "-c",
            "dig other.example.com >&2; true",
        ];
        let output = stage.run(&words).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(124), "{errors}");
        assert!(!errors.contains("--allow"), "{errors}");
    });
}

#[test]
fn an_audit_lets_all_pass_and_tells_what_would_be_denied() {
    ExecStage::each(|stage| {
        let learned = stage.dir.path().join("learned.yaml").display().to_string();
        let script = format!(
            "curl -sS -m 9 -4 http://web.example.com/a | {NGINX}; curl -sS -m 9 http://198.18.0.9:8080/b | {NGINX}"
        );
        let words = ["--audit", "--learn", &learned, "--", "sh", "-c", &script];
        let output = stage.run(&words).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let wanted =
            "203.0.113.1 198.18.0.1 web.example.com /a\n203.0.113.1 198.18.0.9 198.18.0.9 /b\n";
        assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{errors}");
        assert!(errors.contains("would be denied"), "{errors}");
        assert!(errors.contains("--allow web.example.com\n"), "{errors}");
        assert!(errors.contains("--allow 198.18.0.9\n"), "{errors}");
        let output = stage
            .run(&["--policy", &learned, "--", "sh", "-c", &script])
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            wanted,
            "{output:?}"
        );
    });
}

#[test]
fn a_local_resolver_is_asked_in_its_place_and_loopback_and_metadata_are_closed() {
    ExecStage::each(|stage| {
        serve_metadata(stage);
        let (node, world) = (&stage.node, &stage.world);
        // Names come from the machine's own loopback, as from systemd-resolved.
        let _knot = namegate_tests::Running::knot(&node.ns, "web 60 IN A 198.18.0.1\nloop 60 IN A 127.0.0.1\nmetadata 60 IN A 169.254.169.254\nmachine 60 IN A 203.0.113.1\n").unwrap();
        let _web = namegate_tests::Running::nginx(&node.ns).unwrap();
        stage
            .resolve_by("nameserver 127.0.0.53\nsearch example.com\n")
            .unwrap();
        let ask = "curl -s -o /dev/null -m 2 -w '%{http_code}\\n' http://";
        let script = format!(
            "cat /etc/resolv.conf; {ask}web/; for a in loop.example.com metadata.example.com machine.example.com \
         127.0.0.1 169.254.169.254 203.0.113.1 '[::1]' '[::ffff:127.0.0.1]' '[fd00:ec2::254]'; do {ask}$a/; done"
        );
        let (code, said, errors) = stage.shell(&["*.example.com", "web"], &script).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines[..3],
            ["nameserver 169.254.1.53", "search example.com", "200"],
            "{errors}"
        );
        assert_eq!(lines[3..], ["000"; 9], "{said}{errors}");
        assert_ne!(code, Some(0));

        // Nor is a server asked as a stranger that is the machine itself.
        stage.resolve_by("nameserver 203.0.113.1\n").unwrap();
        let script = format!("{ask}web.example.com/");
        let (_, said, errors) = stage.shell(&["web.example.com"], &script).unwrap();
        assert_eq!(said, "200\n", "{errors}");

        // Neither opens by a rule for every address, nor in an audit.
        for words in [&["--allow", "0.0.0.0/0"][..], &["--audit"]] {
            let script = format!(
                "for a in 127.0.0.1 169.254.169.254; do {ask}$a/; done; {ask}{}/",
                world.v4
            );
            let words: Vec<&str> = words
                .iter()
                .copied()
                .chain(["--", "sh", "-c", &script])
                .collect();
            let output = stage.run(&words).unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(said, "000\n000\n200\n", "{words:?}: {output:?}");
        }
        // But just that address may be named.
        let script = format!("{ask}169.254.169.254/");
        let output = stage
            .run(&["--allow", "169.254.169.254", "--", "sh", "-c", &script])
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "200\n",
            "{output:?}"
        );
    });
}

/// Has a metadata service answer elsewhere, by a route of the machine's.
fn serve_metadata(stage: &ExecStage) {
    let address = ["addr", "add", "169.254.169.254/32", "dev", "lo"];
    stage.world.check("ip", &address).unwrap();
    let via = stage.world.v4.to_string();
    let route = ["route", "add", "169.254.169.254", "via", &via];
    stage.node.check("ip", &route).unwrap();
}

#[test]
fn a_policy_that_only_mentions_a_metadata_service_does_not_open_it() {
    ExecStage::each(|stage| {
        serve_metadata(stage);
        let ask = "curl -s -o /dev/null -m 2 -w '%{http_code}\\n' http://";
        let script = format!("{ask}169.254.169.254/");
        let own = |rest: &str| {
            format!(
                "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: own}}\nspec:\n  \
                 endpointSelector: {{matchLabels: {{app: sh}}}}\n  egress:\n  - {rest}\n"
            )
        };
        let all = "toCIDRSet: [{cidr: 0.0.0.0/0}]";
        let but = "toCIDRSet: [{cidr: 0.0.0.0/0, except: [169.254.169.254/32]}]";
        let deny = "toCIDR: [0.0.0.0/0]\n  egressDeny: [{toCIDR: [169.254.169.254/32]}]";
        let other = own("toCIDR: [169.254.169.254/32]").replace("app: sh", "app: other");
        let of_other = format!(
            "{}---\n{}",
            own(all),
            other.replace("name: own", "name: other")
        );
        let remark = format!("# 169.254.169.254/32 stays closed\n{}", own(all));
        for text in [own(but), own(deny), of_other, remark] {
            let file = stage.file("own.yaml", &text).unwrap();
            for words in [&["--policy", &file][..], &["--policy", &file, "--audit"]] {
                let words = [words, &["--", "sh", "-c", &script]].concat();
                let output = stage.run(&words).unwrap();
                let said = String::from_utf8_lossy(&output.stdout);
                assert_eq!(said, "000\n", "{text}{words:?}: {output:?}");
            }
        }
        // A rule for just that address does.
        let text = own("toCIDRSet: [{cidr: 169.254.169.254/32}]");
        let file = stage.file("own.yaml", &text).unwrap();
        let output = stage
            .run(&["--policy", &file, "--", "sh", "-c", &script])
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "200\n",
            "{output:?}"
        );
    });
}

#[test]
fn a_port_of_the_machines_loopback_is_reached_where_it_is_allowed() {
    ExecStage::each(|stage| {
        let _web = namegate_tests::Running::nginx(&stage.node.ns).unwrap();
        let ask = "curl -s -o /dev/null -m 2 -w '%{http_code}\\n' http://169.254.1.1";
        let script = format!("{ask}:8080/; {ask}:80/; {ask}:443/");
        for (port, wanted) in [("8080", "200\n000\n000\n"), ("80", "000\n200\n000\n")] {
            let words = ["--allow-host-port", port, "--", "sh", "-c", &script];
            let output = stage.run(&words).unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(said, wanted, "{port}: {output:?}");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(errors.contains("--allow-host-port 443\n"), "{errors}");
        }
        let output = stage
            .run(&["--allow-host-port", "0", "--", "true"])
            .unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        // A rule for the address alone opens none.
        let output = stage
            .run(&["--allow", "169.254.1.1", "--", "sh", "-c", &script])
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "000\n000\n000\n", "{output:?}");
    });
}

#[test]
fn whatever_is_killed_nothing_stays_and_nothing_is_open() {
    ExecStage::each(|stage| {
        let before = (stage.node.fingerprint().unwrap(), links());
        // A child of the command that still runs would outlive it, cut off, with our standard error.
        let script = "curl -s -m 5 http://web.example.com/ >/dev/null; echo $$; exec sleep 7654";
        let mut child = stage
            .command(&["--allow", "web.example.com", "--", "sh", "-c", script])
            .unwrap()
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        use std::io::BufRead;
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let inner = line.trim().to_owned();
        // The command's parent is namegate.
        let parent = std::fs::read_to_string(format!("/proc/{inner}/stat")).unwrap();
        let parent = parent
            .rsplit(") ")
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .to_owned();
        let kill = std::process::Command::new("kill")
            .args(["-9", &parent])
            .status();
        assert!(kill.unwrap().success());
        child.wait().unwrap();
        // The command goes with it.
        for _ in 0..100 {
            if !std::path::Path::new(&format!("/proc/{inner}")).exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(!std::path::Path::new(&format!("/proc/{inner}")).exists());
        must_be_equal(&before.0, &stage.node.fingerprint().unwrap());
        assert_eq!(before.1, links());
        let (code, said, errors) = stage
            .shell(
                &["web.example.com"],
                &format!("curl -s -m 5 http://web.example.com/ | {NGINX}"),
            )
            .unwrap();
        assert_eq!((code, said.lines().count()), (Some(0), 1), "{errors}");
    });
}

/// What is pinned, and named, on the machine that the tests run on, by commands: others may have theirs there.
fn links() -> String {
    let list = |dir: &str| match std::fs::read_dir(dir) {
        Ok(entries) => {
            let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
            let mut names: Vec<_> = names
                .filter(|name| name.to_string_lossy().contains("exec"))
                .collect();
            names.sort();
            format!("{dir}: {names:?}\n")
        }
        Err(_) => String::new(),
    };
    list("/run/netns") + &list("/sys/fs/bpf")
}
