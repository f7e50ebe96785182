//! What the kernel refuses is said in one line with exit code 77. Nothing is attached then, and what an earlier
//! daemon left enforced stays.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::process::Output;

use namegate_tests::{Daemon, Stage, policy};

/// Runs what follows with a filter of system calls that answers one of them by an error; `bpf` for all of
/// bpf(2), `programs` for the load of programs, as of a verifier that takes none, `mount` for a kernel without
/// the file system.
const REFUSING: &str = r#"
import ctypes, os, platform, struct, sys
calls = {"x86_64": {"bpf": 321, "mount": 165}, "aarch64": {"bpf": 280, "mount": 40}}[platform.machine()]
what, argv = sys.argv[1], sys.argv[2:]
EPERM, EACCES, ENODEV, PROG_LOAD = 1, 13, 19, 5
code = lambda op, jt, jf, k: struct.pack("HBBI", op, jt, jf, k)
load, equal, give = 0x20, 0x15, 0x06
refuse = lambda errno: code(give, 0, 0, 0x00050000 | errno)
if what == "programs":
    # The call by its number, then its first argument.
    program = [code(load, 0, 0, 0), code(equal, 0, 3, calls["bpf"]), code(load, 0, 0, 16),
               code(equal, 0, 1, PROG_LOAD), refuse(EACCES)]
else:
    errno = {"bpf": EPERM, "mount": ENODEV}[what]
    program = [code(load, 0, 0, 0), code(equal, 0, 1, calls[what]), refuse(errno)]
program.append(code(give, 0, 0, 0x7fff0000))
text = ctypes.create_string_buffer(b"".join(program))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_void_p)]
given = Filter(len(program), ctypes.addressof(text))
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(given), 0, 0) != 0:
    sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
os.execv(argv[0], argv)
"#;

/// Takes every bpffs off and runs what follows.
const WITHOUT_BPFFS: &str = "while umount /sys/fs/bpf 2>/dev/null; do :; done; exec \"$@\"";

/// What a daemon lacks, as what it is started by, and a word of what it says.
struct Lack {
    by: &'static [&'static str],
    says: &'static [&'static str],
}

const LACKS: &[Lack] = &[
    // The right to make namespaces.
    Lack {
        by: &[
            "setpriv",
            "--bounding-set",
            "-sys_admin",
            "--inh-caps",
            "-sys_admin",
        ],
        says: &["the gate can't be made", "CAP_SYS_ADMIN"],
    },
    Lack {
        by: &[
            "setpriv",
            "--bounding-set",
            "-net_admin",
            "--inh-caps",
            "-net_admin",
        ],
        says: &["CAP_NET_ADMIN"],
    },
    // The right to load programs: CAP_SYS_ADMIN stands for the other two.
    Lack {
        by: &[
            "setpriv",
            "--bounding-set",
            "-bpf,-perfmon,-sys_admin",
            "--inh-caps",
            "-bpf,-perfmon,-sys_admin",
        ],
        says: &["the kernel refuses the datapath", "CAP_BPF"],
    },
    Lack {
        by: &["python3", "-c", REFUSING, "bpf"],
        says: &["the kernel refuses the datapath", "CAP_BPF"],
    },
    Lack {
        by: &["python3", "-c", REFUSING, "programs"],
        says: &["the kernel refuses the datapath", "Linux 6.1"],
    },
    // No BPF file system, and no way to one: it may not be mounted, or the kernel has none.
    Lack {
        by: &[
            "unshare",
            "--mount",
            "sh",
            "-c",
            WITHOUT_BPFFS,
            "sh",
            "setpriv",
            "--bounding-set",
            "-sys_admin",
            "--inh-caps",
            "-sys_admin",
        ],
        says: &[
            "/sys/fs/bpf: no BPF file system there",
            "Operation not permitted",
        ],
    },
    Lack {
        by: &[
            "unshare",
            "--mount",
            "sh",
            "-c",
            WITHOUT_BPFFS,
            "sh",
            "python3",
            "-c",
            REFUSING,
            "mount",
        ],
        says: &["/sys/fs/bpf: no BPF file system there", "No such device"],
    },
];

