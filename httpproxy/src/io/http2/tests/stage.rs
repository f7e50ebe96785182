//! A client and a server of frames with the proxy between them, over sockets of loopback.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::wire::*;
use crate::core::step::{Origin, Scheme, Settings};
use crate::io::connection::End;
use crate::io::http1::Trusted;
use crate::io::http2::{Given, serve};
use crate::io::tests::node::Node;
pub(super) use crate::rows::PORT;
use crate::testing::pair;
use crate::{Proxy, Told};

/// A client, the proxy, and where its server's connection arrives.
pub(super) struct Stage {
    pub(super) client: Wire,
    pub(super) server: Option<Wire>,
    pub(super) proxy: Arc<Proxy<Node>>,
    pub(super) stop: CancellationToken,
    pub(super) served: JoinHandle<End>,
}

impl Stage {
    /// With these rules.
    pub(super) async fn new(rules: &str) -> Self {
        Self::with(rules, Settings::default()).await
    }

    pub(super) async fn with(rules: &str, settings: Settings) -> Self {
        Self::to((rules, settings), Trusted::Yes).await
    }

    /// With a server that has not shown that it is the one that is meant.
    pub(super) async fn untrusted(rules: &str) -> Self {
        Self::to((rules, Settings::default()), Trusted::No).await
    }

    async fn to((rules, settings): (&str, Settings), trusted: Trusted) -> Self {
        let (node, redirected) = Node::new(rules);
        let proxy = Arc::new(Proxy::new(node, 0, settings));
        let (client, near) = pair().await;
        let (far, server) = pair().await;
        let stop = CancellationToken::new();
        let (its_proxy, its_stop) = (Arc::clone(&proxy), stop.clone());
        let mut changes = proxy.changes();
        let served = tokio::spawn(async move {
            let given = Given {
                proxy: &its_proxy,
                redirected,
                origin: Origin {
                    scheme: Scheme::Http,
                    original_destination: redirected.server,
                },
                bound: &None,
                trusted,
                seen: &mut None,
                changes: &mut changes,
                stop: &its_stop,
                cut: &CancellationToken::new(),
            };
            serve(given, (near, Vec::new()), far).await
        });
        Self {
            client: Wire::new(client),
            server: Some(Wire::new(server)),
            proxy,
            stop,
            served,
        }
    }

    /// The client begins as most do.
    pub(super) async fn greet(&mut self) {
        self.client.say(&greeting()).await;
    }

    /// Lets a server answer, that takes note of all.
    pub(super) fn record(&mut self) -> Recorder {
        let seen = Arc::default();
        let recorder = Recorder(Arc::clone(&seen));
        tokio::spawn(answer(self.server.take().unwrap(), seen));
        recorder
    }

    /// The server as it is after its greeting.
    pub(super) async fn server(&mut self, settings: &[u8]) -> Wire {
        let mut server = self.server.take().unwrap();
        server.preface().await;
        let said = [
            frame(SETTINGS, 0, 0, settings),
            frame(SETTINGS, ACK, 0, &[]),
        ];
        server.say(&said.concat()).await;
        server
    }

    pub(super) fn change_rules(&self, rules: &str) {
        self.proxy.host.change_rules(rules);
        self.proxy.policy_changed();
    }

    /// What was told, a word for each.
    pub(super) async fn told(&self) -> Vec<String> {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let told = self.proxy.host.told.lock().unwrap();
        let word = |told: &Told| match told {
            Told::Request(request) => format!(
                "{} {} {}",
                request.method,
                request.url,
                if matches!(request.verdict, crate::Verdict::Allowed { .. }) {
                    "allowed".to_owned()
                } else {
                    format!("{:?}", request.verdict)
                }
            ),
            Told::Response(response) => format!("{} {:?}", response.status, response.by),
            Told::Ended(end) => format!("{:?} {} {}", end.end, end.sent, end.received),
            Told::Fault(fault) => format!("{fault:?}"),
        };
        told.iter().map(word).collect()
    }

    pub(super) fn counted(&self, name: &str, reason: &str) -> u64 {
        let mut all = self.proxy.counters.iter();
        all.find(|(n, r, _)| (*n, *r) == (name, reason)).unwrap().2
    }
}

/// What a client says before all else.
pub(super) fn greeting() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A request as the server saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) head: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(String, String)>,
    pub(super) is_whole: bool,
    pub(super) reset: Option<u32>,
}

impl Seen {
    pub(super) fn path(&self) -> &str {
        let mut head = self.head.iter();
        head.find(|(name, _)| name == ":path")
            .map_or("", |(_, value)| value)
    }
}

/// What a server has seen, by stream.
pub(super) struct Recorder(Arc<Mutex<BTreeMap<u32, Seen>>>);

impl Recorder {
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().values().cloned().collect()
    }
}

/// Answers each request that is whole with 200 and `ok`.
async fn answer(mut server: Wire, seen: Arc<Mutex<BTreeMap<u32, Seen>>>) {
    server.preface().await;
    server.say(&frame(SETTINGS, 0, 0, &[])).await;
    while let Some(came) = server.next().await {
        let number = came.stream;
        let is_whole = {
            let mut all = seen.lock().unwrap();
            match came.kind {
                HEADERS => {
                    let one = all.entry(number).or_default();
                    match one.head.is_empty() {
                        true => one.head = came.fields.clone(),
                        false => one.trailers = came.fields.clone(),
                    }
                    one.is_whole |= came.ends();
                    one.is_whole
                }
                DATA => {
                    let one = all.entry(number).or_default();
                    one.body.extend(&came.payload);
                    one.is_whole |= came.ends();
                    one.is_whole
                }
                RST => {
                    all.entry(number).or_default().reset = Some(came.code());
                    false
                }
                _ => false,
            }
        };
        let answer = match came.kind {
            SETTINGS if came.flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
            PING if came.flags & ACK == 0 => frame(PING, ACK, 0, &came.payload),
            _ if is_whole => [
                headers(
                    number,
                    END_HEADERS,
                    &[(":status", "200"), ("x-from", "server")],
                ),
                frame(DATA, END_STREAM, number, b"ok"),
            ]
            .concat(),
            _ => Vec::new(),
        };
        server.say(&answer).await;
    }
}
