//! System calls that a daemon never makes, refused to it: who gets it to run code of his own can't use them.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// What changes the kernel, the clock or the machine, looks into other processes, goes round the permissions
/// of files, or has been the way of many into the kernel. Nothing of ours, and no library that we use, calls
/// any; `execve` stays, for the process that holds the sockets.
const REFUSED: [libc::c_long; 35] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mknodat,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
];

/// Has the kernel refuse them (`EPERM`) to this process from now on, and to all that it starts; a call by the
/// numbers of another architecture ends it. Needs `no_new_privs` or CAP_SYS_ADMIN (seccomp(2)).
///
/// # Errors
/// If the kernel has no such filters, or has another architecture than those that are known.
pub fn refuse_system_calls() -> io::Result<()> {
    seccompiler::apply_filter_all_threads(&filter()?).map_err(io::Error::other)
}

fn filter() -> io::Result<BpfProgram> {
    let rules: BTreeMap<i64, _> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch);
    let program = filter.and_then(BpfProgram::try_from);
    program.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat, unlink};

    use super::*;

    #[test]
    fn a_refused_call_fails_and_others_go_on() {
        // One thread: the test program has other tests to run.
        let thread = std::thread::spawn(|| {
            let name = format!("namegate-refused-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let make = || mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0);
            make().unwrap();
            unlink(&path).unwrap();
            rustix::thread::set_no_new_privs(true).unwrap();
            seccompiler::apply_filter(&filter().unwrap()).unwrap();
            assert_eq!(make(), Err(rustix::io::Errno::PERM));
            let itself = rustix::process::getpid();
            let own = rustix::process::pidfd_open(itself, rustix::process::PidfdFlags::empty());
            let nothing = rustix::process::PidfdGetfdFlags::empty();
            let got = rustix::process::pidfd_getfd(own.unwrap(), 0, nothing);
            assert_eq!(got.err(), Some(rustix::io::Errno::PERM));
            std::fs::write(&path, "x").unwrap();
            unlink(&path).unwrap();
        });
        thread.join().unwrap();
    }
}
