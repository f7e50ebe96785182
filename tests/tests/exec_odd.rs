//! `namegate exec` where callers and programs are odd: within itself, with files that have
//! capabilities, without tproxy, on a full disk.

use std::os::unix::fs::PermissionsExt;

use namegate_tests::{Caller, ExecStage};

/// Within a command there are no privileges by which programs could be loaded: the inner one has a user namespace
/// of its own, which root without CAP_SETFCAP can't have.
#[test]
fn within_itself_it_runs_for_users_and_tells_root_why_not() {
    let stage = ExecStage::new().unwrap();
    let inner = "exec --allow web.example.com -- dig +short web.example.com other.example.com";
    let outer = ["web.example.com", "other.example.com"];
    let as_user = format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups {} {inner}",
        stage.binary
    );
    let (code, said, errors) = stage.shell(&outer, &as_user).unwrap();
    assert_eq!((code, said.as_str()), (Some(0), "198.18.0.1\n"), "{errors}");
    let as_root = format!("{} {inner}", stage.binary);
    let (code, said, errors) = stage.shell(&outer, &as_root).unwrap();
    assert_eq!((code, said.as_str()), (Some(125), ""), "{errors}");
    assert!(errors.contains("root needs CAP_SETFCAP"), "{errors}");
    assert!(errors.contains("call it as another user"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

/// A program that asks for a capability by its file runs without root, and hasn't got it.
#[test]
fn a_program_whose_file_has_a_capability_runs_without_it() {
    let stage = ExecStage::of(Caller::User).unwrap();
    let program = stage.file("grep", "").unwrap();
    std::fs::copy("/bin/grep", &program).unwrap();
    let capability = ["cap_net_bind_service,cap_net_raw+ep", &program];
    stage.node.check("setcap", &capability).unwrap();
    let output = stage.run(&["--", &program, "CapEff", "/proc/self/status"]);
    let output = output.unwrap();
    let wanted = "CapEff:\t0000000000000000\n";
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        wanted,
        "{output:?}"
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// Who ignores the ends of children hands that on, and the kernel then tells nobody how one ended.
#[test]
fn a_caller_that_ignores_its_children_learns_how_the_command_ended() {
    const IGNORE: &str = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); \
                          os.execv(sys.argv[1], sys.argv[1:])";
    ExecStage::each(|stage| {
        let mut caller = stage.call("python3");
        let caller = caller.args(["-c", IGNORE, &stage.binary, "exec", "--"]);
        let output = caller.args(["sh", "-c", "exit 4"]).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{output:?}");
    });
}

/// A file of ours that can't be written is said, and hides neither how the command ended nor that it was denied.
#[test]
fn a_file_that_can_not_be_written_at_the_end_is_said() {
    let stage = ExecStage::new().unwrap();
    let deny = "dig +short other.example.com; true";
    for (words, script, code) in [
        (&["-q"][..], "true", 125),
        (&["-q"], "exit 3", 3),
        (&["-q", "--fail-on-deny"], deny, 124),
        (&["-q"], deny, 125),
    ] {
        let rest = ["--summary", "/dev/full", "--", "sh", "-c", script];
        let output = stage.run(&[words, &rest].concat()).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{script}: {said}");
        assert!(said.contains("--summary /dev/full: No space"), "{said}");
    }
}

/// Takes what nft takes, but for rules with tproxy, as a kernel without it does.
const NFT: &str = "#!/bin/sh
rules=$(cat)
case $rules in
  *tproxy*) echo refused >> $OWN/refused; echo 'Error: Could not process rule: No such file or directory' >&2; exit 1;;
esac
printf '%s\\n' \"$rules\" | $OWN/real -f -
";

/// The kernel translates ports then, and tells the proxy what was meant.
#[test]
fn without_tproxy_all_is_as_with_it() {
    let stage = ExecStage::of(Caller::User).unwrap();
    let own = stage.dir.path().display().to_string();
    std::fs::copy("/usr/sbin/nft", format!("{own}/real")).unwrap();
    let nft = stage.file("nft", &NFT.replace("$OWN", &own)).unwrap();
    std::fs::set_permissions(&nft, PermissionsExt::from_mode(0o755)).unwrap();
    let over = ["--bind", &nft, "/usr/sbin/nft"];
    stage.node.check("mount", &over).unwrap();
    let ask = "curl -s -m 5 -o /dev/null -w '%{http_code}\\n'";
    let script = format!(
        "dig +short web.example.com; dig +short +tcp web.example.com AAAA
         {ask} http://web.example.com/; {ask} -6 http://six.example.com:8080/
         {ask} --cacert {own}/ca.pem https://web.example.com/
         {ask} --resolve other.example.com:80:198.18.0.1 http://other.example.com/
         {ask} http://198.18.0.2/; {ask} http://169.254.1.3/"
    );
    let names = ["web.example.com", "six.example.com"];
    let (code, said, errors) = stage.shell(&names, &script).unwrap();
    assert_eq!(
        std::fs::read_to_string(format!("{own}/refused")).unwrap(),
        "refused\n"
    );
    let lines: Vec<&str> = said.lines().collect();
    let wanted = [
        "198.18.0.1",
        "2001:db8:1::1",
        "200",
        "200",
        "200",
        "403",
        "000",
        "000",
    ];
    assert_eq!(lines, wanted, "{code:?} {errors}");
    for told in [
        "198.18.0.2 80/TCP",
        "169.254.1.3 80/TCP",
        "other.example.com",
    ] {
        assert!(errors.contains(told), "{told}: {errors}");
    }
}