fn daemon(stage: &Stage) -> Daemon<'_> {
    let rules = policy("alice", "[{matchName: web.example.com}]");
    // Without what a file is warned of.
    let rules = rules.replace(
        "matchPattern: '*.example.com'",
        "matchName: web.example.com",
    );
    stage.daemon(&rules).unwrap()
}

fn run(stage: &Stage, daemon: &Daemon<'_>, lack: &Lack) -> Output {
    let mut command = stage.node.command("timeout");
    command
        .arg("20")
        .args(lack.by)
        .arg(Daemon::binary().unwrap());
    command.args(["run", "--log", "error"]);
    for (option, place) in [
        ("--policy-dir", "policies"),
        ("--endpoint-dir", "endpoints"),
        ("--state-dir", "state"),
        ("--socket", "namegate.sock"),
    ] {
        command.arg(option).arg(daemon.path(place));
    }
    command.output().unwrap()
}

fn is_told(lack: &Lack, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    let what = &lack.says;
    assert_eq!(output.status.code(), Some(77), "{what:?}: {said}");
    assert!(
        what.iter().all(|word| said.contains(word)),
        "{what:?}: {said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// What there is of ours on the node: links, and pins beside their folders.
fn left(stage: &Stage) -> String {
    let script = "ip -o link | grep ': ng'; tc filter show dev valice ingress; ls /run/netns; \
                  find /sys/fs/bpf /run/netns -mindepth 1 -type f -not -name '*.debug'; true";
    stage.node.check("sh", &["-c", script]).unwrap()
}

#[test]
fn what_the_kernel_refuses_is_said_in_one_line_and_nothing_is_attached() {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    for lack in LACKS {
        is_told(lack, &run(&stage, &daemon, lack));
        assert_eq!(left(&stage), "", "{:?}", lack.says);
        assert!(stage.reaches("198.18.0.9:80").unwrap(), "{:?}", lack.says);
    }
    daemon.start(&[]).unwrap();
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
}

#[test]
fn what_an_earlier_daemon_left_stays_where_the_next_one_is_refused() {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    daemon.start(&["--dns-ttl-floor", "12h"]).unwrap();
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    std::thread::sleep(std::time::Duration::from_millis(1_600) * namegate_tests::patience());
    daemon.end_with("KILL").unwrap();
    let before = left(&stage);
    assert!(before.contains("ng_from_ep"), "{before}");
    // Who takes over makes no link, and works without CAP_NET_ADMIN but for the gate's routes.
    let is_in_the_way = |lack: &&Lack| !lack.by.contains(&"-net_admin");
    for lack in LACKS.iter().filter(is_in_the_way) {
        let output = run(&stage, &daemon, lack);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_ne!(output.status.code(), Some(0), "{said}");
        assert!(!stage.reaches("198.18.0.9:80").unwrap(), "{said}");
        assert!(stage.reaches("198.18.0.1:80").unwrap(), "{said}");
        assert_eq!(left(&stage), before, "{said}");
    }
    daemon.start(&["--dns-ttl-floor", "12h"]).unwrap();
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
}

#[test]
fn no_bpf_file_system_is_mounted_over_other_files() {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    let (folder, note) = (daemon.path("mine"), daemon.path("mine/note"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(&note, "kept").unwrap();
    let pins = folder.join("pins");
    let pins = pins.to_str().unwrap();
    let refused = daemon.start(&["--bpf-dir", pins]).unwrap_err().to_string();
    assert!(refused.contains("would hide"), "{refused}");
    let output = daemon.namegate(&["doctor", "--bpf-dir", pins]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("would hide"), "{said}");
    assert_eq!(std::fs::read_to_string(&note).unwrap(), "kept");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}
