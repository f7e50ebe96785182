//! Endpoints that are cgroups.

use std::os::unix::fs::MetadataExt;

use bpf_redirect::{CgroupAttachment, CgroupPlace, Datapath};
use policy::EndpointId;
use serde_json::{Value, json};

use super::Guarded;
use crate::endpoints::GuardedCgroup;

impl Guarded {
    /// The programs on its cgroup.
    pub(crate) fn cgroup_programs(&self) -> Vec<Value> {
        let programs = self.cgroup.iter().flat_map(CgroupAttachment::programs);
        programs
            .map(|(program, link)| {
                let hook = program.trim_start_matches("ng_cg_");
                json!({ "hook": hook, "by": "cgroup", "program": program, "link": link, "ours": true })
            })
            .collect()
    }
}

/// Sets the programs of a cgroup right, if some are off; says what was wrong. One that is gone is let go
/// with the next look at the endpoints.
pub(super) fn watch(
    datapath: &mut Datapath,
    ((id, name), cgroup): ((EndpointId, String), &GuardedCgroup),
    attachment: &mut Option<CgroupAttachment>,
) -> Option<String> {
    let missing = Datapath::missing_from_cgroup(attachment.as_ref()?, cgroup.id);
    if missing.is_empty() || !is_there(cgroup, None) {
        return None;
    }
    let (shown, missing) = (cgroup.path.display(), missing.join(", "));
    match datapath.attach_cgroup(place(id, cgroup)) {
        Ok(anew) => {
            *attachment = Some(anew);
            Some(format!(
                "{shown}: {missing} were taken off; packets passed unjudged until now, and they are back"
            ))
        }
        Err(error) => Some(format!(
            "{name} may be open: {missing} were taken off: {error}"
        )),
    }
}

/// Whether a cgroup is there, by its directory or by its programs that are on it.
pub(super) fn is_there(cgroup: &GuardedCgroup, attachment: Option<&CgroupAttachment>) -> bool {
    let has_directory = cgroup
        .path
        .metadata()
        .is_ok_and(|metadata| metadata.ino() == cgroup.id);
    let is_on = |one| Datapath::missing_from_cgroup(one, cgroup.id).is_empty();
    has_directory || attachment.is_some_and(is_on)
}

pub(super) fn place(id: EndpointId, cgroup: &GuardedCgroup) -> CgroupPlace<'_> {
    CgroupPlace {
        path: &cgroup.path,
        id: cgroup.id,
        endpoint: id.get(),
    }
}
