//! The steps of the story: a policy, what a pod then does, and how that must end.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;

use super::client::{self, Failure};
use super::servers::{IFCONFIG_TTL, WEB_PORT};
use super::stage::Stage;
use super::voice::Voice;
use crate::daemon::Daemon;

/// One step.
pub(super) struct Step {
    pub(super) number: u8,
    pub(super) title: &'static str,
    /// What is in force, each a YAML document.
    pub(super) policies: &'static [&'static str],
    /// What the pods do; gives how it ended.
    pub(super) act: fn(&Stage, &mut Daemon, &mut Voice) -> Result<Vec<String>>,
    /// How it must end: the demo fails otherwise.
    pub(super) expected: &'static [&'static str],
    /// Which of its flows are shown.
    pub(super) shown: Shown,
}

/// A choice of flows: Hubble's filter flags, and how many at most.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    pub(super) filters: &'static [(&'static str, &'static str)],
    pub(super) at_most: usize,
}

pub(super) const STEPS: &[Step] = &[
    Step {
        number: 0,
        title: "no policy: everything flows",
        policies: &[],
        act: visit_shop,
        expected: &["details: here", "reviews: here"],
        shown: Shown {
            filters: &[("--from-pod", "default/productpage")],
            at_most: 3,
        },
    },
    Step {
        number: 1,
        title: "productpage may send nothing: its page is served, its parts are not to be had",
        policies: &[DENY_ALL],
        act: visit_shop,
        expected: &[
            "details: not available (no answer from the DNS server)",
            "reviews: not available (no answer from the DNS server)",
        ],
        shown: Shown {
            filters: &[("--verdict", "DROPPED")],
            at_most: 2,
        },
    },
    Step {
        number: 2,
        title: "productpage may ask the cluster's DNS server: names resolve, connections are denied",
        policies: &[ALLOW_DNS],
        act: visit_shop,
        expected: &[
            "details: not available (no connection: timed out)",
            "reviews: not available (no connection: timed out)",
        ],
        shown: Shown {
            filters: &[
                ("--type", "policy-verdict"),
                ("--from-pod", "default/productpage"),
            ],
            at_most: 4,
        },
    },
    Step {
        number: 3,
        title: "the same with a DNS rule: every question and answer is seen",
        policies: &[SEE_DNS],
        act: visit_shop,
        expected: &[
            "details: not available (no connection: timed out)",
            "reviews: not available (no connection: timed out)",
        ],
        shown: Shown {
            filters: &[("--protocol", "dns")],
            at_most: 8,
        },
    },
    Step {
        number: 4,
        title: "productpage may reach details and reviews: the page is whole again",
        policies: &[SEE_DNS, ALLOW_BACKENDS],
        act: visit_shop,
        expected: &["details: here", "reviews: here"],
        shown: Shown {
            filters: &[
                ("--type", "policy-verdict"),
                ("--from-pod", "default/productpage"),
            ],
            at_most: 4,
        },
    },
    Step {
        number: 5,
        title: "internal-client may reach what ifconfig.me is, and nothing else outside",
        policies: &[CLIENT_ALL_NAMES],
        act: go_outside,
        expected: &[
            "ifconfig.me: hello from the Internet",
            "cnn.com: no connection: timed out",
        ],
        shown: Shown {
            filters: &[("--pod", "default/internal-client")],
            at_most: 24,
        },
    },
    Step {
        number: 6,
        title: "and it may ask for that name only: another lookup ends at once and never leaves the node",
        policies: &[CLIENT_ONE_NAME],
        act: go_outside,
        expected: &[
            "ifconfig.me: hello from the Internet",
            "cnn.com: no such name",
        ],
        shown: Shown {
            filters: &[("--protocol", "dns"), ("--verdict", "DROPPED")],
            at_most: 6,
        },
    },
    Step {
        number: 7,
        title: "productpage may read reviews: another method is answered by the gate, and never leaves the node",
        policies: &[SEE_DNS, READ_REVIEWS],
        act: read_and_delete,
        expected: &[
            "GET: HTTP/1.1 200 OK: a review with stars",
            "DELETE: HTTP/1.1 403 Forbidden: Access denied",
        ],
        shown: Shown {
            filters: &[("--protocol", "http")],
            at_most: 4,
        },
    },
    Step {
        number: 8,
        title: "the name's time runs out: the address closes, an open connection lives on",
        policies: &[CLIENT_ONE_NAME],
        act: wait_for_the_end,
        expected: &[
            "connection opened in time: hello from the Internet",
            "new connection after the TTL: no connection: timed out",
            "the old connection: hello from the Internet",
        ],
        shown: Shown {
            filters: &[("--type", "policy-verdict"), ("--type", "drop")],
            at_most: 4,
        },
    },
];

const DENY_ALL: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: productpage-deny}
spec:
  endpointSelector: {matchLabels: {app: productpage}}
  egress: [{}]
---
";

const ALLOW_DNS: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: productpage-dns}
spec:
  endpointSelector: {matchLabels: {app: productpage}}
  egress:
  - toEndpoints:
    - matchLabels: {k8s:io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}
    toPorts: [{ports: [{port: '53', protocol: ANY}]}]
---
";

const SEE_DNS: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: productpage-dns}
spec:
  endpointSelector: {matchLabels: {app: productpage}}
  egress:
  - toEndpoints:
    - matchLabels: {k8s:io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchPattern: '*'}]}
