//! Ways out of `namegate exec` that were tried: by root in the command's network, with every privilege that
//! there is, and by what the command itself can do. Each line is a row of docs/security.md.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Command, Output, Stdio};

use namegate_tests::{ExecStage, seen_by};

/// A command that waits, by its pid: what is tried enters its network.
struct Waiting {
    child: Child,
    pid: String,
}

impl Waiting {
    fn start(stage: &ExecStage, words: &[&str]) -> Self {
        let all: Vec<&str> = words
            .iter()
            .copied()
            .chain(["--", "sh", "-c", "echo $$; exec sleep 600"])
            .collect();
        let mut command = stage.command(&all).unwrap();
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let pid = line.trim().to_owned();
        assert!(!pid.is_empty(), "the command did not start");
        Self { child, pid }
    }

    /// A shell as root with all privileges, in the command's network.
    fn root(&self, script: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args([
            "-t", &self.pid, "-n", "timeout", "-k", "1", "20", "sh", "-c", script,
        ]);
        command.output().unwrap()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", &self.pid]).status();
        let _ = self.child.wait();
    }
}

/// Attempts of root in the command's network, and what each is.
const BY_ROOT: &[(&str, &str)] = &[
    ("flushes rules", "nft flush ruleset; iptables-nft -F; ip rule flush; ip rule add lookup main; ip -6 rule flush; ip -6 rule add lookup main"),
    (
        "changes routes",
        "ip route replace 198.18.0.0/15 dev eth0; ip -6 route replace 2001:db8:1::/48 dev eth0;
         curl -m 1 http://198.18.0.9/; curl -m 1 'http://[2001:db8:1::9]/'; true",
    ),
    ("sends by raw sockets", "ping -c 2 -W 1 198.18.0.9; ping -6 -c 2 -W 1 2001:db8:1::9; true"),
    (
        "sends fragments",
        "ip link set eth0 mtu 600; ping -c 1 -W 1 -s 3000 198.18.0.9; ping -6 -c 1 -W 1 -s 3000 2001:db8:1::9;
         dig +tries=1 +time=1 +bufsize=4096 @198.18.0.9 web.example.com; ip link set eth0 mtu 65535; true",
    ),
    (
        "asks a resolver of its own",
        "dig +tries=1 +time=1 @198.18.0.9 web.example.com; dig +tcp +tries=1 +time=1 @198.18.0.9 web.example.com;
         dig +tries=1 +time=1 -p 5353 @203.0.113.2 web.example.com;
         dig +tries=1 +time=1 @2001:db8:1::9 web.example.com; true",
    ),
    (
        "speaks UDP",
        "for p in 443 123 5353; do echo x | socat -u - UDP4:198.18.0.1:$p; echo x | socat -u - UDP6:[2001:db8:1::1]:$p; done; true",
    ),
    (
        "takes other addresses",
        "ip addr add 203.0.113.77/32 dev eth0; ip addr add 2001:db8::77/128 dev eth0 nodad;
         curl -m 1 --interface 203.0.113.77 http://198.18.0.1/; curl -m 1 --interface 2001:db8::77 'http://[2001:db8:1::1]/'; true",
    ),
    (
        "is a router for a second namespace",
        "unshare -n sleep 15 & sleep 0.2; p=$!;
         ip link add v0 type veth peer name v1 netns $p; ip addr add 10.9.9.1/24 dev v0; ip link set v0 up;
         nsenter -t $p -n sh -c 'ip addr add 10.9.9.2/24 dev v1; ip link set v1 up; ip route add default via 10.9.9.1';
         sysctl -qw net.ipv4.ip_forward=1;
         nsenter -t $p -n curl -m 1 http://198.18.0.1/; nsenter -t $p -n curl -m 1 http://198.18.0.9/;
         nft add table ip n; nft 'add chain ip n p { type nat hook postrouting priority 100; }'; nft add rule ip n p masquerade;
         nsenter -t $p -n curl -m 1 http://198.18.0.9/; kill $p; true",
    ),
    (
        "sends to the host by link-local addresses, broadcast and multicast",
        "ping -c 1 -W 1 169.254.1.1; ping -6 -c 1 -W 1 fe80::1%eth0; ping -c 1 -W 1 -b 255.255.255.255;
         ping -6 -c 1 -W 1 ff02::1%eth0; echo x | socat -u - UDP4-DATAGRAM:224.0.0.251:5353; true",
    ),
];

