//! The unit under systemd itself, which runs as the first process of a container on a node: started, watched,
//! started again, refused and stopped, while a workload is guarded.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(clippy::disallowed_methods, reason = "a test measures and waits")]

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use namegate_tests::{Cgroup, Daemon, Stage, patience, policy};

const UNIT: &str = include_str!("../../deploy/systemd/namegate.service");
const WEB: &str = "198.18.0.1:80";
const DENIED: &str = "198.18.0.2:80";

/// How long a change of state may take.
const STATE_MAX: Duration = Duration::from_secs(30);

/// Makes the machine's files the container's, in which what is written is its own, and becomes systemd. `$1` is a
/// folder with the files for it; the workload's namespace is at `$2`.
const CONTAINER: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs own "$1/own"
mkdir "$1/own/upper" "$1/own/work"
root="$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/own/upper,workdir=$1/own/work" "$root"
touch "$root/usr/bin/namegate" "$root/alice"
mount --bind "$1/namegate" "$root/usr/bin/namegate"
mount --bind "$2" "$root/alice"
rm -rf "$root/etc/systemd/system" "$root/etc/namegate"
cp -r "$1/system" "$root/etc/systemd/system"
cp -r "$1/etc" "$root/etc/namegate"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t tmpfs run "$root/run"
mount --rbind /dev "$root/dev"
cd "$root"
mkdir old
pivot_root . old
umount -l /old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=test.target --log-target=console
"#;

/// A container with systemd.
struct Machine<'a> {
    stage: &'a Stage,
    /// What stands around the first process.
    around: Child,
    _cgroup: Cgroup,
    dir: tempfile::TempDir,
}

