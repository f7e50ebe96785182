//! What resolvers make of the gate: an allowed name resolves, and a denied one costs each query one
//! answer: no repetition, no wait.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use namegate_tests::{Daemon, Node, Running, Workload, in_ns, policy};
use serde_json::Value;
use tempfile::TempDir;

/// `www` and its AAAA; `only4` has no AAAA.
const ZONE: &str =
    "www 60 IN A 198.18.0.1\nwww 60 IN AAAA 2001:db8:1::1\nonly4 60 IN A 198.18.0.2\n";

/// What `alice` may reach.
const NAMES: &str = "[{matchPattern: '*.example.com'}]";

/// A lookup that waits for anything takes seconds; the quickest of three tells it from a machine
/// that is busy.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A resolver as a program meets it.
#[derive(Clone, Copy)]
struct Resolver {
    /// The program that must be there, and the Debian package that has it.
    needs: (&'static str, &'static str),
    /// Its command; `NAME` stands for the name.
    command: &'static [&'static str],
    /// Queries that a lookup costs.
    queries: u64,
    /// What must be compiled before: the words after the compiler's name, and the source.
    built: Option<(&'static [&'static str], &'static str)>,
}

const DIG: Resolver = Resolver {
    needs: ("dig", "bind9-dnsutils"),
    command: &["dig", "@203.0.113.2", "NAME", "A"],
    queries: 1,
    built: None,
};

const KDIG: Resolver = Resolver {
    needs: ("kdig", "knot-dnsutils"),
    command: &["kdig", "@203.0.113.2", "NAME", "A"],
    queries: 1,
    built: None,
};

/// A and AAAA, as every program of the C library asks.
const GLIBC: Resolver = Resolver {
    needs: ("getent", "libc-bin"),
    command: &["getent", "ahosts", "NAME"],
    queries: 2,
    built: None,
};

const MUSL: Resolver = Resolver {
    needs: ("musl-gcc", "musl-tools"),
    command: &["./lookup", "NAME"],
    queries: 2,
    built: Some((&["musl-gcc", "-o", "lookup", "source.c"], LOOKUP_C)),
};

const CARES: Resolver = Resolver {
    needs: ("/usr/include/ares.h", "libc-ares-dev"),
    command: &["./ares", "NAME"],
    queries: 2,
    built: Some((&["cc", "-o", "ares", "source.c", "-lcares"], ARES_C)),
};

/// The 20 lines that a program of musl's needs to look a name up.
const LOOKUP_C: &str = r#"
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **words) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found, *one;
    int fault = getaddrinfo(count > 1 ? words[1] : "", "80", &hints, &found);
    if (fault) {
        fprintf(stderr, "%s\n", gai_strerror(fault));
        return 2;
    }
    for (one = found; one; one = one->ai_next) {
        char text[INET6_ADDRSTRLEN];
        void *at = one->ai_family == AF_INET
            ? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
            : (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
        puts(inet_ntop(one->ai_family, at, text, sizeof text));
    }
    return 0;
}
"#;

/// The same by c-ares, which Node.js and curl have.
const ARES_C: &str = r#"
#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/select.h>

static int status = ARES_ENODATA;

static void found(void *to, int fault, int timeouts, struct ares_addrinfo *all) {
    struct ares_addrinfo_node *one;
    status = fault;
    for (one = all ? all->nodes : NULL; one; one = one->ai_next) {
        char text[INET6_ADDRSTRLEN];
        void *at = one->ai_family == AF_INET
            ? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
            : (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
        puts(inet_ntop(one->ai_family, at, text, sizeof text));
    }
    if (all) ares_freeaddrinfo(all);
}

int main(int count, char **words) {
    ares_channel channel;
    struct ares_addrinfo_hints hints = { .ai_family = AF_UNSPEC };
    if (ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel)) return 3;
    ares_getaddrinfo(channel, count > 1 ? words[1] : "", NULL, &hints, found, NULL);
    for (;;) {
        fd_set reads, writes;
        struct timeval wait, *until;
        FD_ZERO(&reads);
        FD_ZERO(&writes);
        int fds = ares_fds(channel, &reads, &writes);
        if (!fds) break;
        until = ares_timeout(channel, NULL, &wait);
        select(fds, &reads, &writes, NULL, until);
        ares_process(channel, &reads, &writes);
    }
    if (status) fprintf(stderr, "%s\n", ares_strerror(status));
    return status ? 2 : 0;
}
"#;

/// A workload with files of its own in /etc.
struct Stage {
    alice: Workload,
    _knot: Running,
    dir: TempDir,
}

