//! The further ports of DNS: a worker for each that policy names, over UDP. Over TCP what is redirected
//! there is accepted by the HTTP proxy's listener, which hands it over.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;

use bpf_redirect_common::{DNS_PORT, DNS_PORTS_MAX};
use dnsproxy::{Own, StopUdp, UdpWorker};

use super::{DnsThreads, NodeHost, run_udp};

/// The workers, by port.
#[derive(Default)]
pub(super) struct Ports(BTreeMap<u16, Port>);

struct Port {
    stop: StopUdp,
    own: Own,
    /// Before it reads; then its thread.
    ready: Option<Box<UdpWorker<NodeHost>>>,
    thread: Option<JoinHandle<()>>,
}

impl Port {
    /// Reads nothing more; what waits for an answer gets it.
    fn stop(self) -> Option<JoinHandle<()>> {
        self.stop.stop();
        self.thread
    }
}

impl Ports {
    pub(super) fn all_alive(&self) -> bool {
        let mut threads = self.0.values().filter_map(|port| port.thread.as_ref());
        threads.all(|thread| !thread.is_finished())
    }

    /// Ends all of them; gives what is to be waited for.
    pub(super) fn stop(self) -> impl Iterator<Item = JoinHandle<()>> {
        self.0.into_values().filter_map(Port::stop)
    }
}

impl DnsThreads {
    /// By which the daemon asks servers at a port in an endpoint's name.
    pub(crate) fn own_at(&self, port: u16) -> Option<&Own> {
        match port {
            DNS_PORT => self.own.as_ref(),
            _ => self.ports.0.get(&port).map(|port| &port.own),
        }
    }

    /// Opens the ports that aren't open yet: queries wait there until [`DnsThreads::serve`]. To be called
    /// before a policy is in force that names them. A port that can't be opened answers nobody, and is tried
    /// again; there are `DNS_PORTS_MAX` at most, as policy is refused with more.
    pub(crate) fn open_ports(&mut self, ports: &BTreeSet<u16>) {
        self.proxy
            .reserve(self.ports.0.keys().chain(ports).copied().collect());
        let missing = ports
            .iter()
            .filter(|port| !self.ports.0.contains_key(*port));
        let missing: Vec<u16> = missing.copied().take(DNS_PORTS_MAX).collect();
        for port in missing {
            match self.open_worker(port) {
                Ok(worker) => {
                    let port_worker = Port {
                        stop: worker.stopper(),
                        own: worker.own(),
                        ready: Some(Box::new(worker)),
                        thread: None,
                    };
                    self.ports.0.insert(port, port_worker);
                }
                // A socket for upstream may have it until its queries are over.
                Err(error) => tracing::error!("names are asked in vain at port {port}: {error}"),
            }
        }
    }

    /// Whether each of these is open.
    pub(crate) fn has_ports(&self, ports: &BTreeSet<u16>) -> bool {
        ports.iter().all(|port| self.ports.0.contains_key(port))
    }

    /// Closes those that no policy names any more, once none is in force that does.
    pub(crate) fn close_ports(&mut self, wanted: &BTreeSet<u16>) {
        let all = std::mem::take(&mut self.ports.0).into_iter();
        let (kept, closed) = all.partition(|(port, _)| wanted.contains(port));
        self.ports.0 = kept;
        self.proxy.reserve(wanted.clone());
        let closed: BTreeMap<u16, Port> = closed;
        // Their threads end by themselves, after what they wait for.
        closed.into_values().for_each(|port| drop(port.stop()));
    }

    /// Begins to read where nobody does.
    pub(super) fn serve_ports(&mut self) -> std::io::Result<()> {
        for (number, port) in &mut self.ports.0 {
            if let Some(worker) = port.ready.take() {
                port.thread = Some(run_udp(format!("dns-udp-at-{number}"), &self.ns, *worker)?);
            }
        }
        Ok(())
    }
}
