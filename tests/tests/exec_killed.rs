//! `namegate exec`, each of whose processes is killed at many moments: nothing that stays opens or blocks
//! anything, and the next start goes as if nothing had been.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(clippy::disallowed_methods, reason = "a test measures and waits")]

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use namegate_tests::{
    Caller, Cgroup, ExecStage, Step, each_step, must_be_equal, patience, seen_by,
};

/// Moments at which one is killed, from the start to some time after the command's own.
const MOMENTS: u32 = 18;
/// How long all of it may take to end.
const END_MAX: Duration = Duration::from_secs(20);
/// Fewer are a test that doesn't kill.
const KILLS_MIN: usize = 20;
/// What denied connections go to, by a child of the command that outlives it.
const DENIED: &str = "198.18.0.2";

/// Which process is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    /// namegate, which guards.
    Namegate,
    /// The newest of its children: one that makes the network, or has become the command.
    Child,
    /// Both, namegate first.
    Both,
}

const VICTIMS: [Victim; 3] = [Victim::Namegate, Victim::Child, Victim::Both];

#[test]
fn by_programs() {
    check(Caller::Root, "--net=own");
}

#[test]
fn by_sockets() {
    check(Caller::User, "--net=own");
}

#[test]
fn at_a_cgroup() {
    check(Caller::Root, "--net=host");
}

#[test]
fn by_programs_at_each_step() {
    check_steps(Caller::Root, "--net=own");
}

#[test]
fn by_sockets_at_each_step() {
    check_steps(Caller::User, "--net=own");
}

#[test]
fn at_a_cgroup_at_each_step() {
    check_steps(Caller::Root, "--net=host");
}

/// Whichever of its processes comes to the step is killed there.
fn check_steps(caller: Caller, net: &str) {
    let root = File::open(Cgroup::root().unwrap()).unwrap();
    root.lock().unwrap();
    let stage = ExecStage::of(caller).unwrap();
    let before = stage.node.fingerprint().unwrap();
    let script = format!("curl -s -m 1 http://{DENIED}/; true");
    let mut number = MOMENTS;
    let mut kills = Ok(0);
    let seen = seen_by(&stage.world, &format!("dst host {DENIED}"), || {
        kills = each_step(|step: Step| -> Result<bool, String> {
            number += 1;
            let words = step.strace();
            let (strace, words) = words.split_first().unwrap();
            let mut command = stage.call(strace);
            let command = command.args(words).arg(&stage.binary);
            let command = command.args(["exec", net, "--allow", "web.example.com", "--"]);
            let mark = mark(number);
            let (name, value) = mark.split_once('=').unwrap();
            let silent = command.args(["sh", "-c", &script]).env(name, value);
            let silent = silent.stdin(Stdio::null()).stdout(Stdio::null());
            let mut child = silent.stderr(Stdio::null()).spawn().unwrap();
            let status = end(&mut child, &format!("{step:?}"), number);
            must_start(&stage, net, &format!("{step:?}"));
            Ok(!status.success())
        });
        Ok(())
    });
    assert_eq!(seen.unwrap(), "");
    assert!(kills.unwrap() > KILLS_MIN);
    must_be_equal(&before, &stage.node.fingerprint().unwrap());
    let pins = stage.node.check("ls", &["/sys/fs/bpf"]).unwrap();
    assert!(!pins.contains("namegate-exec-"), "{pins}");
}

fn check(caller: Caller, net: &str) {
    // Who starts next takes away what one of these leaves.
    let root = File::open(Cgroup::root().unwrap()).unwrap();
    root.lock().unwrap();
    let stage = ExecStage::of(caller).unwrap();
    let script = format!(
        "(while :; do curl -s -m 1 http://{DENIED}/; sleep 0.05; done) >/dev/null 2>&1 & exec sleep 7652"
    );
    let words = [net, "--allow", "web.example.com", "--", "sh", "-c", &script];
    let before = stage.node.fingerprint().unwrap();
    let whole = time_to_start(&stage, net);
    let seen = seen_by(&stage.world, &format!("dst host {DENIED}"), || {
        for (moment, victim) in (0..MOMENTS).zip(VICTIMS.into_iter().cycle()) {
            let mut child = start(&stage, &words, moment);
            std::thread::sleep(whole.mul_f64(f64::from(moment) * 1.5 / f64::from(MOMENTS)));
            kill(&child, victim);
            let what = format!("{victim:?} at {moment}");
            end(&mut child, &what, moment);
            // What is left has a moment to get out.
            std::thread::sleep(Duration::from_millis(100));
            must_start(&stage, net, &what);
            left(moment).keys().for_each(|pid| signal(*pid));
        }
        Ok(())
    });
    assert_eq!(seen.unwrap(), "");
    must_be_equal(&before, &stage.node.fingerprint().unwrap());
    let pins = stage.node.check("ls", &["/sys/fs/bpf"]).unwrap();
    assert!(!pins.contains("namegate-exec-"), "{pins}");
}

