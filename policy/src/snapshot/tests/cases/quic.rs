//! Datagrams where over TCP a server name or request is judged.

use super::*;

const REFUSED: &str = "refused / L4-Only 180";

#[test]
#[rustfmt::skip]
fn datagrams_are_refused_where_tcp_needs_a_name() {
    let sni = "egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.test]}]}]";
    let http = "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]}]";
    let of_b = "egress: [{toEndpoints: [{matchLabels: {app: b}}], toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.test]}]}]";
    let range = "egress: [{toPorts: [{ports: [{port: '50', endPort: 60, protocol: TCP}], serverNames: [a.test]}]}]";
    let every = "egress: [{toPorts: [{ports: [{port: '0', protocol: TCP}], serverNames: [a.test]}]}]";
    let inbound = "ingress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.test]}]}]";
    let udp = "egress: [{toPorts: [{ports: [{port: '443', protocol: UDP}]}]}]";
    let dns = "egress: [{toPorts: [{ports: [{port: '53', protocol: UDP}]}]}]";
    let deny = "egressDeny: [{toPorts: [{ports: [{port: '443', protocol: UDP}]}]}]";
    let deny_tcp = "egressDeny: [{toPorts: [{ports: [{port: '443', protocol: TCP}]}]}]";
    let wide = "egress: [{toPorts: [{ports: [{port: '440', endPort: 450, protocol: TCP}]}, {ports: [{port: '443', protocol: UDP}]}]}]";
    let (to_b, to_w) = (format!("> {B}"), format!("> {W}"));
    check(&[
        (1, &[sni], &to_w, (17, 443), REFUSED),
        (2, &[http], &to_w, (17, 80), REFUSED),
        (3, &[sni], &to_w, (17, 444), DROPPED),
        (4, &[sni], &to_w, (132, 443), DROPPED),
        (5, &[sni, udp], &to_w, (17, 443), REFUSED),
        (6, &[sni, deny], &to_w, (17, 443), "D / L4-Only 181"),
        // TCP is denied there, whatever it names.
        (7, &[sni, deny_tcp, udp], &to_w, (17, 443), "A / L4-Only"),
        // A peer of which nothing needs a name.
        (8, &[of_b, udp], &to_w, (17, 443), "A / L4-Only"),
        (9, &[of_b, udp], &to_b, (17, 443), "refused / L3-L4 180"),
        // Who may say anything over TCP needs no name.
        (10, &[of_b, TO_B], &to_b, (17, 443), "A / L3-Only"),
        (11, &[sni, "egress: [{toEntities: [all]}]"], &to_w, (17, 443), "A / all"),
        (12, &[sni, wide], &to_w, (17, 443), "A / L4-Only"),
        // One peer of everybody to whom the rule applies: in doubt it is refused.
        (13, &[sni, TO_B], &to_b, (17, 443), REFUSED),
        // Names are asked at 53.
        (14, &[range, dns], &to_w, (17, 53), "A / L4-Only"),
        (15, &[range], &to_w, (17, 52), REFUSED),
        (16, &[range], &to_w, (17, 54), REFUSED),
        (17, &[every, dns], &to_w, (17, 53), "A / L4-Only"),
        (18, &[every], &to_w, (17, 443), REFUSED),
        (19, &[inbound, "ingress: [{toPorts: [{ports: [{port: '443', protocol: UDP}]}]}]"], &format!("< {B}"), (17, 443), "A / L4-Only"),
    ]);
}
