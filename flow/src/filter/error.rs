//! What can be wrong with a filter; every text names the flag or the field, and its value.

/// Why a filter was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FilterError {
    /// No filter has this flag.
    #[error("unknown flag: --{flag}")]
    UnknownFlag {
        /// The flag, without dashes.
        flag: String,
    },
    /// The value is none that the flag takes.
    #[error("invalid argument {value:?} for \"--{flag}\" flag: {problem}")]
    BadValue {
        /// The flag, without dashes.
        flag: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        problem: String,
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
    /// The value is none that the field of a filter can have.
    #[error("invalid {field} filter {value:?}: {problem}")]
    BadField {
        /// The field.
        field: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A field that asks of HTTP what other events don't have.
    #[error("filtering by {field} requires the event type filter to only match 'l7' events")]
    OnlyL7 {
        /// The field.
        field: &'static str,
    },
    /// A filter that is not JSON, or has other fields.
    #[error("failed to decode {text:?}: {problem}")]
    BadJson {
        /// The text.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
}
