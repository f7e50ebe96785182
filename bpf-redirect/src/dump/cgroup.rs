//! The entries of the cgroups' maps.

use bpf_redirect_common::{AskerKey, AskerValue, CgroupEndpoint, Listeners, SocketServer};

use super::{ENDPOINT, Field, Row, port, protocol_word, read};

pub(super) fn cgroup_endpoint(bytes: &[u8], _: u64) -> Option<Row> {
    let CgroupEndpoint {
        endpoint,
        reserved: _,
    } = read(bytes)?;
    Some(vec![(ENDPOINT, Field::Number(endpoint.into()))])
}

pub(super) fn listeners(bytes: &[u8], _: u64) -> Option<Row> {
    let Listeners {
        udp4,
        udp6,
        tcp4,
        tcp6,
    } = read(bytes)?;
    Some(vec![
        ("udp4", port(udp4)),
        ("udp6", port(udp6)),
        ("tcp4", port(tcp4)),
        ("tcp6", port(tcp6)),
    ])
}

pub(super) fn socket_server(bytes: &[u8], _: u64) -> Option<Row> {
    let SocketServer {
        server,
        port: own,
        reserved: _,
    } = read(bytes)?;
    Some(vec![
        ("server", Field::Address(server.into())),
        ("server_port", port(own)),
    ])
}

pub(super) fn asker(bytes: &[u8]) -> Option<Row> {
    let AskerKey {
        source,
        source_port,
        id,
        protocol,
    } = read(bytes)?;
    Some(vec![
        ("source", Field::Address(source.into())),
        ("source_port", port(source_port)),
        ("id", port(id)),
        ("protocol", protocol_word(u8::try_from(protocol).ok()?)),
    ])
}

pub(super) fn asked(bytes: &[u8], _: u64) -> Option<Row> {
    let AskerValue {
        endpoint,
        server,
        port: own,
        reserved: _,
    } = read(bytes)?;
    Some(vec![
        (ENDPOINT, Field::Number(endpoint.into())),
        ("server", Field::Address(server.into())),
        ("server_port", port(own)),
    ])
}
