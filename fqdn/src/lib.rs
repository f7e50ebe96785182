//! Names and patterns: one form for a DNS name, everywhere.
//!
//! A [`Name`] is the lower-cased wire form; comparison is byte equality, and nothing ever matches
//! on the text form. This crate knows no packet, no policy and no clock.
#![forbid(unsafe_code)]

mod name;

pub use name::{Name, NameError};
