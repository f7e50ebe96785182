//! What the environment says of who started us.

use crate::keeper::Manager;

/// The service manager, if one started us.
pub(super) fn manager() -> Manager {
    let word = |name| {
        let word = std::env::var_os(name).unwrap_or_default();
        word.to_string_lossy().into_owned()
    };
    Manager {
        notify: std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()),
        passed: ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(word),
    }
}