#[test]
fn root_in_the_commands_network_sends_nothing_that_is_not_allowed() {
    ExecStage::each(|stage| {
        let waiting = Waiting::start(stage, &["--allow", "web.example.com"]);
        for (what, script) in BY_ROOT {
            let seen = seen_by(&stage.world, "ip or ip6", || {
                let output = waiting.root(script);
                // Each attempt is made: a program that isn't there would try nothing.
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(!said.contains("not found"), "{what}: {said}");
                Ok(())
            });
            let seen = seen.unwrap();
            let lines: Vec<&str> = seen
                .lines()
                .filter(|line| {
                    // What the kernels of the server's own link say by themselves.
                    let own = [
                        "ICMP6, neighbor",
                        "router solicitation",
                        "multicast listener report",
                    ];
                    !own.iter().any(|words| line.contains(words))
                })
                .collect();
            assert!(lines.is_empty(), "{what}: {lines:#?}");
        }
        // It was not the network that was down: what is allowed still works, for root there too.
        let output = waiting.root(&format!(
        "dig +short @{} web.example.com; curl -s -m 5 --resolve web.example.com:80:198.18.0.1 http://web.example.com/ | cut -d' ' -f3",
        stage.world.v4
    ));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said, "198.18.0.1\n198.18.0.1\n", "{output:?}");
    });
}

#[test]
fn frames_of_a_packet_socket_are_judged_like_all_others() {
    ExecStage::each(|stage| {
        let waiting = Waiting::start(stage, &["--allow", "web.example.com"]);
        // Ethernet, IPv4 and UDP by hand: 198.18.0.9:53, from its own and from a made-up address and MAC.
        let program = r"
import socket, struct
def sum16(b):
    s = sum(struct.unpack('!%dH' % (len(b) // 2), b)); s = (s >> 16) + (s & 0xffff); return ~(s + (s >> 16)) & 0xffff
def frame(mac, source):
    data = b'\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x07example\x03com\x00\x00\x01\x00\x01'
    udp = struct.pack('!HHHH', 4000, 53, 8 + len(data), 0) + data
    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton('198.18.0.9'))
    head = head[:10] + struct.pack('!H', sum16(head)) + head[12:]
    return mac + mac + b'\x08\x00' + head + udp
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
own = s.getsockname()[4]
for mac in (own, b'\x02\x4e\x80\x00\x00\x01', b'\x02\x4e\x00\x00\x00\x01'):
    for source in ('169.254.1.2', '203.0.113.1', '127.0.0.1'):
        s.send(frame(mac, source))
print('sent')
";
        let file = stage.file("packets.py", program).unwrap();
        let seen = seen_by(&stage.world, "udp", || {
            let output = waiting.root(&format!("python3 {file}"));
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                "sent\n",
                "{output:?}"
            );
            Ok(())
        });
        assert_eq!(seen.unwrap(), "");
    });
}

#[test]
fn the_command_itself_has_no_privilege_and_no_go_between() {
    let stage = ExecStage::new().unwrap();
    // Somebody who would resolve for others, on the machine.
    stage
        .node
        .check("mkdir", &["-p", "/run/systemd/resolve"])
        .unwrap();
    let mut resolver = stage
        .node
        .command("socat")
        .args([
            "UNIX-LISTEN:/run/systemd/resolve/io.systemd.Resolve,fork",
            "EXEC:echo resolved",
        ])
        .spawn()
        .unwrap();
    let place = "/run/systemd/resolve/io.systemd.Resolve";
    for _ in 0..100 {
        if stage.node.check("test", &["-S", place]).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let outside = stage
        .node
        .check("socat", &["-u", &format!("UNIX-CONNECT:{place}"), "-"]);
    assert_eq!(outside.unwrap(), "resolved\n");
    let script = format!(
        "ip link add x type dummy 2>&1 | grep -c 'not permitted';
         ip route flush table main 2>&1 | grep -c 'not permitted';
         mount -t tmpfs x /mnt 2>&1 | grep -c denied;
         nsenter -t 1 -n true 2>&1 | grep -ci 'denied\\|not permitted';
         socat -u UNIX-CONNECT:{place} - 2>&1 | grep -c 'No such file';
         grep -c 'NoNewPrivs:.1' /proc/self/status;
         grep CapBnd /proc/self/status"
    );
    let (_, said, errors) = stage.shell(&["web.example.com"], &script).unwrap();
    let _ = resolver.kill();
    let _ = resolver.wait();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..6], ["1"; 6], "{said}{errors}");
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID and NET_BIND_SERVICE, which is what root keeps.
    assert_eq!(lines[6], "CapBnd:\t00000000000004fb", "{said}");

    // Somebody else keeps nothing, and is that one.
    let words = [
        "--user",
        "65534",
        "--",
        "sh",
        "-c",
        "id -u; grep Cap /proc/self/status | sort -u -k2",
    ];
    let output = stage.run(&words).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some("65534"));
    assert!(
        lines.all(|line| line.ends_with("0000000000000000")),
        "{said}"
    );
}