impl Stage {
    fn new(node: &Node) -> Self {
        let alice = node.workload("alice", 2).unwrap();
        let world = node.elsewhere().unwrap();
        let knot = Running::knot(&world.ns, ZONE).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("nsswitch.conf"), "hosts: dns\n").unwrap();
        let stage = Self {
            alice,
            _knot: knot,
            dir,
        };
        stage.resolv_conf("");
        stage
    }

    fn resolv_conf(&self, more: &str) {
        let text = format!("nameserver 203.0.113.2\n{more}");
        fs::write(self.dir.path().join("resolv.conf"), text).unwrap();
    }

    fn daemon<'a>(&self, node: &'a Node, args: &[&str]) -> Daemon<'a> {
        let mut daemon = Daemon::prepare(node).unwrap();
        daemon.endpoint(&self.alice).unwrap();
        daemon
            .policy("alice.yaml", &policy("alice", NAMES))
            .unwrap();
        daemon.start(args).unwrap();
        daemon
    }

    /// Fails loudly where the program isn't there; builds the one that must be built.
    fn prepare(&self, resolver: Resolver) {
        let (program, package) = resolver.needs;
        let is_there = if program.starts_with('/') {
            Path::new(program).exists()
        } else {
            let found = Command::new("which").arg(program).output().unwrap();
            found.status.success()
        };
        assert!(is_there, "{program} isn't there: apt-get install {package}");
        if let Some((words, source)) = resolver.built {
            fs::write(self.dir.path().join("source.c"), source).unwrap();
            let built = Command::new(words[0])
                .args(&words[1..])
                .current_dir(self.dir.path())
                .output()
                .unwrap();
            assert!(built.status.success(), "{built:?}");
        }
    }

    /// Runs a resolver's command for a name in the workload, with its files bound over those of the
    /// machine.
    fn look_up(&self, resolver: Resolver, name: &str) -> Output {
        // A machine's name without a domain: else glibc makes a search list of that.
        let bound = "hostname alice && mount --bind resolv.conf /etc/resolv.conf && \
                     mount --bind nsswitch.conf /etc/nsswitch.conf && exec \"$@\"";
        let words = resolver.command.iter();
        let words = words.map(|word| if *word == "NAME" { name } else { word });
        let mut command = Command::new("unshare");
        command.args(["--uts", "--mount", "--propagation", "private"]);
        command.args(["sh", "-c", bound, "sh"]).args(words);
        command.current_dir::<PathBuf>(self.dir.path().into());
        in_ns(&self.alice.ns, &mut command).unwrap()
    }
}

/// How many exchanges ended so.
fn ended(status: &Value, word: &str) -> u64 {
    let count = &status["dns"]["dns_exchanges_total"][word];
    count.as_u64().unwrap_or(0)
}

fn all_ended(status: &Value) -> u64 {
    let counts = status["dns"]["dns_exchanges_total"].as_object();
    let counts = counts.into_iter().flat_map(|counts| counts.values());
    counts.filter_map(Value::as_u64).sum()
}

/// Looks a name up three times, and checks that each cost so many queries, all of which ended so.
#[track_caller]
fn check(
    stage: &Stage,
    daemon: &Daemon<'_>,
    (resolver, name): (Resolver, &str),
    costs: (&str, u64),
) -> String {
    let (word, queries) = costs;
    let mut quickest = Duration::MAX;
    let mut text = String::new();
    for _ in 0..3 {
        let before = daemon.status().unwrap();
        #[expect(clippy::disallowed_methods, reason = "the promise is a time")]
        let began = Instant::now();
        let output = stage.look_up(resolver, name);
        quickest = quickest.min(began.elapsed());
        let after = daemon.status().unwrap();
        let what = format!("{:?} {name}: {output:?}", resolver.command);
        assert_eq!(
            ended(&after, word) - ended(&before, word),
            queries,
            "{what} {after:#}"
        );
        let all = all_ended(&after) - all_ended(&before);
        assert_eq!(all, queries, "{what} {after:#}");
        text = String::from_utf8_lossy(&output.stdout).into_owned();
    }
    assert!(
        quickest < AT_ONCE,
        "{:?} {name}: {quickest:?}",
        resolver.command
    );
    text
}

#[track_caller]
fn check_both(stage: &Stage, daemon: &Daemon<'_>, resolver: Resolver) {
    stage.prepare(resolver);
    let queries = resolver.queries;
    let allowed = check(
        stage,
        daemon,
        (resolver, "www.example.com"),
        ("answered", queries),
    );
    assert!(allowed.contains("198.18.0.1"), "{allowed}");
    let denied = check(
        stage,
        daemon,
        (resolver, "a.evil.test"),
        ("denied", queries),
    );
    assert!(!denied.contains("198.18."), "{denied}");
}

