//! What can be wrong with a flag; every text names it and its value.

/// Why a flag was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FilterError {
    /// No filter has this flag.
    #[error("unknown flag: --{flag}")]
    UnknownFlag {
        /// The flag, without dashes.
        flag: String,
    },
    /// The value is none that the flag takes.
    #[error("invalid argument {value:?} for \"--{flag}\" flag: expected {expected}")]
    BadValue {
        /// The flag, without dashes.
        flag: &'static str,
        /// The value.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// An earlier flag says something that this one would say otherwise.
    #[error(
        "invalid argument {value:?} for \"--{flag}\" flag: filters --{flag} and --{earlier} cannot be combined"
    )]
    Combined {
        /// The flag, without dashes.
        flag: &'static str,
        /// Its value.
        value: String,
        /// The earlier flag, without dashes.
        earlier: &'static str,
    },
    /// A pod of one namespace, and another namespace.
    #[error(
        "invalid argument {value:?} for \"--{flag}\" flag: namespace conflict: {namespace:?} does not contain {pod:?}"
    )]
    NamespaceConflict {
        /// The flag, without dashes.
        flag: &'static str,
        /// Its value.
        value: String,
        /// The namespace.
        namespace: String,
        /// The pod.
        pod: String,
    },
}
