//! Descriptors that whoever started this process passed to it, as systemd does (`sd_listen_fds`).

use std::os::fd::OwnedFd;

use crate::sys;

/// Descriptors that may be passed; of more none is taken.
const PASSED_MAX: usize = 1_024;

/// What the environment says of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed<'a> {
    /// `LISTEN_PID`: for whom they are.
    pub pid: &'a str,
    /// `LISTEN_FDS`: how many.
    pub count: &'a str,
    /// `LISTEN_FDNAMES`: their names, with colons between.
    pub names: &'a str,
}

impl Passed<'_> {
    /// Takes them, each with its name. Only the first call of a process gives any.
    #[must_use]
    pub fn take(self) -> Vec<(String, OwnedFd)> {
        let Some(count) = self.is_for(std::process::id()) else {
            return Vec::new();
        };
        let mut names = self.names.split(':');
        let passed = sys::take_passed(count).into_iter();
        let named = passed.map(|fd| (names.next().unwrap_or_default().to_owned(), fd));
        named.filter_map(|(name, fd)| Some((name, fd?))).collect()
    }

    /// How many there are for a process.
    fn is_for(self, pid: u32) -> Option<usize> {
        let is_ours = self.pid.parse() == Ok(pid);
        let count = self.count.parse().ok().filter(|_| is_ours)?;
        (1..=PASSED_MAX).contains(&count).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_for_one_process_and_bounded() {
        let count = |pid, count| {
            let names = "";
            Passed { pid, count, names }.is_for(7)
        };
        assert_eq!(count("7", "2"), Some(2));
        for (pid, number) in [
            ("8", "2"),
            ("", "2"),
            ("7", ""),
            ("7", "0"),
            ("7", "-1"),
            ("7", "1025"),
        ] {
            assert_eq!(count(pid, number), None, "{pid} {number}");
        }
    }
}