impl<'a> Machine<'a> {
    /// Starts it, with a policy for alice.
    fn start(stage: &'a Stage, rules: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in [
            "own",
            "root",
            "etc/policies",
            "etc/endpoints",
            "system/namegate.service.d",
        ] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        fs::copy(Daemon::binary().unwrap(), path("namegate")).unwrap();
        let endpoint = "name: alice\nlabels: {app: alice}\nnetns: /alice\n";
        for (name, text) in [
            ("etc/endpoints/alice.yaml", endpoint),
            ("etc/policies/alice.yaml", rules),
            ("etc/config.yaml", "log: debug\n"),
            ("system/namegate.service", UNIT),
            // As in a container: nothing of a whole machine's.
            (
                "system/namegate.service.d/test.conf",
                "[Unit]\nDefaultDependencies=no\n[Service]\nWatchdogSec=4\nStandardError=append:/log\n",
            ),
            ("system/test.target", "[Unit]\nWants=namegate.service\n"),
        ] {
            fs::write(path(name), text).unwrap();
        }
        let cgroup = Cgroup::new("systemd").unwrap();
        let mut command = cgroup.command(&stage.node, "unshare");
        let log = fs::File::create(path("log")).unwrap();
        command
            .args([
                "--pid",
                "--fork",
                "--kill-child",
                "--mount",
                "--cgroup",
                "--uts",
                "--ipc",
            ])
            .args(["sh", "-c", CONTAINER, "sh"])
            .arg(dir.path())
            .arg(stage.alice.ns_path())
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log));
        let around = command.spawn().unwrap();
        Self {
            stage,
            around,
            _cgroup: cgroup,
            dir,
        }
    }

    /// A command in it, and what that says, if there is somebody yet.
    fn call(&self, words: &[&str]) -> Option<(Option<i32>, String)> {
        let pid = self.around.id();
        let first = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let first = first.trim().to_owned();
        let name = fs::read_to_string(format!("/proc/{first}/comm")).ok()?;
        if name.trim() != "systemd" {
            return None;
        }
        let mut command = Command::new("nsenter");
        let inside = ["--mount", "--pid", "--net", "--cgroup", "--"];
        command.args(["-t", &first]).args(inside).args(words);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        Some((output.status.code(), said))
    }

    fn systemctl(&self, words: &[&str]) -> (Option<i32>, String) {
        self.call(&[&["systemctl"], words].concat()).unwrap()
    }

    /// What systemd knows of the unit.
    fn shown(&self) -> BTreeMap<String, String> {
        let words = ["systemctl", "show", "namegate.service"];
        let (_, said) = self.call(&words).unwrap_or_default();
        let pairs = said.lines().filter_map(|line| line.split_once('='));
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// Waits until the unit is so.
    fn wait(
        &self,
        what: &str,
        is_so: impl Fn(&BTreeMap<String, String>) -> bool,
    ) -> BTreeMap<String, String> {
        let end = Instant::now() + STATE_MAX * patience();
        loop {
            let shown = self.shown();
            if is_so(&shown) {
                return shown;
            }
            assert!(
                Instant::now() < end,
                "not {what}: {}\n{shown:#?}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        let systemds = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let (_, own) = self.call(&["cat", "/log"]).unwrap_or_default();
        systemds + &own
    }

    /// The workload is guarded, whether a daemon runs or not.
    fn holds(&self, when: &str) {
        assert!(self.stage.reaches(WEB).unwrap(), "{when}: {}", self.log());
        assert!(
            !self.stage.reaches(DENIED).unwrap(),
            "{when}: {}",
            self.log()
        );
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let _ = self.around.kill();
        let _ = self.around.wait();
    }
}

fn is(shown: &BTreeMap<String, String>, key: &str, value: &str) -> bool {
    shown.get(key).map(String::as_str) == Some(value)
}

#[test]
fn the_unit_lives_as_its_file_says() {
    let stage = Stage::new().unwrap();
    let rules = policy("alice", "[{matchName: web.example.com}]");
    let machine = Machine::start(&stage, &rules);
    let is_active = |shown: &BTreeMap<String, String>| is(shown, "ActiveState", "active");
    let first = machine.wait("active", is_active);
    assert_eq!(
        stage.asks("web.example.com").unwrap(),
        "198.18.0.1\n",
        "{}",
        machine.log()
    );
    machine.holds("started");
    // Its sockets are with systemd.
    let stored = machine.wait("keeping", |shown| {
        shown
            .get("NFileDescriptorStore")
            .is_some_and(|count| count != "0")
    });
    assert!(is(&stored, "NRestarts", "0"), "{stored:#?}");

    let (code, said) = machine.systemctl(&["reload", "namegate.service"]);
    assert_eq!(code, Some(0), "{said}");
    let reloaded = machine.wait("active", is_active);
    assert_eq!(first.get("MainPID"), reloaded.get("MainPID"));

    // Killed, and stopped from answering the watchdog: another one, and nothing opens.
    for (restarts, signal) in [("1", "KILL"), ("2", "STOP")] {
        let words = ["kill", "--kill-who=main", "-s", signal, "namegate.service"];
        let (code, said) = machine.systemctl(&words);
        assert_eq!(code, Some(0), "{said}");
        machine.holds(signal);
        machine.wait(signal, |shown| {
            is(shown, "NRestarts", restarts) && is_active(shown)
        });
        assert_eq!(
            stage.asks("web.example.com").unwrap(),
            "198.18.0.1\n",
            "{signal}: {}",
            machine.log()
        );
        machine.holds(signal);
    }
    let log = machine.log();
    assert!(!log.contains("is made anew"), "the gate: {log}");

    // What can't be used is not tried again.
    let spoil = "echo 'audit: perhaps' >> /etc/namegate/config.yaml";
    machine.call(&["sh", "-c", spoil]).unwrap();
    assert_ne!(
        machine.systemctl(&["restart", "namegate.service"]).0,
        Some(0)
    );
    let failed = machine.wait("failed", |shown| is(shown, "ActiveState", "failed"));
    assert!(is(&failed, "ExecMainStatus", "78"), "{failed:#?}");
    std::thread::sleep(Duration::from_secs(2));
    let later = machine.shown();
    assert!(is(&later, "ActiveState", "failed"), "{}", machine.log());
    assert!(is(&later, "NRestarts", "0"), "{}", machine.log());
    machine.holds("failed");

    machine
        .call(&["sed", "-i", "/audit/d", "/etc/namegate/config.yaml"])
        .unwrap();
    let (code, said) = machine.systemctl(&["start", "namegate.service"]);
    assert_eq!(code, Some(0), "{said}{}", machine.log());
    let (code, said) = machine.systemctl(&["stop", "namegate.service"]);
    assert_eq!(code, Some(0), "{said}{}", machine.log());
    machine.wait("inactive", |shown| is(shown, "ActiveState", "inactive"));
    machine.holds("stopped");
    let (code, said) = machine.call(&["namegate", "detach"]).unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert!(stage.reaches(DENIED).unwrap());
}