---
";

const ALLOW_BACKENDS: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: productpage-backends}
spec:
  endpointSelector: {matchLabels: {app: productpage}}
  egress:
  - toEndpoints: [{matchLabels: {app: reviews}}]
  - toEndpoints: [{matchLabels: {app: details}}]
---
";

const READ_REVIEWS: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: productpage-reviews}
spec:
  endpointSelector: {matchLabels: {app: productpage}}
  egress:
  - toEndpoints: [{matchLabels: {app: reviews}}]
    toPorts:
    - ports: [{port: '9080', protocol: TCP}]
      rules: {http: [{method: GET, path: /reviews/.*}]}
---
";

const CLIENT_ALL_NAMES: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: internet-egress}
spec:
  endpointSelector: {matchLabels: {app: internal-client}}
  egress:
  - toEndpoints:
    - matchLabels: {k8s:io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchPattern: '*'}]}
  - toFQDNs: [{matchName: ifconfig.me}]
---
";

const CLIENT_ONE_NAME: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: internet-egress}
spec:
  endpointSelector: {matchLabels: {app: internal-client}}
  egress:
  - toEndpoints:
    - matchLabels: {k8s:io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchName: ifconfig.me}]}
  - toFQDNs: [{matchName: ifconfig.me}]
---
";

/// internal-client asks productpage for its page, and that asks for its parts.
fn visit_shop(stage: &Stage, _: &mut Daemon, voice: &mut Voice) -> Result<Vec<String>> {
    voice.say_command("internal-client", "get http://productpage:9080/")?;
    let page = stage
        .ns("internal-client")?
        .run(|| client::get("productpage", WEB_PORT))?;
    let page = page.unwrap_or_else(|failure| format!("{}\n", failure.text()));
    voice.say_result(&page)?;
    Ok(page.lines().skip(1).map(str::to_owned).collect())
}

/// internal-client gets a page from two places outside.
fn go_outside(stage: &Stage, _: &mut Daemon, voice: &mut Voice) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    for name in ["ifconfig.me", "cnn.com"] {
        voice.say_command("internal-client", &format!("get http://{name}/"))?;
        let page = stage.ns("internal-client")?.run(|| client::get(name, 80))?;
        let told = page.unwrap_or_else(|failure| failure.text().to_owned());
        voice.say_result(&told)?;
        seen.push(format!("{name}: {}", told.trim_end()));
    }
    Ok(seen)
}

/// productpage reads a review and tries to delete it, over one connection.
fn read_and_delete(stage: &Stage, _: &mut Daemon, voice: &mut Voice) -> Result<Vec<String>> {
    let connect = || client::connect("reviews", WEB_PORT);
    let mut stream = stage
        .ns("productpage-v1")?
        .run(connect)?
        .map_err(|failure| anyhow::anyhow!(failure.text()))?;
    let mut seen = Vec::new();
    for method in ["GET", "DELETE"] {
        voice.say_command(
            "productpage-v1",
            &format!("{method} http://reviews:{WEB_PORT}/reviews/1"),
        )?;
        let line = format!("{method} /reviews/1 HTTP/1.1");
        let (status, body) = client::request(&mut stream, &line, "reviews:9080")?;
        voice.say_result(&format!("{status}\n{}\n", body.trim_end()))?;
        seen.push(format!("{method}: {status}: {}", body.trim_end()));
    }
    Ok(seen)
}

/// internal-client keeps a connection over the end of its name's TTL.
fn wait_for_the_end(stage: &Stage, daemon: &mut Daemon, voice: &mut Voice) -> Result<Vec<String>> {
    let ns = stage.ns("internal-client")?;
    voice.say_note(&format!(
        "here ifconfig.me has a TTL of {IFCONFIG_TTL} s, and floor and grace are 0; by default they are 60 s and 30 s"
    ))?;
    let mut told = Vec::new();
    let mut tell = |voice: &mut Voice, what: &str, how: Result<String, Failure>| {
        let line = format!(
            "{what}: {}",
            how.unwrap_or_else(|failure| failure.text().to_owned())
                .trim_end()
        );
        voice.say_result(&line)?;
        told.push(line);
        anyhow::Ok(())
    };
    voice.say_command("internal-client", "keep a connection to ifconfig.me:80")?;
    let mut stream = ns
        .run(|| client::connect("ifconfig.me", 80))?
        .map_err(|failure| anyhow::anyhow!(failure.text()))?;
    let peer: IpAddr = stream.peer_addr()?.ip();
    let page = client::get_by(&mut stream, "ifconfig.me").map_err(|_| Failure::Unreachable);
    tell(voice, "connection opened in time", page)?;
    voice.say_note(&format!("waiting {IFCONFIG_TTL} s …"))?;
    for _ in 0..(IFCONFIG_TTL + 1) * 5 {
        std::thread::sleep(Duration::from_millis(200));
        daemon.expire();
    }
    voice.say_command(
        "internal-client",
        &format!("connect to {peer}:80 once more"),
    )?;
    let again = ns
        .run(|| client::connect_to(peer, 80))?
        .map(|_| "connected".to_owned());
    tell(voice, "new connection after the TTL", again)?;
    let page = client::get_by(&mut stream, "ifconfig.me").map_err(|_| Failure::Unreachable);
    tell(voice, "the old connection", page)?;
    Ok(told)
}
