//! `namegate exec` where callers and programs are odd: within itself, and with files that have capabilities.

#![expect(clippy::unwrap_used, reason = "a test may die")]

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

/// A program that asks for a capability by its file runs, and hasn't got it.
#[test]
fn a_program_whose_file_has_a_capability_runs_without_it() {
    ExecStage::each(|stage| {
        let (program, text) = (
            stage.file("grep", "").unwrap(),
            "CapEff:\t0000000000000000\n",
        );
        std::fs::copy("/bin/grep", &program).unwrap();
        let capability = ["cap_net_bind_service,cap_net_raw+ep", &program];
        stage.node.check("setcap", &capability).unwrap();
        let command = ["--", program.as_str(), "CapEff", "/proc/self/status"];
        let words = match stage.caller {
            Caller::Root => [&["--user", "65534"], &command[..]].concat(),
            Caller::User => command.to_vec(),
        };
        let output = stage.run(&words).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), text, "{output:?}");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    });
}
