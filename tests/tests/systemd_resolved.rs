//! systemd-resolved in a workload, between its programs and the gate: a denial costs what a name costs that isn't
//! there, and doesn't make it think less of its server.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use namegate_tests::{Daemon, Node, Running, WWW, Workload, in_ns, patience, policy, seen_by};

/// Where Debian puts it, and the folder of a library of its own.
const PROGRAM: &str = "lib/systemd/systemd-resolved";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu/systemd";
const PACKAGES: [&str; 2] = ["systemd-resolved", "libsystemd-shared"];

/// Waiting for anything takes it seconds.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The folder below which it is. Its package would put itself into /etc/resolv.conf: where it isn't installed it is
/// downloaded and unpacked.
fn unpacked() -> PathBuf {
    if Path::new("/").join(PROGRAM).exists() {
        return "/".into();
    }
    let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = all.join("systemd-resolved");
    if folder.join(PROGRAM).exists() {
        return folder;
    }
    let draft = tempfile::tempdir_in(all).unwrap();
    let mut download = Command::new("apt-get");
    let downloaded = download
        .arg("download")
        .args(PACKAGES)
        .current_dir(draft.path())
        .output();
    let downloaded = downloaded.unwrap();
    assert!(
        downloaded.status.success(),
        "systemd-resolved isn't installed and can't be downloaded: {downloaded:?}"
    );
    for file in fs::read_dir(draft.path())
        .unwrap()
        .map(|file| file.unwrap().path())
    {
        let mut unpack = Command::new("dpkg-deb");
        let status = unpack
            .arg("-x")
            .arg(&file)
            .arg(draft.path())
            .status()
            .unwrap();
        assert!(status.success(), "{}", file.display());
    }
    // Another test may have been quicker.
    let _ = fs::rename(draft.path(), &folder);
    folder
}

/// It, in a workload, at 127.0.0.53 and 127.0.0.1, asking the server elsewhere.
fn start(alice: &Workload) -> Running {
    let root = unpacked();
    let script = format!(
        "set -e
         mount -t tmpfs none /run
         mkdir -p /run/systemd/resolve /run/systemd/resolved.conf.d
         for file in passwd group; do grep -v '^systemd-resolve:' /etc/$file > AT/$file; done
         echo 'systemd-resolve:x:990:990::/:/usr/sbin/nologin' >> AT/passwd
         echo 'systemd-resolve:x:990:' >> AT/group
         for file in passwd group; do mount --bind AT/$file /etc/$file; done
         chown 990:990 /run/systemd/resolve
         cat > /run/systemd/resolved.conf.d/test.conf <<'END'
[Resolve]
DNS=203.0.113.2
FallbackDNS=
Domains=~.
DNSSEC=no
LLMNR=no
MulticastDNS=no
DNSStubListenerExtra=127.0.0.1
END
         export SYSTEMD_LOG_TARGET=null
         exec env LD_LIBRARY_P''A''TH={} {}\n",
        root.join(LIBRARIES).display(),
        root.join(PROGRAM).display(),
    );
    let words = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "AT/conf",
    ];
    Running::name_server(&alice.ns, &words, &script).unwrap()
}

/// How many exchanges ended so, by the gate's count.
fn ended(daemon: &Daemon<'_>) -> (u64, u64, u64) {
    let counts = daemon.status().unwrap()["dns"]["dns_exchanges_total"].clone();
    let count = |word: &str| counts[word].as_u64().unwrap_or(0);
    let counts = counts.as_object().unwrap().values();
    let all = counts.map(|count| count.as_u64().unwrap()).sum();
    (count("answered"), count("denied"), all)
}

/// What a program is told of a name, how quickly, and what that costs the gate: answered, denied, all.
fn asked(alice: &Workload, daemon: &Daemon<'_>, words: &[&str]) -> (String, Duration, [u64; 3]) {
    let before = ended(daemon);
    #[expect(clippy::disallowed_methods, reason = "the promise is a time")]
    let began = Instant::now();
    let answer = alice.dig(IpAddr::from([127, 0, 0, 53]), words).unwrap();
    let took = began.elapsed();
    let after = ended(daemon);
    (
        answer,
        took,
        [after.0 - before.0, after.1 - before.1, after.2 - before.2],
    )
}

