//! The options of those who watch, with Cilium's names.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use observer::Tls;

use crate::cluster::Cluster;
use crate::observing::Observing;

/// Who may watch flows, and by which way.
#[derive(Args)]
#[command(next_help_heading = "Flows for Hubble's tools")]
pub(super) struct HubbleOptions {
    /// The cluster that the node belongs to, as flows tell it: of a node as CLUSTER/NODE unless it is `default`.
    #[arg(long, value_name = "NAME", default_value = "default")]
    cluster_name: Cluster,
    /// The unix socket of Hubble's Observer [default: hubble.sock beside the control socket].
    #[arg(long, value_name = "PATH", visible_alias = "hubble-socket")]
    hubble_socket_path: Option<PathBuf>,
    /// Serve it on TCP too, for clients with a certificate: 0.0.0.0:4244.
    #[arg(long, value_name = "ADDRESS", requires_all = ["hubble_tls_cert_file", "hubble_tls_key_file", "hubble_tls_client_ca_files"])]
    hubble_listen_address: Option<SocketAddr>,
    /// Our certificate for TCP, with those above it (PEM).
    #[arg(long, value_name = "FILE", requires = "hubble_listen_address")]
    hubble_tls_cert_file: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, value_name = "FILE", requires = "hubble_listen_address")]
    hubble_tls_key_file: Option<PathBuf>,
    /// The authorities whose clients may watch (PEM).
    #[arg(long, value_name = "FILE", requires = "hubble_listen_address")]
    hubble_tls_client_ca_files: Option<PathBuf>,
    /// The name in our certificate, which a relay is told [default: NODE.CLUSTER.hubble-grpc.cilium.io].
    #[arg(long, value_name = "NAME", requires = "hubble_listen_address")]
    hubble_tls_server_name: Option<String>,
    /// Obey every field mask to the letter: also the one that `hubble observe` always sends, which leaves out
    /// names and verdicts that it prints.
    #[arg(long)]
    hubble_exact_field_masks: bool,
    /// How many flows are kept for those who come later.
    #[arg(long, value_name = "FLOWS", default_value = "4095", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    hubble_event_buffer_capacity: u32,
}

impl HubbleOptions {
    pub(super) fn cluster(&self) -> Cluster {
        self.cluster_name.clone()
    }

    pub(super) fn flows_max(&self) -> usize {
        usize::try_from(self.hubble_event_buffer_capacity).unwrap_or(usize::MAX)
    }

    /// The ways in; `beside` is the control socket.
    pub(super) fn observing(
        self,
        beside: &std::path::Path,
        metrics: Option<SocketAddr>,
    ) -> Observing {
        let server_name = self.hubble_tls_server_name;
        let server_name = server_name.unwrap_or_else(|| self.cluster_name.server_name());
        let files = (
            self.hubble_tls_cert_file,
            self.hubble_tls_key_file,
            self.hubble_tls_client_ca_files,
        );
        let tcp = match (self.hubble_listen_address, files) {
            (Some(address), (Some(certificate), Some(key), Some(client_ca))) => Some((
                address,
                Tls {
                    certificate,
                    key,
                    client_ca,
                    server_name,
                },
            )),
            _ => None,
        };
        Observing {
            node_name: self.cluster_name.node_name(),
            socket: self
                .hubble_socket_path
                .unwrap_or_else(|| beside.with_file_name("hubble.sock")),
            tcp,
            exact_masks: self.hubble_exact_field_masks,
            metrics,
        }
    }
}
