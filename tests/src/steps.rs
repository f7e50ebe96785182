//! Programs that are killed at each step of what they do: at the n-th system call of a kind.

/// System calls by which a daemon changes something outside of itself: the kernel's programs and maps, links
/// and routes, mounts, files.
const CALLS: [&str; 7] = [
    "bpf", "sendto", "mount", "mkdir", "rename", "unlink", "openat",
];

/// Which call of a thread kills: never further apart than the calls of one kind of work, such as pinning maps.
const COUNTS: [u32; 22] = [
    1, 2, 3, 5, 8, 12, 17, 23, 30, 38, 47, 57, 68, 80, 93, 107, 122, 138, 155, 173, 192, 212,
];

/// A step at which a process is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The system call.
    pub call: &'static str,
    /// Which one of its thread.
    pub count: u32,
}

impl Step {
    /// strace with the words that kill whatever it starts, or that starts, at this step, before the call does
    /// anything.
    #[must_use]
    pub fn strace(self) -> Vec<String> {
        let Self { call, count } = self;
        let inject = format!("inject={call}:signal=SIGKILL:when={count}");
        let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e"];
        let mut words: Vec<String> = words.map(str::to_owned).into();
        words.extend([inject, "-e".to_owned(), format!("trace={call}")]);
        words
    }
}

/// Runs `killed` for each step; once it says that a program came to its end without being killed, there are no
/// later steps of that call. Gives how many killed.
///
/// # Errors
/// The first of `killed`.
pub fn each_step<E>(mut killed: impl FnMut(Step) -> Result<bool, E>) -> Result<usize, E> {
    let mut kills = 0;
    for call in CALLS {
        for count in COUNTS {
            if !killed(Step { call, count })? {
                break;
            }
            kills += 1;
        }
    }
    Ok(kills)
}
