//! An exchange on every kind of network that nodes have, beyond what `dig.rs` has: each must be answered
//! from the address that was asked, and a denied name must reach no server.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering;

use anyhow::Result;
use namegate_tests::{
    Answers, Daemon, Node, Running, WWW, Workload, exchange, exchange_at, policy, seen_by,
};

/// `client` may ask whom `peers`, a part of an item, selects.
fn asks(peers: &str) -> String {
    format!(
        "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: names}}
spec:
  endpointSelector: {{matchLabels: {{app: client}}}}
  egress:
  - {peers}
    toPorts:
    - ports: [{{port: '53', protocol: ANY}}]
      rules: {{dns: [{{matchPattern: '*.example.com'}}]}}
"
    )
}

/// A daemon that guards these workloads, with one policy.
fn guarding<'a>(node: &'a Node, workloads: &[&Workload], policy: &str) -> Daemon<'a> {
    let mut daemon = Daemon::prepare(node).unwrap();
    for workload in workloads {
        daemon.endpoint(workload).unwrap();
    }
    daemon.policy("names.yaml", policy).unwrap();
    daemon.start(&[]).unwrap();
    daemon
}

/// Both families of a server.
fn exchange_by_both(
    daemon: &Daemon<'_>,
    client: &Workload,
    server: (Ipv4Addr, Ipv6Addr),
) -> Result<()> {
    exchange(daemon, client, server.0.into())?;
    exchange(daemon, client, server.1.into())
}

#[test]
fn behind_masquerade_the_workloads_own_address_never_leaves_the_node() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, WWW).unwrap();
    let daemon = guarding(
        &node,
        &[&client],
        &policy("client", "[{matchName: www.example.com}]"),
    );
    for br_netfilter in ["0", "1"] {
        node.set_br_netfilter(br_netfilter).unwrap();
        let left = seen_by(&world, "ip or ip6", || {
            exchange_by_both(&daemon, &client, (world.v4, world.v6))
        })
        .unwrap();
        for hidden in ["IP 203.0.113.1.", "IP6 2001:db8::1."] {
            assert!(left.contains(hidden), "{hidden}: {left}");
        }
        assert!(
            !left.contains("10.0.0.2") && !left.contains("fd00::2"),
            "{left}"
        );
    }
}

/// A workload that got an answer for which it has no socket would say so.
#[test]
fn on_a_bridge_the_workload_gets_no_packet_that_it_did_not_ask_for() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let dns = node.workload("dns", 3).unwrap();
    let _knot = Running::knot(&dns.ns, WWW).unwrap();
    let daemon = guarding(
        &node,
        &[&client, &dns],
        &asks("toEndpoints: [{matchLabels: {app: dns}}]"),
    );
    for br_netfilter in ["0", "1"] {
        node.set_br_netfilter(br_netfilter).unwrap();
        let filter = "icmp or (icmp6 and ip6[40] < 128) or (tcp[tcpflags] & tcp-rst != 0)";
        let refused = seen_by(&client, filter, || {
            let asked = seen_by(&dns, "port 53", || {
                exchange_by_both(&daemon, &client, (dns.v4, dns.v6))
            })?;
            assert!(
                asked.contains("www.example.com") && !asked.contains("evil"),
                "{asked}"
            );
            Ok(())
        });
        assert_eq!(refused.unwrap(), "");
        for name in ["NoPorts", "InErrors"] {
            assert_eq!(client.kernel_count("Udp", name).unwrap(), 0, "{name}");
        }
    }
}

const VIP: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 96, 0, 10),
    Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 10),
);

/// The service of both virtual addresses, and its backend where that lives on another node.
fn service_file(backend: &Workload, is_local: bool) -> String {
    let mut text = String::new();
    if !is_local {
        let addresses = format!("[{}, '{}']", backend.v4, backend.v6);
        text =
            format!("name: dns\nlabels: {{app: dns}}\nremote: true\naddresses: {addresses}\n---\n");
    }
    text += "services:\n";
    let families: [(&str, IpAddr, IpAddr); 2] = [
        ("kube-dns", VIP.0.into(), backend.v4.into()),
        ("kube-dns-6", VIP.1.into(), backend.v6.into()),
    ];
    for (name, vip, backend) in families {
        text += &format!(
            "- {{name: {name}, vip: '{vip}', backends: ['{backend}'],\n   \
             ports: [{{port: 53, protocol: UDP}}, {{port: 53, protocol: TCP}}]}}\n"
        );
    }
    text
}

