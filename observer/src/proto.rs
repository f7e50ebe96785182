//! Hubble's protocol: code that `cargo xtask proto` makes of `proto/`.
#![expect(
    missing_docs,
    clippy::pedantic,
    clippy::nursery,
    clippy::too_many_arguments,
    clippy::large_enum_variant,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "nobody reads it but the compiler"
)]

pub mod flow;
pub mod observer;
pub mod peer;
pub mod relay;
