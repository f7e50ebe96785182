//! What the way between a workload and its server does to large messages and to lost ones: answers in
//! fragments, links of other sizes, an uplink that is narrower than both ends, a server that isn't there.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]
#![expect(clippy::disallowed_methods, reason = "a workload's own sockets")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use namegate_tests::{Answers, Daemon, Node, Workload, patience, seen_by};

/// `client` may ask `dns`, and the server elsewhere; nothing else may come in.
const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names}
spec:
  endpointSelector: {matchLabels: {app: client}}
  ingress: [{}]
  egress:
  - toCIDR: [10.0.0.3/32, 'fd00::3/128', 203.0.113.2/32, '2001:db8::2/128']
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchPattern: '*'}]}
";

/// A daemon that guards these, each under the policy.
fn guarding<'a>(node: &'a Node, clients: &[&Workload]) -> Daemon<'a> {
    let mut daemon = Daemon::prepare(node).unwrap();
    for client in clients {
        let (name, path) = (&client.name, client.ns_path());
        let file = format!(
            "name: {name}\nlabels: {{app: client}}\nnetns: {}\n",
            path.display()
        );
        daemon
            .endpoint_file(&format!("{name}.yaml"), &file)
            .unwrap();
    }
    daemon.policy("names.yaml", POLICY).unwrap();
    daemon.start(&[]).unwrap();
    daemon
}