/// A rule selects the backends by their labels, or the service by its name; a virtual address that
/// nobody describes is selected as it stands.
#[test]
fn a_cluster_ip_is_answered_from_its_own_address_by_a_local_and_a_remote_backend() {
    let by_name = "toServices: [{k8sService: {serviceName: kube-dns, namespace: default}}, \
                   {k8sService: {serviceName: kube-dns-6, namespace: default}}]";
    for is_local in [true, false] {
        let node = Node::new().unwrap();
        let client = node.routed("client", 2).unwrap();
        let world = node.elsewhere().unwrap();
        let local = is_local.then(|| node.routed("dns", 3).unwrap());
        let backend = local.as_ref().unwrap_or(&world);
        node.service(VIP, backend).unwrap();
        let _knot = Running::knot(&backend.ns, WWW).unwrap();
        let described = service_file(backend, is_local);
        for (peers, services) in [
            ("toCIDR: [10.96.0.10/32, 'fd96::a/128']", ""),
            ("toEndpoints: [{matchLabels: {app: dns}}]", &described),
            (by_name, &described),
        ] {
            let mut daemon = Daemon::prepare(&node).unwrap();
            for workload in [Some(&client), local.as_ref()].into_iter().flatten() {
                daemon.endpoint(workload).unwrap();
            }
            daemon.endpoint_file("services.yaml", services).unwrap();
            daemon.policy("names.yaml", &asks(peers)).unwrap();
            daemon.start(&[]).unwrap();
            exchange_by_both(&daemon, &client, VIP).unwrap();
            assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
        }
    }
}

#[test]
fn a_server_on_the_node_itself_is_answered_from_the_address_that_was_asked() {
    let node = Node::new().unwrap();
    let bridged = node.workload("client", 2).unwrap();
    let routed = node.routed("routed", 3).unwrap();
    let local = IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10));
    // Proxy ARP answers by the default route.
    let _world = node.elsewhere().unwrap();
    node.local_server(local).unwrap();
    let _knot = Running::knot(&node.ns, WWW).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&bridged).unwrap();
    let routed_file = format!(
        "name: routed\nlabels: {{app: client}}\nnetns: {}\n",
        routed.ns_path().display()
    );
    daemon.endpoint_file("routed.yaml", &routed_file).unwrap();
    daemon
        .policy("names.yaml", &asks("toEntities: [host]"))
        .unwrap();
    daemon.start(&[]).unwrap();
    let bridge = [IpAddr::V4([10, 0, 0, 1].into()), "fd00::1".parse().unwrap()];
    for client in [&bridged, &routed] {
        for server in [local, bridge[0], bridge[1]] {
            exchange(&daemon, client, server).unwrap();
        }
    }
}

/// What wg-quick adds, and then what systemd-networkd does at its start: every rule goes that isn't the
/// kernel's.
#[test]
fn foreign_rules_come_and_go_under_src_valid_mark() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, WWW).unwrap();
    let daemon = guarding(
        &node,
        &[&client],
        &policy("client", "[{matchName: www.example.com}]"),
    );
    let valid = node
        .check("sysctl", &["-n", "net.ipv4.conf.all.src_valid_mark"])
        .unwrap();
    assert_eq!(valid, "1\n");
    let ip = |words: &str| {
        node.check("ip", &words.split(' ').collect::<Vec<_>>())
            .unwrap();
    };
    for (family, gateway) in [("-4", "203.0.113.2"), ("-6", "2001:db8::2")] {
        ip(&format!(
            "{family} route add default via {gateway} table 51820"
        ));
        ip(&format!("{family} rule add not fwmark 51820 table 51820"));
        ip(&format!(
            "{family} rule add table main suppress_prefixlength 0"
        ));
    }
    exchange_by_both(&daemon, &client, (world.v4, world.v6)).unwrap();
    for family in ["-4", "-6"] {
        ip(&format!(
            "{family} rule del table main suppress_prefixlength 0"
        ));
        ip(&format!("{family} rule del not fwmark 51820 table 51820"));
        let left = node.check("ip", &[family, "rule"]).unwrap();
        let kernels = if family == "-4" { 3 } else { 2 };
        assert_eq!(left.lines().count(), kernels, "{left}");
    }
    exchange_by_both(&daemon, &client, (world.v4, world.v6)).unwrap();
}