#[test]
fn dig_and_kdig() {
    let node = Node::new().unwrap();
    let stage = Stage::new(&node);
    let daemon = stage.daemon(&node, &[]);
    check_both(&stage, &daemon, DIG);
    check_both(&stage, &daemon, KDIG);
}

/// All three ask for A and AAAA at once; a name with one of them resolves too.
#[test]
fn glibc_musl_and_c_ares() {
    let node = Node::new().unwrap();
    let stage = Stage::new(&node);
    let daemon = stage.daemon(&node, &[]);
    for resolver in [GLIBC, MUSL, CARES] {
        check_both(&stage, &daemon, resolver);
        let text = check(
            &stage,
            &daemon,
            (resolver, "www.example.com"),
            ("answered", 2),
        );
        assert!(text.contains("2001:db8:1::1"), "{text}");
        let text = check(
            &stage,
            &daemon,
            (resolver, "only4.example.com"),
            ("answered", 2),
        );
        assert!(
            text.contains("198.18.0.2") && !text.contains("2001:"),
            "{text}"
        );
    }
}

/// With a cluster's search list the suffixed names are denied one after the other, and the walk goes
/// on to the name itself.
#[test]
fn a_search_list_is_walked_to_its_end() {
    let node = Node::new().unwrap();
    let stage = Stage::new(&node);
    let daemon = stage.daemon(&node, &[]);
    stage.resolv_conf(
        "search default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
    );
    for resolver in [GLIBC, MUSL, CARES] {
        stage.prepare(resolver);
        let before = daemon.status().unwrap();
        #[expect(clippy::disallowed_methods, reason = "the promise is a time")]
        let began = Instant::now();
        let output = stage.look_up(resolver, "www.example.com");
        let took = began.elapsed();
        let after = daemon.status().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("198.18.0.1"), "{output:?}");
        let more = |word: &str| ended(&after, word) - ended(&before, word);
        assert_eq!((more("denied"), more("answered")), (6, 2), "{after:#}");
        assert_eq!(all_ended(&after) - all_ended(&before), 8, "{after:#}");
        assert!(took < 4 * AT_ONCE, "one wait of a stub is 5 s: {took:?}");
    }
}

/// How a denial looks on the wire, by option; `None` is silence.
#[test]
fn each_mode_of_denial_is_what_its_option_says() {
    let node = Node::new().unwrap();
    let stage = Stage::new(&node);
    // The option, what a name is answered that no rule knows, and one above names that may be asked.
    #[rustfmt::skip]
    let rows: [(&[&str], Option<&str>, Option<&str>); 6] = [
        (&[], Some("NXDOMAIN"), Some("NOERROR")),
        (&["--dns-deny-response", "nxdomain"], Some("NXDOMAIN"), Some("NXDOMAIN")),
        (&["--tofqdns-dns-reject-response-code", "nameError"], Some("NXDOMAIN"), Some("NXDOMAIN")),
        (&["--dns-deny-response", "nodata"], Some("NOERROR"), Some("NOERROR")),
        (&["--dns-deny-response", "refused"], Some("REFUSED"), Some("REFUSED")),
        (&["--dns-deny-response", "drop"], None, None),
    ];
    for (args, unknown, above) in rows {
        let mut daemon = stage.daemon(&node, args);
        for (name, expected) in [("a.evil.test", unknown), ("example.com", above)] {
            let words = ["@203.0.113.2", "+tries=1", "+timeout=1", name];
            let output = in_ns(&stage.alice.ns, Command::new("dig").args(words)).unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            match expected {
                Some(rcode) => {
                    assert!(
                        text.contains(&format!("status: {rcode}")),
                        "{args:?} {text}"
                    );
                    assert!(text.contains("denied by network policy"), "{args:?} {text}");
                    assert!(
                        text.contains("AUTHORITY: 0"),
                        "no SOA, so nobody keeps it: {text}"
                    );
                }
                None => assert!(!text.contains("status:"), "{args:?} {text}"),
            }
        }
        let status = daemon.status().unwrap();
        assert_eq!((ended(&status, "denied"), all_ended(&status)), (2, 2));
        daemon.end_with("TERM").unwrap();
        let detached = daemon.namegate(&["detach"]).unwrap();
        assert!(detached.status.success(), "{detached:?}");
    }
}
