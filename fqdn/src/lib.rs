//! Names and patterns: one form for a DNS name, everywhere.
//!
//! A [`Name`] is the lower-cased wire form; comparison is byte equality, and nothing ever matches
//! on the text form. A [`Pattern`] is what policy writes, a [`PatternSet`] many of them, looked up
//! at a cost that does not grow with their number. This crate knows no packet, no policy and no
//! clock.
#![forbid(unsafe_code)]

mod glob_list;
mod name;
mod pattern;
mod pattern_set;

pub use name::{LABEL_OCTETS_MAX, NAME_OCTETS_MAX, Name, NameError, Spelled};
pub use pattern::{Everything, PATTERN_TEXT_MAX, Pattern, PatternError};
pub use pattern_set::PatternSet;
