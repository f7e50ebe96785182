//! The user space of the datapath: loads, pins and attaches the programs, opens the maps, keeps the
//! ledger of what the kernel holds.
//!
//! It knows endpoints, addresses and identities as numbers; names, labels and policies are not its
//! business. [`Installed`] is made here and nowhere else.

mod attach;
mod batch;
mod cgroup;
mod datapath;
mod dump;
mod endpoints;
mod events;
mod fake;
mod filter;
mod journal;
mod ledger;
mod object;
pub mod packet;
mod pin;
mod pinned;
mod table;
mod takeover;

pub use attach::{Attachment, Hook, HookMode, Seat, Standing, chain, is_ours, strangers};
pub use cgroup::{Asker, Askers, CgroupAttachment, CgroupPlace};
pub use datapath::{CounterValue, Datapath, DatapathError, Listening, Loader, SideLink, Timed};
pub use dump::{ENDPOINT, Field, Row};
pub use endpoints::EndpointEntry;
pub use events::EventReader;
pub use fake::{FakeTable, Hook as FakeHook};
pub use filter::remove_filters;
pub use journal::{Act, Journal, JournalCursor, WRITES_KEPT_MAX, Write};
pub use ledger::{Change, InstallError, Installed, Ledger, Outcome};
pub use pin::{Bpffs, PinError, Pins};
pub use pinned::{DumpError, MapSummary, PinnedMaps};
pub use table::{KernelTable, NoTable, Table, TableError};
pub use takeover::{Inherited, InheritedEndpoint, TakeOverError, inspect};
