//! The cluster that the node belongs to, and the name by which flows tell of the node in it.

use std::str::FromStr;
use std::sync::Arc;

/// A cluster's name: what a DNS label may be, but shorter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cluster(Arc<str>);

/// The cluster of who has but one; events leave it out of the node's name, as Hubble's do.
const DEFAULT: &str = "default";

/// Octets of a name, Cilium's bound; a longer one is refused.
const NAME_MAX: usize = 32;

impl Default for Cluster {
    fn default() -> Self {
        Self(DEFAULT.into())
    }
}

impl FromStr for Cluster {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_edge = |c: Option<&u8>| c.is_some_and(|c| is_inner(*c));
        let octets = text.as_bytes();
        let is_name = is_edge(octets.first())
            && is_edge(octets.last())
            && octets.iter().all(|c| is_inner(*c) || *c == b'-');
        if !is_name || octets.len() > NAME_MAX {
            return Err(format!(
                "a cluster's name is of a-z, 0-9 and, between them, -, and has at most {NAME_MAX} characters"
            ));
        }
        Ok(Self(text.into()))
    }
}

impl Cluster {
    /// Its name.
    pub(crate) const fn name(&self) -> &Arc<str> {
        &self.0
    }

    /// The node's name in events: `cluster/node`, or `node` in the default cluster.
    pub(crate) fn node_name(&self) -> Arc<str> {
        let host = host_name();
        match &*self.0 {
            DEFAULT => host.into(),
            cluster => format!("{cluster}/{host}").into(),
        }
    }

    /// The name in the node's certificate for those who watch flows, unless it is another one.
    pub(crate) fn server_name(&self) -> String {
        let host = host_name().replace('.', "-");
        format!("{host}.{}.hubble-grpc.cilium.io", self.0)
    }
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_told_with_its_cluster_unless_that_is_the_default() {
        let host = host_name();
        assert_eq!(*Cluster::default().node_name(), *host);
        let prod: Cluster = "prod-1".parse().unwrap();
        assert_eq!(*prod.node_name(), format!("prod-1/{host}"));
        let server_name = prod.server_name();
        assert!(server_name.ends_with(".prod-1.hubble-grpc.cilium.io"));
        assert_eq!(server_name.split('.').count(), 5, "{server_name}");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let longest = "x".repeat(NAME_MAX);
        for good in ["a", "default", "eu-west-1", &longest] {
            assert_eq!(&**good.parse::<Cluster>().unwrap().name(), good);
        }
        let longer = "x".repeat(NAME_MAX + 1);
        for wrong in ["", "a/b", "Prod", "-a", "a-", "a.b", "a b", &longer] {
            assert!(wrong.parse::<Cluster>().is_err(), "{wrong}");
        }
    }
}
