//! The language of policies for editors.

/// A JSON Schema (draft 2020-12) of CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy,
/// and lists of them: the whole language, also what this release refuses.
pub const SCHEMA: &str = include_str!("../schema/cilium.schema.json");
