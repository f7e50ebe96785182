//! The kernel, and what we may ask of it.

use std::path::Path;

use bpf_redirect::{Bpffs, HookMode};

use super::Finding;

/// The privileges that `run` needs, by their bits in `CapEff` (capabilities(7)).
const NEEDED: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];
/// The oldest kernel that can be used.
const OLDEST: (u32, u32) = (6, 1);
const BTF: &str = "/sys/kernel/btf/vmlinux";

pub(super) fn examine(bpf_dir: &Path) -> Vec<Finding> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let process = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    vec![
        privileges(rustix::process::geteuid().is_root(), effective(&process)),
        kernel(&release),
        btf(Path::new(BTF).exists()),
        hooks(HookMode::probe().ok()),
        bpffs(bpf_dir, Bpffs::of(bpf_dir)),
    ]
}

/// The effective capabilities, by the text of `/proc/self/status`.
fn effective(status: &str) -> u64 {
    let mut lines = status.lines();
    let text = lines.find_map(|line| line.strip_prefix("CapEff:"));
    text.and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0)
}

/// Which of them this process lacks.
pub(crate) fn lacking_here() -> Vec<&'static str> {
    let process = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    lacking(effective(&process))
}

fn lacking(effective: u64) -> Vec<&'static str> {
    let needed = NEEDED.iter();
    let lacking = needed.filter(|(_, bit)| effective >> bit & 1 == 0);
    lacking.map(|(name, _)| *name).collect()
}

fn privileges(is_root: bool, effective: u64) -> Finding {
    const CHECK: &str = "privileges";
    let lacking = lacking(effective);
    if !is_root {
        return Finding::fail(
            CHECK,
            "not root; the other checks see less",
            "run doctor as root, as `namegate run` must be",
        );
    }
    if lacking.is_empty() {
        return Finding::ok(CHECK, "root, with all capabilities that are needed");
    }
    Finding::fail(
        CHECK,
        format!("root without {}", lacking.join(", ")),
        "add them to the container or unit",
    )
}

fn kernel(release: &str) -> Finding {
    const CHECK: &str = "kernel";
    let (major, minor) = OLDEST;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (Some(Ok(has_major)), Some(Ok(has_minor))) = (numbers.next(), numbers.next()) else {
        return Finding::warn(
            CHECK,
            format!("Linux {release}: no version that can be read"),
            format!("Linux {major}.{minor} or later is needed"),
        );
    };
    if (has_major, has_minor) < OLDEST {
        return Finding::fail(
            CHECK,
            format!("Linux {release}"),
            format!("Linux {major}.{minor} or later is needed"),
        );
    }
    Finding::ok(CHECK, format!("Linux {release}"))
}

fn btf(is_there: bool) -> Finding {
    if is_there {
        Finding::ok("btf", format!("the kernel describes its types in {BTF}"))
    } else {
        Finding::fail(
            "btf",
            format!("no {BTF}"),
            "use a kernel that is built with CONFIG_DEBUG_INFO_BTF, and mount /sys",
        )
    }
}

fn hooks(mode: Option<HookMode>) -> Finding {
    const CHECK: &str = "hooks";
    let Some(mode) = mode else {
        return Finding::fail(
            CHECK,
            "the kernel doesn't tell which programs are on an interface",
            "run this as root, with CAP_BPF and CAP_NET_ADMIN",
        );
    };
    Finding::ok(
        CHECK,
        match mode {
            HookMode::Tcx => "tcx: our programs run before those of others",
            HookMode::Clsact => {
                "clsact: the kernel has no tcx, which comes with Linux 6.6; our filters have preference 1"
            }
        },
    )
}

fn bpffs(dir: &Path, found: Bpffs) -> Finding {
    const CHECK: &str = "bpffs";
    let parent = dir.parent().unwrap_or(dir).display();
    match found {
        Bpffs::Mounted => Finding::ok(CHECK, format!("a BPF file system holds {}", dir.display())),
        Bpffs::WouldHide => Finding::fail(
            CHECK,
            format!(
                "no BPF file system at {parent}; one mounted over it would hide the files that it holds"
            ),
            "give --bpf-dir a folder in a BPF file system, or in one that is empty",
        ),
        Bpffs::Missing => Finding::warn(
            CHECK,
            format!("no BPF file system at {parent}; `namegate run` mounts one"),
            format!(
                "mount it for good: `mount -t bpf bpf {parent}`. What a unit or container mounts for itself ends with it, and enforcement too"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn what_is_lacking_is_named() {
        let all = effective("Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n");
        assert_eq!(privileges(true, all).status, Status::Ok);
        let some = privileges(true, all & !(1 << 39));
        assert_eq!(
            (some.status, some.message.as_str()),
            (Status::Fail, "root without CAP_BPF")
        );
        assert_eq!(privileges(false, all).status, Status::Fail);
        assert_eq!(effective("nothing"), 0);
    }

    #[test]
    fn an_old_kernel_fails_and_one_that_is_new_enough_does_not() {
        for (release, status) in [
            ("6.18.5-amd64", Status::Ok),
            ("6.1.0", Status::Ok),
            ("7.0-rc1", Status::Ok),
            ("6.0.19", Status::Fail),
            ("5.15.0-91-generic", Status::Fail),
            ("unknown", Status::Warn),
        ] {
            assert_eq!(kernel(release).status, status, "{release}");
        }
        assert_eq!(btf(false).status, Status::Fail);
        for (found, status) in [
            (Bpffs::Mounted, Status::Ok),
            (Bpffs::Missing, Status::Warn),
            (Bpffs::WouldHide, Status::Fail),
        ] {
            assert_eq!(bpffs(Path::new("/sys/fs/bpf/x"), found).status, status);
        }
    }
}