/// The address that the kernel gave a workload's link by itself.
fn link_local(workload: &Workload) -> Ipv6Addr {
    let shown = workload.check(
        "ip",
        &["-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"],
    );
    let shown = shown.unwrap();
    let address = shown
        .split_whitespace()
        .find_map(|word| word.strip_suffix("/64"));
    address.unwrap().parse().unwrap()
}

#[test]
fn a_link_local_server_is_answered_from_its_own_address() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let dns = node.workload("dns", 3).unwrap();
    let _knot = Running::knot(&dns.ns, WWW).unwrap();
    let server = link_local(&dns);
    let daemon = guarding(
        &node,
        &[&client],
        &asks(&format!("toCIDR: ['{server}/128']")),
    );
    for br_netfilter in ["0", "1"] {
        node.set_br_netfilter(br_netfilter).unwrap();
        exchange_at(&daemon, &client, &format!("{server}%eth0")).unwrap();
    }
}

#[test]
fn a_tun_device_may_be_the_only_uplink() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let (world, _tunnel) = node.beyond_tun().unwrap();
    let _knot = Running::knot(&world.ns, WWW).unwrap();
    let daemon = guarding(
        &node,
        &[&client],
        &policy("client", "[{matchName: www.example.com}]"),
    );
    exchange_by_both(&daemon, &client, (world.v4, world.v6)).unwrap();
}

/// The kernel takes an outer tag off before any program sees the frame; of two it leaves one.
#[test]
fn tagged_frames_of_a_workload_are_dropped_under_their_own_reason() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let dns = node.workload("dns", 3).unwrap();
    let server = Answers::names(&dns.ns, 60).unwrap();
    let daemon = guarding(
        &node,
        &[&client, &dns],
        &asks("toEndpoints: [{matchLabels: {app: dns}}]"),
    );
    let tags: [&[u8]; 3] = [
        &[0x81, 0x00, 0, 5],
        &[0x88, 0xa8, 0, 5],
        &[0x88, 0xa8, 0, 5, 0x81, 0x00, 0, 6],
    ];
    for tag in tags {
        let before = daemon.counter("vlan").unwrap();
        client.send_frame(&query_frame(&client, &dns, tag)).unwrap();
        assert_eq!(daemon.counter("vlan").unwrap(), before + 1, "{tag:x?}");
    }
    client.send_frame(&query_frame(&client, &dns, &[])).unwrap();
    let asked = || server.asked.load(Ordering::Relaxed);
    for _ in 0..100 {
        if asked() > 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(
        asked(),
        1,
        "the frame without a tag, by the gate: {:#}",
        daemon.status().unwrap()
    );
}

/// A query for n1.example.com in a frame, with tags in front of the type of its payload.
fn query_frame(client: &Workload, dns: &Workload, tags: &[u8]) -> Vec<u8> {
    let mac = |of: &Workload| -> Vec<u8> {
        let text = of.check("ip", &["-br", "link", "show", "eth0"]).unwrap();
        let octets = text.split_whitespace().nth(2).unwrap().split(':');
        octets
            .map(|octet| u8::from_str_radix(octet, 16).unwrap())
            .collect()
    };
    let message = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x02n1\x07example\x03com\0\0\x01\0\x01";
    let udp_len = 8 + message.len() as u16;
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_len).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    ip.extend(client.v4.octets());
    ip.extend(dns.v4.octets());
    let words = ip
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let udp = [40_000u16, 53, udp_len, 0].map(u16::to_be_bytes).concat();
    [
        &mac(dns)[..],
        &mac(client),
        tags,
        &[0x08, 0x00],
        &ip,
        &udp,
        message,
    ]
    .concat()
}
