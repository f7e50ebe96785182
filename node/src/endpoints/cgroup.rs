//! A look at a cgroup.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::GuardedCgroup;

/// `f_type` of cgroup v2 (linux/magic.h).
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// Where glibc reads who resolves names.
const NSSWITCH: &str = "/etc/nsswitch.conf";
/// The socket by which glibc asks nscd, whatever else it is told.
const NSCD: &str = "/run/nscd/socket";

/// Looks at a cgroup's directory.
///
/// # Errors
/// The reason why it can't be guarded: it isn't there, isn't of cgroup v2, is the root, or holds this
/// process.
pub(crate) fn inspect(path: &Path) -> Result<GuardedCgroup, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| format!("{shown}: {error}");
    let path = path.canonicalize().map_err(failed)?;
    let metadata = path.metadata().map_err(failed)?;
    if !metadata.is_dir() || !is_cgroup2(&path) {
        return Err(format!("{shown} is no cgroup of version 2"));
    }
    let root = root_of(&path);
    if root == path {
        return Err(format!(
            "{shown} is the root of the cgroups: every process of the node is in it"
        ));
    }
    let own = own_cgroup(&root)
        .ok_or_else(|| format!("{shown}: which cgroup Namegate itself runs in can't be read"))?;
    if own.starts_with(&path) {
        return Err(format!(
            "Namegate itself runs in {shown}: it would ask itself for the names that it asks for"
        ));
    }
    Ok(GuardedCgroup {
        path,
        id: metadata.ino(),
        bypass: bypass(),
    })
}

/// Slices in which a unit is looked for at most.
const SLICES_MAX: usize = 4_096;

/// The cgroup of a unit of the system's systemd, while it runs: a directory of the unit's name, in a slice or
/// in slices in slices (systemd.slice(5)).
///
/// # Errors
/// The reason why it isn't found.
pub(super) fn of_unit(unit: &str) -> Result<PathBuf, String> {
    let mut slices = vec![root()?];
    let mut seen = 0;
    while let Some(slice) = slices.pop() {
        let own = slice.join(unit);
        if own.is_dir() {
            return Ok(own);
        }
        seen += 1;
        if seen > SLICES_MAX {
            return Err(format!("unit {unit}: not in the first {SLICES_MAX} slices"));
        }
        let entries = std::fs::read_dir(&slice).into_iter().flatten().flatten();
        let is_slice = |path: &PathBuf| path.extension().is_some_and(|end| end == "slice");
        slices.extend(entries.map(|entry| entry.path()).filter(is_slice));
    }
    Err(format!(
        "unit {unit}: no slice has a cgroup of this name; it doesn't run"
    ))
}

/// Where the hierarchy of version 2 is mounted.
///
/// # Errors
/// Without one.
pub(crate) fn root() -> Result<PathBuf, String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    let root = mount_of(&mounts);
    root.ok_or_else(|| "there are no cgroups of version 2 (no mount of cgroup2)".to_owned())
}

/// The first such mount.
fn mount_of(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}

/// Whether a text is the name of a unit that has a cgroup.
pub(super) fn is_unit(name: &str) -> bool {
    let ends = [".service", ".scope", ".slice"];
    let stem = ends.iter().find_map(|end| name.strip_suffix(end));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ":_.\\@-".contains(c);
    stem.is_some_and(|stem| !stem.is_empty() && stem.chars().all(is_plain))
}

fn is_cgroup2(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == CGROUP2_MAGIC)
}

/// The topmost directory that is still one of the same file system.
fn root_of(path: &Path) -> PathBuf {
    let root = path.ancestors().take_while(|path| is_cgroup2(path)).last();
    root.unwrap_or(path).to_owned()
}

/// The cgroup of this process, under a mount of the hierarchy.
fn own_cgroup(root: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(root.join(path))
}

/// Who else resolves names for the processes of a cgroup: by a socket of its own, in another process,
/// which no hook of the cgroup sees.
fn bypass() -> Option<String> {
    const SO: &str = "what is asked there is not judged, and nothing is learned from it";
    if Path::new(NSCD).exists() {
        return Some(format!("nscd resolves names ({NSCD}): {SO}"));
    }
    let text = std::fs::read_to_string(NSSWITCH).ok()?;
    by_resolve(&text)
        .then(|| format!("systemd-resolved is asked by nss-resolve ({NSSWITCH}): {SO}"))
}

fn by_resolve(nsswitch: &str) -> bool {
    let lines = nsswitch
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let mut hosts = lines.filter_map(|line| line.trim().strip_prefix("hosts:"));
    hosts.any(|sources| sources.split_whitespace().any(|source| source == "resolve"))
}

/// A cgroup in or around another one would be judged by two policies: the second is refused, with both
/// names.
pub(super) fn clash(one: &Path, other: &Path) -> Option<&'static str> {
    match (one.starts_with(other), other.starts_with(one)) {
        (true, true) => Some("has the same cgroup"),
        (true, false) => Some("has a cgroup around it"),
        (false, true) => Some("has a cgroup in it"),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_cgroup_of_its_own_is_refused_by_name() {
        for (path, reason) in [
            ("/nowhere/at/all", "No such file"),
            ("/", "no cgroup of version 2"),
            ("/etc/hostname", "no cgroup of version 2"),
        ] {
            let error = inspect(Path::new(path)).unwrap_err();
            assert!(error.contains(reason) && error.contains(path), "{error}");
        }
    }

    #[test]
    fn a_unit_that_does_not_run_is_refused_by_name() {
        let error = of_unit("no-such-thing.service").unwrap_err();
        assert!(error.starts_with("unit no-such-thing.service: "), "{error}");
    }

    #[test]
    fn a_unit_has_a_name_of_a_unit() {
        for (name, is) in [
            ("nginx.service", true),
            ("getty@tty1.service", true),
            ("dev-disk\\x2d1.scope", true),
            ("user-1000.slice", true),
            (".service", false),
            ("nginx", false),
            ("nginx.socket", false),
            ("../x.service", false),
            ("a b.service", false),
        ] {
            assert_eq!(is_unit(name), is, "{name}");
        }
    }

    #[test]
    fn the_hierarchy_is_found_where_it_is_mounted() {
        let mounts = "cgroup /c/memory cgroup rw 0 0\ncgroup2 /c/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_of(mounts), Some("/c/unified".into()));
        assert_eq!(mount_of("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn nested_cgroups_clash() {
        let clash = |one, other| clash(Path::new(one), Path::new(other));
        assert_eq!(clash("/c/a", "/c/b"), None);
        assert_eq!(clash("/c/ab", "/c/a"), None);
        assert_eq!(clash("/c/a", "/c/a"), Some("has the same cgroup"));
        assert_eq!(clash("/c/a/b", "/c/a"), Some("has a cgroup around it"));
        assert_eq!(clash("/c/a", "/c/a/b"), Some("has a cgroup in it"));
    }

    #[test]
    fn nss_resolve_is_seen() {
        for (text, expected) in [
            (
                "hosts: mymachines resolve [!UNAVAIL=return] files dns\n",
                true,
            ),
            ("passwd: files\nhosts:\tfiles dns # resolve\n", false),
            ("# hosts: resolve\nhosts: files dns\n", false),
        ] {
            assert_eq!(by_resolve(text), expected, "{text}");
        }
    }
}
