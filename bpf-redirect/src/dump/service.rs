//! The entries of the services' map.

use bpf_redirect_common::{ServiceKey, ServiceValue};

use super::{Field, Row, port, protocol_word, read};

pub(super) fn key(bytes: &[u8]) -> Option<Row> {
    let ServiceKey {
        vip,
        port: own,
        protocol,
        reserved: _,
    } = read(bytes)?;
    Some(vec![
        ("vip", Field::Address(vip.into())),
        ("protocol", protocol_word(protocol)),
        ("port", port(own)),
    ])
}

pub(super) fn value(bytes: &[u8], _: u64) -> Option<Row> {
    let ServiceValue {
        identity,
        endpoint,
        port,
        reserved: _,
    } = read(bytes)?;
    Some(vec![
        ("identity", Field::Number(identity.into())),
        ("endpoint", Field::Number(endpoint.into())),
        ("target", Field::Number(port.into())),
    ])
}