#[test]
fn systemd_resolved_takes_a_denial_for_an_answer() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let there: String = (0..20)
        .map(|at| format!("m{at} 60 IN A 198.18.0.9\n"))
        .collect();
    let _knot = Running::knot(&world.ns, &format!("{WWW}{there}")).unwrap();
    let policy = policy("alice", "[{matchPattern: '*.example.com'}]");
    let mut daemon = Daemon::guarding(&node, &alice, &policy).unwrap();
    daemon.start(&["--dns-install-wait", "4s"]).unwrap();
    let _resolved = start(&alice);
    let (answer, _, cost) = asked(&alice, &daemon, &["+short", "www.example.com"]);
    assert_eq!((&*answer, cost), ("198.18.0.1\n", [1, 0, 1]));
    // A name that isn't there it asks for again without EDNS (DVE-2018-0001), whoever says so.
    let (answer, _, cost) = asked(&alice, &daemon, &["none.example.com"]);
    assert!(answer.contains("status: NXDOMAIN"), "{answer}");
    assert_eq!(cost, [2, 0, 2]);
    let seen = seen_by(&world, "dst port 53", || {
        for at in 0..20 {
            let name = format!("n{at}.evil.test");
            let (answer, took, cost) = asked(&alice, &daemon, &[&name]);
            assert!(answer.contains("status: NXDOMAIN"), "{answer}");
            assert_eq!(cost, [0, 2, 2], "{name}");
            assert!(took < AT_ONCE * patience(), "{name}: {took:?}");
        }
        // Above names that may be asked, for both kinds of address.
        for kind in ["A", "AAAA"] {
            let (answer, took, cost) = asked(&alice, &daemon, &["example.com", kind]);
            assert!(
                answer.contains("status: NOERROR") && answer.contains("ANSWER: 0"),
                "{answer}"
            );
            assert_eq!(cost, [0, 1, 1], "{kind}");
            assert!(took < AT_ONCE * patience(), "{kind}: {took:?}");
        }
        Ok(())
    })
    .unwrap();
    assert!(!seen.contains("evil"), "{seen}");

    // After all that it asks as it did before: one query for a name, with EDNS, by UDP.
    let seen = seen_by(&world, "udp dst port 53", || {
        for at in 0..20 {
            let (answer, took, cost) =
                asked(&alice, &daemon, &["+short", &format!("m{at}.example.com")]);
            assert_eq!((&*answer, cost), ("198.18.0.9\n", [1, 0, 1]), "{at}");
            assert!(took < AT_ONCE * patience(), "{took:?}");
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(seen.matches("[1au] A? m").count(), 20, "{seen}");
}

#[test]
fn a_search_list_behind_systemd_resolved_is_walked_to_its_end() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, WWW).unwrap();
    let policy = policy("alice", "[{matchPattern: '*.example.com'}]");
    let mut daemon = Daemon::guarding(&node, &alice, &policy).unwrap();
    daemon.start(&["--dns-install-wait", "4s"]).unwrap();
    let _resolved = start(&alice);
    let dir = tempfile::tempdir().unwrap();
    let search =
        "search default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5 edns0\n";
    fs::write(
        dir.path().join("resolv.conf"),
        format!("nameserver 127.0.0.53\n{search}"),
    )
    .unwrap();
    fs::write(dir.path().join("nsswitch.conf"), "hosts: dns\n").unwrap();
    let bound = "mount --bind resolv.conf /etc/resolv.conf && \
                 mount --bind nsswitch.conf /etc/nsswitch.conf && exec getent ahosts www.example.com";
    let before = ended(&daemon);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", bound]);
    #[expect(clippy::disallowed_methods, reason = "the promise is a time")]
    let began = Instant::now();
    let output = in_ns(&alice.ns, command.current_dir(dir.path())).unwrap();
    let took = began.elapsed();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("198.18.0.1") && text.contains("2001:db8:1::1"),
        "{text}"
    );
    let after = ended(&daemon);
    let cost = [after.0 - before.0, after.1 - before.1, after.2 - before.2];
    // As in the other test, a name that isn't there costs it two queries.
    let expected = [2, 6 * 2, 6 * 2 + 2];
    assert_eq!(
        cost, expected,
        "three suffixes and the name, for both kinds"
    );
    assert!(took < AT_ONCE * 4 * patience(), "{took:?}");
}