/// How long it takes until a command runs, and has ended.
fn time_to_start(stage: &ExecStage, net: &str) -> Duration {
    let began = Instant::now();
    let output = stage.run(&[net, "--", "true"]).unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    began.elapsed()
}

/// All that comes of it has this in its environment.
fn mark(moment: u32) -> String {
    format!("NAMEGATE_TEST_MOMENT={}-{moment}", std::process::id())
}

fn start(stage: &ExecStage, words: &[&str], moment: u32) -> Child {
    let mut command = stage.command(words).unwrap();
    let mark = mark(moment);
    let (name, value) = mark.split_once('=').unwrap();
    let command = command.env(name, value).stdin(Stdio::null());
    let silent = command.stdout(Stdio::null()).stderr(Stdio::null());
    silent.spawn().unwrap()
}

/// What lives of it, each with its parent.
fn left(moment: u32) -> BTreeMap<u32, u32> {
    let mark = mark(moment);
    let mut left = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_ours = environment
            .split(|octet| *octet == 0)
            .any(|one| one == mark.as_bytes());
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let mut words = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        if let (true, Some(state), Some(Ok(parent))) =
            (is_ours, words.next(), words.next().map(str::parse))
            && state != "Z"
        {
            left.insert(pid, parent);
        }
    }
    left
}

fn kill(child: &Child, victim: Victim) {
    let own = child.id();
    let moment = fs::read(format!("/proc/{own}/environ")).unwrap_or_default();
    let moment = String::from_utf8_lossy(&moment).into_owned();
    let moment = moment
        .split('\0')
        .find_map(|one| one.strip_prefix("NAMEGATE_TEST_MOMENT="));
    let moment = moment.and_then(|one| one.rsplit('-').next()?.parse().ok());
    let all = moment.map(left).unwrap_or_default();
    let newest = all.iter().rev().find(|(_, parent)| **parent == own);
    let newest = newest.map(|(pid, _)| *pid);
    if victim != Victim::Child || newest.is_none() {
        signal(own);
    }
    if let (Victim::Child | Victim::Both, Some(pid)) = (victim, newest) {
        signal(pid);
    }
}

fn signal(pid: u32) {
    let pid = pid.to_string();
    // It may be gone.
    let _ = Command::new("kill")
        .args(["-9", &pid])
        .stderr(Stdio::null())
        .status();
}

/// namegate ends, and with it its children; what they had left may live on, cut off.
fn end(child: &mut Child, what: &str, moment: u32) -> ExitStatus {
    let end = Instant::now() + END_MAX * patience();
    let own = child.id();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "{what}: it doesn't end");
        std::thread::sleep(Duration::from_millis(10));
    };
    let is_named = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        words.contains("namegate") || words.contains("7652") && words.starts_with("sleep")
    };
    while left(moment).keys().any(is_named) {
        assert!(
            Instant::now() < end,
            "{what}: {own} left {:?}",
            left(moment)
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    status
}

/// A command runs, reaches what it may, and what was left by one in a cgroup is said once.
fn must_start(stage: &ExecStage, net: &str, what: &str) {
    let is_left = is_left(stage);
    let script = "curl -s -m 5 -o /dev/null -w '%{http_code}' http://web.example.com/";
    let words = [net, "--allow", "web.example.com", "--", "sh", "-c", script];
    let output = stage.run(&words).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "200",
        "{what}: {errors}"
    );
    let said = errors.matches("an earlier exec was killed").count();
    assert_eq!(said, usize::from(is_left), "{what}: {errors}");
    assert!(!self::is_left(stage), "{what}: {errors}");
}

fn is_left(stage: &ExecStage) -> bool {
    let pins = stage.node.check("ls", &["/sys/fs/bpf"]).unwrap();
    let cgroups = fs::read_dir(Cgroup::root().unwrap()).unwrap().flatten();
    let mut cgroups = cgroups.map(|entry| entry.file_name().to_string_lossy().into_owned());
    pins.contains("namegate-exec-") || cgroups.any(|name| name.starts_with("namegate-exec-"))
}
