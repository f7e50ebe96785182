//! Others change the node too: what they put in front of our programs or take away is seen within a
//! second, set right and said.

use anyhow::Result;
use bpf_redirect::{Attachment, Datapath, Hook, Standing};

use crate::daemon::Daemon;

/// What was seen and set right.
#[derive(Debug, Default)]
pub(crate) struct Interference {
    /// How often.
    pub(crate) count: u64,
    /// The last one, in words.
    pub(crate) last: Option<String>,
}

impl Interference {
    fn note(&mut self, what: String) {
        tracing::error!("{what}");
        self.count += 1;
        self.last = Some(what);
    }
}

impl Daemon {
    /// Looks at every interface that carries programs of ours.
    pub(crate) fn watch(&mut self) {
        let mut seen = self.guards.watch(&mut self.datapath);
        seen.extend(self.watch_side_link());
        for what in seen {
            self.interference.note(what);
        }
    }
}

/// Sets one program of an interface right, if it isn't the first of its hook; says what was wrong.
///
/// # Errors
/// If the kernel refuses. Then the interface is closed or as it was, and the next look tries again.
pub(crate) fn set_right(
    datapath: &mut Datapath,
    (hook, interface): (Hook, (&str, u32)),
    attachment: &mut Option<Attachment>,
) -> Result<Option<String>> {
    let name = interface.0;
    let what = match datapath.standing(hook, name)? {
        Standing::First | Standing::Unknown => return Ok(None),
        Standing::Behind(others) => {
            let others = others.join(", ");
            let Some(old) = attachment.take() else {
                return Ok(None);
            };
            *attachment = Some(datapath.attach_in_front(hook, interface, old)?);
            format!(
                "{name}: {others} came in front of {hook:?} and may have kept packets from it; it is in front again"
            )
        }
        Standing::Gone => {
            *attachment = Some(datapath.attach(hook, interface)?);
            format!(
                "{name}: {hook:?} was taken off; packets passed unjudged until now, and it is back"
            )
        }
    };
    Ok(Some(what))
}