/// A TXT query for a name that says how long the answer shall be, by a client that takes any.
fn query(octets: usize) -> Vec<u8> {
    let label = format!("t{octets}");
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    bytes.push(label.len() as u8);
    bytes.extend(label.as_bytes());
    bytes.extend(b"\x07example\x03com\0\0\x10\0\x01");
    bytes.extend([0, 0, 41, 0xff, 0xff, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// The answer to [`query`], as long as it says whatever the size that was announced.
fn large_answer(query: &[u8]) -> Vec<u8> {
    let label = &query[13..13 + usize::from(query[12])];
    let octets: usize = std::str::from_utf8(&label[1..]).unwrap().parse().unwrap();
    let question_end = 12 + 1 + label.len() + 13 + 4;
    let mut answer = query[..question_end].to_vec();
    answer[2..12].copy_from_slice(&[0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    while octets - answer.len() > 0 {
        // A record of the text that fits, and never a rest that is too short for another one.
        let left = octets - answer.len();
        let text = if left > 2 * 13 + 255 {
            255
        } else if left > 13 + 255 {
            left / 2
        } else {
            left - 13
        };
        answer.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60]);
        answer.extend((text as u16 + 1).to_be_bytes());
        answer.push(text as u8);
        answer.extend(vec![b'x'; text]);
        answer[7] += 1;
    }
    answer
}

/// Sends one datagram from a workload; `None` if nothing comes back within two seconds.
fn ask(client: &Workload, server: IpAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let own: IpAddr = if server.is_ipv4() {
        client.v4.into()
    } else {
        client.v6.into()
    };
    let exchange = || {
        let socket = UdpSocket::bind((own, 0)).unwrap();
        socket.connect((server, 53)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(2) * patience()))
            .unwrap();
        socket.send(bytes).unwrap();
        let mut buffer = vec![0; 65_536];
        let len = socket.recv(&mut buffer).ok()?;
        buffer.truncate(len);
        Some(buffer)
    };
    client.ns.run(exchange).unwrap()
}

fn serves_large_answers(at: &Workload) -> Answers {
    Answers::serve(&at.ns, 53, |query| vec![large_answer(query)]).unwrap()
}

fn check_answer(client: &Workload, server: IpAddr, octets: usize) {
    let query = query(octets);
    let mut expected = large_answer(&query);
    expected[..2].copy_from_slice(&query[..2]);
    let answer = ask(client, server, &query);
    let heard = answer.as_ref().map(Vec::len);
    assert_eq!(heard, Some(octets), "{} asks {server}", client.name);
    assert!(
        answer.unwrap() == expected,
        "{octets} octets of another text"
    );
}

#[test]
fn answers_in_fragments_arrive_whole() {
    for is_routed in [false, true] {
        let node = Node::new().unwrap();
        let client = if is_routed {
            node.routed("client", 4).unwrap()
        } else {
            node.workload("client", 2).unwrap()
        };
        let (dns, world) = (node.workload("dns", 3).unwrap(), node.elsewhere().unwrap());
        let _servers = [&dns, &world].map(serves_large_answers);
        let daemon = guarding(&node, &[&client]);
        for br_netfilter in ["0", "1"] {
            node.set_br_netfilter(br_netfilter).unwrap();
            for server in [&dns, &world] {
                for octets in [1_450, 4_000, 20_000] {
                    check_answer(&client, server.v4.into(), octets);
                    check_answer(&client, server.v6.into(), octets);
                }
            }
        }
        // 4,000 octets are three fragments, 20,000 are fourteen.
        assert!(daemon.counter("caught").unwrap() >= 2 * 4 * (1 + 3 + 14));
    }
}

#[test]
fn a_link_may_be_smaller_or_larger_than_the_usual_size_and_change_it() {
    for mtu in [1_400, 9_000] {
        let node = Node::new().unwrap();
        let client = node.workload("client", 2).unwrap();
        let (dns, world) = (node.workload("dns", 3).unwrap(), node.elsewhere().unwrap());
        let _servers = [&dns, &world].map(serves_large_answers);
        for workload in [&client, &dns] {
            node.set_mtu(workload, mtu).unwrap();
        }
        let daemon = guarding(&node, &[&client]);
        let check = || {
            // Without Namegate too, a server elsewhere loses an answer by which it learns the path's MTU.
            for server in [world.v4.into(), world.v6.into()] {
                ask(&client, server, &query(1_450));
            }
            for server in [&dns, &world] {
                for octets in [1_390, 1_450, 4_000, 10_000] {
                    check_answer(&client, server.v4.into(), octets);
                    check_answer(&client, server.v6.into(), octets);
                }
            }
        };
        check();
        let revision = daemon.status().unwrap()["policy"]["revision"]
            .as_u64()
            .unwrap();
        for workload in [&client, &dns] {
            node.set_mtu(workload, 1_300).unwrap();
        }
        daemon.wait_beyond(revision).unwrap();
        check();
    }
}

#[test]
fn a_large_link_gets_answers_whole_beside_a_small_one() {
    let node = Node::new().unwrap();
    let (client, other) = (
        node.workload("client", 2).unwrap(),
        node.workload("other", 4).unwrap(),
    );
    let dns = node.workload("dns", 3).unwrap();
    for (workload, mtu) in [(&client, 9_000), (&dns, 9_000), (&other, 1_400)] {
        node.set_mtu(workload, mtu).unwrap();
    }
    let _server = serves_large_answers(&dns);
    let _daemon = guarding(&node, &[&client, &other]);
    let fragments = "(ip[6:2] & 0x3fff != 0) or (ip6[6] = 44)";
    let seen = seen_by(&client, fragments, || {
        check_answer(&client, dns.v4.into(), 8_000);
        check_answer(&client, dns.v6.into(), 8_000);
        Ok(())
    });
    assert_eq!(seen.unwrap(), "");
}

/// The gate hears of it by an ICMP error from the node, which quotes what was too large.
#[test]
fn an_upload_goes_through_an_uplink_that_is_narrower_than_both_ends() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let world = node.elsewhere().unwrap();
    node.check("ip", &["link", "set", "uplink", "mtu", "1300"])
        .unwrap();
    // The narrow link is further on for the server: it takes what is larger, and sends nothing that is. What
    // is too large for the far end of a veth pair is lost there, and nobody is told.
    for route in [
        "203.0.113.0/24 dev eth0 mtu 1300 advmss 1460",
        // The metric of the kernel's own route, which is replaced.
        "2001:db8::/64 dev eth0 metric 256 mtu 1300 advmss 1440",
    ] {
        let words: Vec<&str> = ["route", "replace"]
            .into_iter()
            .chain(route.split(' '))
            .collect();
        world.check("ip", &words).unwrap();
    }
    let _server = Answers::names(&world.ns, 60).unwrap();
    let _daemon = guarding(&node, &[&client]);
    let servers: [IpAddr; 2] = [world.v4.into(), world.v6.into()];
    for server in servers {
        let (sent, answered) = client.ns.run(|| upload(server, 200_000)).unwrap();
        assert_eq!(answered, sent, "{server}");
        let counts = node.check("cat", &["/proc/net/snmp6"]).unwrap();
        let told = counts.lines().any(|line| {
            line.split_once(char::is_whitespace)
                .is_some_and(|(name, count)| name == "Icmp6OutPktTooBigs" && count.trim() != "0")
        });
        // Over IPv4 the gate allows routers to cut its packets; over IPv6 it must be told.
        assert_eq!(told, server.is_ipv6(), "{counts}");
    }
}

/// Sends this many octets of queries over one connection; gives how many queries that were, and how many
/// were answered.
fn upload(server: IpAddr, octets: usize) -> (usize, usize) {
    let stream = TcpStream::connect(SocketAddr::new(server, 53)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(3) * patience()))
        .unwrap();
    let mut one = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [
        &b"n1"[..],
        &[b'x'; 63],
        &[b'y'; 63],
        &[b'z'; 63],
        b"example",
        b"com",
    ] {
        one.push(label.len() as u8);
        one.extend(label);
    }
    one.extend([0, 0, 1, 0, 1]);
    let count = octets / one.len();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for id in 0..count {
            one[..2].copy_from_slice(&(id as u16).to_be_bytes());
            let frame = [&(one.len() as u16).to_be_bytes()[..], &one].concat();
            if writer.write_all(&frame).is_err() {
                return;
            }
        }
    });
    let mut reader = std::io::BufReader::new(stream);
    let mut answered = 0;
    while answered < count {
        let mut length = [0; 2];
        if reader.read_exact(&mut length).is_err() {
            break;
        }
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        reader.read_exact(&mut message).unwrap();
        assert_eq!(message[3] & 0x0f, 0, "answer {answered}");
        answered += 1;
    }
    drop(reader);
    writing.join().unwrap();
    (count, answered)
}

