//! The folders that a daemon would read.

use std::path::{Path, PathBuf};

use policy::Problem;

use super::Finding;
use crate::endpoints::file::{self, Roster};
use crate::endpoints::held::Held;
use crate::files::read_folder;
use crate::presets::DnsServers;
use crate::run::read_policies;

const CONFIG: &str = "config";
const POLICIES: &str = "policies";
const ENDPOINTS: &str = "endpoints";
/// Problems that are told one by one; of the rest it is said how many there are.
const TOLD_MAX: usize = 20;

/// The configuration, of which somebody else has found what is wrong.
pub(super) fn settings(faults: &[String]) -> Vec<Finding> {
    let help = "`namegate config check` tells when it is good";
    let finding = |fault: &String| Finding::fail(CONFIG, fault, help);
    match faults {
        [] => vec![Finding::ok(CONFIG, "`namegate run` can be started with it")],
        faults => faults.iter().take(TOLD_MAX).map(finding).collect(),
    }
}

pub(super) fn policies(dirs: &[PathBuf]) -> Vec<Finding> {
    let mut loader = DnsServers::default().loader().unwrap_or_default();
    let (set, problems) = match read_policies(dirs, None, &mut loader) {
        Ok(read) => read,
        Err(error) => {
            let help = "make the folder, it may be empty; --policy-dir names another one";
            return vec![Finding::fail(POLICIES, format!("{error:#}"), help)];
        }
    };
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    let mut findings: Vec<Finding> = problems.iter().take(TOLD_MAX).map(finding).collect();
    if problems.len() > TOLD_MAX {
        let more = format!("{} more problems", problems.len() - TOLD_MAX);
        let help = "`namegate policy validate --for-run` shows all";
        findings.push(if problems.iter().skip(TOLD_MAX).any(Problem::is_error) {
            Finding::fail(POLICIES, more, help)
        } else {
            Finding::warn(POLICIES, more, help)
        });
    }
    if errors == 0 {
        findings.insert(
            0,
            Finding::ok(POLICIES, format!("{} can be enforced", set.len())),
        );
    }
    findings
}

fn finding(problem: &Problem) -> Finding {
    let Problem {
        file,
        line,
        column,
        field,
        message,
        ..
    } = problem;
    let text = format!("{file}:{line}:{column}: {field}: {message}");
    let help = problem.help.clone();
    let make = if problem.is_error() {
        Finding::fail
    } else {
        Finding::warn
    };
    Finding {
        help,
        ..make(POLICIES, text, "")
    }
}

/// The endpoints, the network namespaces that their files name, and what is to be said of them.
pub(super) fn endpoints(dir: &Path) -> (Roster, Vec<(String, PathBuf)>, Vec<Finding>) {
    let none = |findings| (Roster::default(), Vec::new(), findings);
    let files = match read_folder(dir) {
        Ok(files) => files,
        Err(error) => {
            let help = "make the folder, it may be empty; --endpoint-dir names another one";
            return none(vec![Finding::fail(ENDPOINTS, error.to_string(), help)]);
        }
    };
    let roster = match file::read(&files) {
        Ok(documents) => file::look(documents, &Held::default()),
        Err(errors) => {
            let help = "none of the folder counts until this is right; `namegate run --help` shows the form";
            let fail = |error: String| Finding::fail(ENDPOINTS, error, help);
            return none(errors.into_iter().map(fail).collect());
        }
    };
    let (found, peers) = (roster.found.len(), roster.peers.len());
    let counted = format!("{found} can be guarded, {peers} are on other nodes");
    let mut findings = vec![Finding::ok(ENDPOINTS, counted)];
    findings.extend(roster.refused.iter().map(|refused| {
        let text = format!(
            "{} ({}) can't be guarded: {}",
            refused.name, refused.file, refused.reason
        );
        Finding::fail(
            ENDPOINTS,
            text,
            "it is open. It needs one veth to this node and no other way out, and a link and addresses of its own",
        )
    }));
    (roster, file::namespaces(&files), findings)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn statuses(findings: &[Finding]) -> Vec<Status> {
        findings.iter().map(|finding| finding.status).collect()
    }

    #[test]
    fn folders_are_judged_as_the_daemon_would() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let dirs = [path.clone()];
        assert_eq!(
            statuses(&policies(&dirs)),
            [Status::Ok],
            "an empty one will do"
        );
        assert_eq!(statuses(&endpoints(&path).2), [Status::Ok]);
        assert_eq!(statuses(&policies(&[path.join("none")])), [Status::Fail]);
        assert_eq!(statuses(&endpoints(&path.join("none")).2), [Status::Fail]);
        std::fs::write(path.join("a.yaml"), "name: a\nnetns: /nowhere\n").unwrap();
        let (_, namespaces, findings) = endpoints(&path);
        assert_eq!(statuses(&findings), [Status::Ok, Status::Fail]);
        assert!(findings[1].message.contains("default/a"), "{findings:?}");
        assert_eq!(
            namespaces,
            [("default/a".to_owned(), PathBuf::from("/nowhere"))]
        );
        let findings = policies(&dirs);
        assert_eq!(
            statuses(&findings),
            [Status::Fail],
            "no policy: {findings:?}"
        );
        assert!(findings[0].message.contains("a.yaml:1:1"), "{findings:?}");
    }

    #[test]
    fn many_problems_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..TOLD_MAX + 5 {
            std::fs::write(dir.path().join(format!("{number}.yaml")), "kind: X\n").unwrap();
        }
        let findings = policies(&[dir.path().to_owned()]);
        assert_eq!(findings.len(), TOLD_MAX + 1);
        assert_eq!(findings[TOLD_MAX].status, Status::Fail);
    }
}
