//! The port to what makes an address reachable: the datapath, seen from here.

use std::net::SocketAddr;
use std::time::Instant;

use fqdn::Name;
use policy::{EndpointId, L4Protocol};

use crate::answer::Addresses;

/// What one answer teaches: these addresses are the name's, for this endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// Who asked, and alone learns.
    pub endpoint: EndpointId,
    /// Which server said so; not every server is trusted to teach.
    pub server: SocketAddr,
    /// By which protocol it was asked.
    pub protocol: L4Protocol,
    /// The name asked.
    pub name: Name,
    /// The names that the chain went through after it.
    pub aliases: Vec<Name>,
    /// The addresses, each once; never empty.
    pub addresses: Addresses,
}

/// Makes addresses reachable before the answer that names them is released.
pub trait Learn {
    /// The proof that every address of a lesson that policy opens is open in the datapath. A lesson
    /// with nothing to open (untrusted server, classes that are never learned) gives it too.
    type Installed;

    /// Learns, and returns once it holds.
    ///
    /// # Errors
    /// If an address could not be opened, or not in time: the answer is then withheld.
    fn learn(&self, now: Instant, lesson: Lesson) -> Result<Self::Installed, NotInstalled>;
}

/// Why a lesson is not in the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NotInstalled {
    /// The writes took longer than the limit, though they may stand.
    #[error("installed later than the limit")]
    Late,
    /// A map of the datapath is full.
    #[error("a map of the datapath is full")]
    MapFull,
    /// A bound on names or addresses is reached, and nothing could make room.
    #[error("too many names or addresses")]
    TooMany,
    /// The kernel refused a write.
    #[error("the kernel refused a write")]
    Kernel,
    /// It names an address that no answer may open, and such an answer is to be withheld.
    #[error("an address that no answer may open")]
    Rebinding,
    /// No policy is known for the endpoint.
    #[error("no policy is known for the endpoint")]
    NoPolicy,
    /// The endpoint is gone: nobody waits for the answer.
    #[error("the endpoint is gone")]
    EndpointGone,
}
