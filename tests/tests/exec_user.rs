//! `namegate exec` by somebody without privileges: what is only so there. What holds for root too is tried in
//! exec.rs and exec_escape.rs, for both.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::process::{Child, Command};
use std::time::Duration;

use namegate_tests::{Caller, ExecStage, USER, seen_by};

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// A process that ends with this.
struct Started(Child);

impl Started {
    fn new(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_is_run_without_a_privilege_and_without_a_trace() {
    let stage = ExecStage::of(Caller::User).unwrap();
    let before = stage.node.fingerprint().unwrap();
    // All but the bounding set, without which files with capabilities could not be run.
    let script = "id -u; grep ^Cap[^B] /proc/self/status | cut -f2 | sort -u; grep -c 'NoNewPrivs:.1' /proc/self/status;
                  ls -l /proc/self/fd | grep -c 'socket:\\|net:\\|user:'; dig +short web.example.com";
    let output = stage
        .run(&["-v", "--allow", "web.example.com", "--", "sh", "-c", script])
        .unwrap();
    let said = text(&output.stdout);
    let wanted = format!("{USER}\n0000000000000000\n1\n0\n198.18.0.1\n");
    assert_eq!(said, wanted, "{output:?}");
    assert!(text(&output.stderr).contains("mode=splice"), "{output:?}");
    assert_eq!(before, stage.node.fingerprint().unwrap());

    // Root may have it too; the other way is root's alone.
    let root = ExecStage::new().unwrap();
    let output = root.run(&["--mode", "splice", "-v", "--", "true"]).unwrap();
    assert!(text(&output.stderr).contains("mode=splice"), "{output:?}");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = stage.run(&["--mode", "tc", "--", "true"]).unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.ends_with("loads BPF programs; run it as root\n"),
        "{said}"
    );
    // Who is root already is told what that lacks.
    let words = ["--bounding-set=-bpf,-perfmon", "--inh-caps=-bpf,-perfmon"];
    let mut weak = root.node.command("setpriv");
    let weak = weak
        .args(words)
        .arg(&root.binary)
        .args(["exec", "--mode", "tc", "--", "true"]);
    let output = weak.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(
        said.ends_with("; give root what it lacks here: CAP_PERFMON, CAP_BPF\n"),
        "{said}"
    );
    let output = stage.run(&["--user", "0", "--", "true"]).unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
}

#[test]
fn tls_is_judged_by_its_name() {
    let stage = ExecStage::of(Caller::User).unwrap();
    let ca = stage.dir.path().join("ca.pem").display().to_string();
    let ask = format!("curl -s -m 5 --cacert {ca} -o /dev/null -w '%{{http_code}}\\n'");
    // The same address under another name: the first is allowed, the second is another server's.
    let script = format!(
        "{ask} https://web.example.com/; {ask} --resolve other.example.com:443:198.18.0.1 https://other.example.com/;
         {ask} -6 https://web.example.com/; {ask} https://198.18.0.1/"
    );
    let (_, said, errors) = stage.shell(&["web.example.com"], &script).unwrap();
    assert_eq!(said, "200\n000\n200\n000\n", "{errors}");
    assert!(errors.contains("--allow other.example.com"), "{errors}");
}

/// What the command tries by itself: each ends with as many lines as attempts that were refused.
const BY_COMMAND: &[(&str, &str, usize)] = &[
    (
        "links, addresses, routes and rules",
        "ip link add x type dummy; ip link set eth0 down; ip addr add 203.0.113.77/32 dev eth0;
         ip route flush table main; ip rule add lookup main; nft flush ruleset; sysctl -w net.ipv4.ip_forward=1",
        7,
    ),
    (
        "the same as root of another user namespace",
        "unshare -Ur ip link add x type dummy; unshare -Ur ip addr add 203.0.113.77/32 dev eth0;
         unshare -Ur nft flush ruleset; unshare -Urm umount /etc/resolv.conf",
        4,
    ),
    (
        "raw and packet sockets",
        "python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)' 2>&1 | tail -1;
         python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)' 2>&1 | tail -1;
         unshare -Ur python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)' 2>&1 | tail -1",
        3,
    ),
];

#[test]
fn the_command_can_change_nothing_of_its_network() {
    let stage = ExecStage::of(Caller::User).unwrap();
    for (what, script, refused) in BY_COMMAND {
        let (_, said, errors) = stage
            .shell(&["web.example.com"], &format!("exec 2>&1; {script}"))
            .unwrap();
        let is_refusal = |line: &&str| {
            [
                "not permitted",
                "denied",
                "must be superuser",
                "not mounted",
            ]
            .iter()
            .any(|words| line.contains(words))
        };
        let lines = said.lines().filter(is_refusal).count();
        assert!(lines >= *refused, "{what}: {said}{errors}");
    }
}