#[test]
fn a_server_that_is_not_there_is_told_at_once() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let (dns, world) = (node.workload("dns", 3).unwrap(), node.elsewhere().unwrap());
    let daemon = guarding(&node, &[&client]);
    let mut told = 0;
    for server in [&dns, &world] {
        for server in [IpAddr::from(server.v4), server.v6.into()] {
            let began = Instant::now();
            let answer = ask(&client, server, &query(100)).unwrap();
            assert_eq!(answer[3] & 0x0f, 2, "{server}: SERVFAIL");
            assert!(
                began.elapsed() < Duration::from_secs(1) * patience(),
                "{server}"
            );
            told += 1;
            let faults = &daemon.status().unwrap()["dns"]["dns_faults_total"];
            assert_eq!(faults["unreachable"], told, "{server}");
        }
    }
}

/// One socket serves all endpoints: what the network says of one's query must not fail another's.
#[test]
fn errors_about_one_workloads_queries_cost_another_none() {
    let node = Node::new().unwrap();
    let (client, other) = (
        node.workload("client", 2).unwrap(),
        node.workload("other", 4).unwrap(),
    );
    let (dns, world) = (node.workload("dns", 3).unwrap(), node.elsewhere().unwrap());
    let _server = serves_large_answers(&world);
    let daemon = guarding(&node, &[&client, &other]);
    // A kernel tells one sender of six lost datagrams, and then of one a second.
    dns.check("sysctl", &["-qw", "net.ipv4.icmp_ratemask=0"])
        .unwrap();
    let lost = 400;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..lost {
                if ask(&client, dns.v4.into(), &query(100)).is_none() {
                    return;
                }
            }
        });
        for _ in 0..lost {
            check_answer(&other, world.v4.into(), 100);
        }
    });
    let status = daemon.status().unwrap();
    let faults = &status["dns"]["dns_faults_total"];
    assert!(faults["unreachable"].as_u64() > Some(lost / 2), "{faults}");
    assert_eq!(faults["send-failed"].as_u64(), None, "{faults}");
}