/// What is mounted over a socket goes when its owner unlinks it, and over a folder when that is made anew.
#[test]
fn a_go_between_that_begins_anew_meanwhile_is_not_seen_either() {
    ExecStage::each(|stage| {
        let folder = "/run/avahi-daemon";
        let places = [format!("{folder}/socket"), "/run/snapd.socket".to_owned()];
        let check = |words: &[&str]| stage.node.check(words[0], &words[1..]).unwrap();
        // Its own, as its mounts are.
        check(&["mount", "-t", "tmpfs", "none", "/run"]);
        let begin = || {
            check(&["rm", "-rf", folder, &places[1]]);
            check(&["mkdir", folder]);
            let listeners = places.each_ref().map(|place| {
                let words = [
                    &format!("UNIX-LISTEN:{place},fork,mode=666"),
                    "EXEC:echo resolved",
                ];
                Ends(stage.node.command("socat").args(words).spawn().unwrap())
            });
            for place in &places {
                let wait = format!(
                    "for i in $(seq 100); do test -S {place} && exit; sleep 0.02; done; exit 1"
                );
                check(&["sh", "-c", &wait]);
            }
            listeners
        };
        let ask = |place: &String| {
            format!("socat -u UNIX-CONNECT:{place} - 2>&1 | grep -o 'resolved\\|No such file';")
        };
        let ask: String = places.iter().map(ask).collect();
        let first = begin();
        let mut command = stage
            .command(&["--", "sh", "-c", &format!("{ask} read line; {ask}")])
            .unwrap();
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut command = command.spawn().unwrap();
        let mut lines = BufReader::new(command.stdout.take().unwrap()).lines();
        for _ in &places {
            assert_eq!(lines.next().unwrap().unwrap(), "No such file");
        }
        drop(first);
        let second = begin();
        assert_eq!(check(&["sh", "-c", &ask]), "resolved\nresolved\n");
        command.stdin.take().unwrap().write_all(b"\n").unwrap();
        for _ in &places {
            assert_eq!(lines.next().unwrap().unwrap(), "No such file");
        }
        command.wait().unwrap();
        drop(second);
    });
}

/// A process that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
