//! Hubble's protocol, and OpenTelemetry's of logs: code that `cargo xtask proto` makes of `proto/`.
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

#[rustfmt::skip]
pub mod flow;
#[rustfmt::skip]
pub mod observer;
#[rustfmt::skip]
pub mod otlp;
#[rustfmt::skip]
pub mod peer;
#[rustfmt::skip]
pub mod relay;