#[test]
fn a_network_of_its_own_leads_nowhere() {
    let stage = ExecStage::of(Caller::User).unwrap();
    let seen = seen_by(
        &stage.world,
        "ip host 198.18.0.9 or ip6 host 2001:db8:1::9",
        || {
            // In a second namespace, and by UDP, other TCP and other servers of names in its own.
            let script = "unshare -Urn sh -c 'ip link set lo up; ip route add default dev lo; curl -m 1 http://198.18.0.9/';
                      for a in 198.18.0.9 '[2001:db8:1::9]'; do curl -m 1 http://$a:443/; done;
                      echo x | socat -u - UDP4:198.18.0.9:443; echo x | socat -u - UDP6:[2001:db8:1::9]:53;
                      dig +tries=1 +time=1 @198.18.0.9 web.example.com; dig +tcp +tries=1 +time=1 @2001:db8:1::9 web.example.com;
                      echo end";
            let (_, said, errors) = stage.shell(&["web.example.com"], script)?;
            assert!(said.ends_with("end\n"), "{said}{errors}");
            assert!(!errors.contains("not found"), "{errors}");
            // As root's way tells it.
            assert!(errors.contains("198.18.0.9 443/UDP  "), "{errors}");
            Ok(())
        },
    );
    assert_eq!(seen.unwrap(), "");
}

#[test]
fn nobody_outside_acts_for_it() {
    let stage = ExecStage::of(Caller::User).unwrap();
    // Another process of the same user, a socket with an abstract name, and the bus of the user.
    let sleeper = Started::new(stage.call("sleep").arg("300"));
    let pid = sleeper.0.id();
    let folder = format!("/run/user/{USER}");
    stage.node.check("mkdir", &["-p", &folder]).unwrap();
    stage
        .node
        .check("chown", &[&USER.to_string(), &folder])
        .unwrap();
    let bus = format!("{folder}/bus");
    let answer = "EXEC:echo resolved";
    let places = [
        format!("UNIX-LISTEN:{bus},fork"),
        "ABSTRACT-LISTEN:namegate-test,fork".to_owned(),
    ];
    let _listeners = places.map(|place| Started::new(stage.call("socat").args([&*place, answer])));
    std::thread::sleep(Duration::from_millis(300));
    let script = format!(
        "readlink /proc/{pid}/ns/net | cut -c1-4; socat -u UNIX-CONNECT:{bus} -; socat -u ABSTRACT-CONNECT:namegate-test -;
         python3 -c 'import ctypes; print(ctypes.CDLL(None).ptrace(16, {pid}, 0, 0))'"
    );
    let outside = stage.call("sh").args(["-c", &script]).output().unwrap();
    let said = text(&outside.stdout);
    assert!(
        said.starts_with("net:\nresolved\nresolved\n"),
        "{outside:?}"
    );
    let (_, said, errors) = stage.shell(&[], &script).unwrap();
    assert_eq!(said, "-1\n", "{errors}");
    let (_, said, errors) = stage
        .shell(
            &[],
            "nsenter -t $PPID -n true || nsenter -t $PPID -U true || echo refused",
        )
        .unwrap();
    assert_eq!(said, "refused\n", "{errors}");
}

#[test]
fn what_a_system_forbids_is_told_with_its_cure() {
    let stage = ExecStage::of(Caller::User).unwrap();
    let ends = |command: &mut Command, cure: &str| {
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains(cure), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    };
    // The limit of a user namespace around it, which is that one's alone.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec {} exec -- true",
        stage.binary
    );
    let mut without = stage.call("unshare");
    ends(
        without.args(["-Ur", "sh", "-c", &script]),
        "sysctl user.max_user_namespaces=",
    );
    // No nft.
    let empty = stage.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let hide = ["--bind", &empty.display().to_string(), "/usr/sbin"];
    stage.node.check("mount", &hide).unwrap();
    ends(
        &mut stage.command(&["--", "true"]).unwrap(),
        "the package nftables",
    );
    // One that answers as a kernel without the module has it do.
    let nft = stage.file(
        "empty/nft",
        "#!/bin/sh\necho 'Error: Could not process rule: No such file or directory' >&2\nexit 1\n",
    );
    std::fs::set_permissions(
        nft.unwrap(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    ends(
        &mut stage.command(&["--", "true"]).unwrap(),
        "modprobe -a nft_tproxy",
    );
}
