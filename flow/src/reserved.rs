//! Identities that every cluster shares.

/// By number. Well-known ones of old (100 to 115) have no name in print.
const NAMES: [&str; 11] = [
    "unknown",
    "host",
    "world",
    "unmanaged",
    "health",
    "init",
    "remote-node",
    "kube-apiserver",
    "ingress",
    "world-ipv4",
    "world-ipv6",
];

/// What a line prints for the identity, if it is a reserved one.
pub(crate) fn name(identity: u32) -> Option<&'static str> {
    NAMES.get(usize::try_from(identity).ok()?).copied()
}

/// The identity that a flag means by this name; nobody can ask for the unknown one by name.
pub(crate) fn number(name: &str) -> Option<u32> {
    let at = NAMES
        .iter()
        .position(|known| *known == name)
        .filter(|at| *at != 0)?;
    u32::try_from(at).ok()
}
