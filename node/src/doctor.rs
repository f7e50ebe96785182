//! What is missing on this node, and what is in the way.
//!
//! Each check looks for itself, from the network namespace of its caller; none needs a daemon and none
//! changes anything.

mod files;
pub(crate) mod links;
mod machine;

use std::path::PathBuf;

use bpf_redirect::{DumpError, PinnedMaps};
use bpf_redirect_common::LAYOUT_VERSION;
use serde::Serialize;

use crate::control::{Command, call};
use crate::instance::{Instance, holder_here};
pub(crate) use machine::lacking_here;

/// What is looked at.
pub(crate) struct Patient {
    /// What is wrong with the configuration.
    pub(crate) settings: Vec<String>,
    pub(crate) instance: Instance,
    pub(crate) socket: PathBuf,
    pub(crate) bpf_dir: PathBuf,
    pub(crate) policy_dirs: Vec<PathBuf>,
    pub(crate) endpoint_dir: PathBuf,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) check: &'static str,
    pub(crate) status: Status,
    pub(crate) message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) help: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// As it should be.
    Ok,
    /// It works, and somebody should know.
    Warn,
    /// It does not work, or not for somebody.
    Fail,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Ok,
            message: message.into(),
            help: None,
        }
    }

    fn warn(check: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Warn,
            message: message.into(),
            help: Some(help.into()),
        }
    }

    fn fail(check: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Fail,
            message: message.into(),
            help: Some(help.into()),
        }
    }
}

/// Looks at everything.
pub(crate) fn examine(patient: &Patient) -> Vec<Finding> {
    let mut findings = machine::examine(&patient.bpf_dir);
    findings.push(daemon(patient));
    findings.extend(files::settings(&patient.settings));
    findings.extend(files::policies(&patient.policy_dirs));
    let (roster, namespaces, of_endpoints) = files::endpoints(&patient.endpoint_dir);
    findings.extend(of_endpoints);
    findings.extend(links::programs(&roster));
    findings.extend(links::resolvers(&namespaces, &roster));
    findings
}

const DAEMON: &str = "daemon";

/// Who guards this namespace, and what an earlier run left.
fn daemon(patient: &Patient) -> Finding {
    let name = patient.instance.name();
    let answer = call(&patient.socket, &Command::Status).ok();
    let pid = answer.and_then(|status| status.get("pid")?.as_i64());
    match (holder_here(), pid) {
        (Some(holder), Some(pid)) if i64::from(holder) == pid => Finding::ok(
            DAEMON,
            format!("process {pid} guards this network namespace"),
        ),
        (Some(holder), _) => Finding::fail(
            DAEMON,
            format!(
                "process {holder} guards this network namespace, and is not the one that answers at {}",
                patient.socket.display()
            ),
            "name its --instance or --socket, or end it: there is one daemon for each network namespace",
        ),
        (None, Some(pid)) => Finding::warn(
            DAEMON,
            format!("instance {name} is process {pid}, which guards another network namespace"),
            "run doctor in that one, by nsenter, or name another --instance",
        ),
        (None, None) => left_behind(PinnedMaps::open(&patient.bpf_dir)),
    }
}

fn left_behind(maps: Result<PinnedMaps, DumpError>) -> Finding {
    let Ok(maps) = maps else {
        return Finding::ok(DAEMON, "none runs here, and none left anything");
    };
    match maps.layout() {
        Ok(LAYOUT_VERSION) => Finding::warn(
            DAEMON,
            "a daemon that has ended left enforcement in place: what it had opened stays open, DNS of its endpoints is not answered",
            "`namegate run` takes it over; `namegate detach` takes it away",
        ),
        Ok(_) | Err(_) => Finding::fail(
            DAEMON,
            "a daemon of another version has ended and left enforcement in place; this version can't take it over",
            "`namegate detach` takes it away, and opens its endpoints until they are guarded anew",
        ),
    }
}
