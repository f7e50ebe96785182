//! Containers whose names Docker asks for from the host: no query of theirs passes their link.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Processes that are looked at; of the rest nothing is known.
const PROCESSES_MAX: usize = 50_000;
/// Bytes that are read of a resolver's file: the comment stands at its end, and Docker's are short.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What is wrong about such an endpoint.
pub(crate) const RESOLVED_ON_HOST: &str = "Docker resolves the names of this container on the host: its \
     queries are not judged, and nothing is learned from them";
/// What to do about it.
pub(crate) const HELP: &str = "give the container a DNS server that is no loopback address: --dns, or \
     \"dns\" in daemon.json";

/// Those of these endpoints, each with its network namespace, whose names are asked for on the host, as
/// far as some process in the namespace can be found.
pub(crate) fn resolved_on_host(namespaces: &[(String, PathBuf)]) -> BTreeSet<String> {
    let mut wanted: BTreeMap<(u64, u64), &str> = BTreeMap::new();
    for (endpoint, path) in namespaces {
        wanted.extend(inode(path).map(|inode| (inode, endpoint.as_str())));
    }
    let mut found = BTreeSet::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.take(PROCESSES_MAX) {
        if wanted.is_empty() {
            break;
        }
        let path = process.path();
        let Some(inode) = inode(&path.join("ns/net")).filter(|inode| wanted.contains_key(inode))
        else {
            continue;
        };
        // A process that has just ended has none; another one may.
        let Some(text) = read(&path.join("root/etc/resolv.conf")) else {
            continue;
        };
        // Whoever entered the container's network alone has the host's file.
        if is_dockers(&text)
            && let Some(endpoint) = wanted.remove(&inode)
            && is_resolved_on_host(&text)
        {
            found.insert(endpoint.to_owned());
        }
    }
    found
}

/// The file is a workload's: it may be no file at all, or endless.
fn read(path: &Path) -> Option<String> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .ok()?;
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    is_file.then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// The line in which Docker says whom its own resolver asks.
const SERVERS: &str = "ExtServers:";

fn is_dockers(resolv_conf: &str) -> bool {
    resolv_conf.contains(SERVERS)
}

/// Docker's own comment names the servers that it asks, and those that it asks from the host.
fn is_resolved_on_host(resolv_conf: &str) -> bool {
    let mut comments = resolv_conf.lines().filter(|line| line.starts_with('#'));
    comments.any(|line| line.contains(SERVERS) && line.contains("host("))
}

fn inode(namespace: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(namespace).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_comment_tells_who_asks() {
        for (text, expected) in [
            (
                "nameserver 127.0.0.11\noptions ndots:0\n\n# Based on host file: '/etc/resolv.conf'\n# ExtServers: [host(127.0.0.53)]\n",
                true,
            ),
            (
                "nameserver 127.0.0.11\n# ExtServers: [9.9.9.9 host(127.0.0.1)]\n",
                true,
            ),
            ("nameserver 127.0.0.11\n# ExtServers: [9.9.9.9]\n", false),
            ("nameserver 9.9.9.9\n", false),
        ] {
            assert_eq!(is_resolved_on_host(text), expected, "{text}");
        }
    }

    #[test]
    fn of_a_resolvers_file_the_beginning_is_read_and_of_anything_else_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("long");
        let len = usize::try_from(FILE_BYTES_MAX).unwrap();
        fs::write(&long, "#".repeat(len + 10)).unwrap();
        assert_eq!(read(&long).unwrap().len(), len);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&long, &link).unwrap();
        for none in [link.as_path(), dir.path(), Path::new("/dev/zero")] {
            assert_eq!(read(none), None, "{}", none.display());
        }
    }
}
