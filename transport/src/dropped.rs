//! What rules of nft dropped: the first octets of each packet, from the kernel's log (NFLOG).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

/// The group that rules log to; a namespace has its own.
pub(crate) const LOG_GROUP: u16 = 1;
/// Octets that are kept of a packet: its headers.
pub(crate) const LOGGED_OCTETS: u32 = 128;
/// Octets of a message: a packet's, and what the kernel says of it.
const MESSAGE_MAX: usize = 8_192;

/// A packet that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedPacket {
    /// Who sent it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// IANA's number.
    pub protocol: u8,
    /// Of source and destination; of ICMP both are type and code; 0 where they aren't in it.
    pub ports: (u16, u16),
}

/// Reads them, without waiting.
#[derive(Debug)]
pub struct DropLog(OwnedFd);

impl DropLog {
    /// Opens it in the calling thread's network namespace.
    ///
    /// # Errors
    /// Without privilege over that, or if the kernel has no such log.
    pub(crate) fn open() -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kernel = SocketAddrNetlink::new(0, 0);
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            flags,
            Some(NETFILTER),
        )?;
        bind(&socket, &kernel)?;
        sendto(&socket, &configuration(), SendFlags::empty(), &kernel)?;
        let mut answer = [0; MESSAGE_MAX];
        let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
        match answer.get(..length).and_then(errno) {
            Some(0) => Ok(socket),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::Error::other("an answer of another kind")),
        }
    }

    /// Takes one that was opened elsewhere.
    #[must_use]
    pub fn given(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// What was dropped since; some of a flood is lost.
    #[must_use]
    pub fn read(&self) -> Vec<DroppedPacket> {
        let mut packets = Vec::new();
        let mut buffer = [0; MESSAGE_MAX];
        for _ in 0..READ_MAX {
            match recv(&self.0, &mut buffer, RecvFlags::empty()) {
                Ok((length, _)) => {
                    let message = buffer.get(..length);
                    packets.extend(message.into_iter().flat_map(packets_in));
                }
                // What didn't fit is said once, and more may be there.
                Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        packets
    }
}

/// Messages that are read at a time.
const READ_MAX: usize = 1_024;

/// `NFNL_SUBSYS_ULOG` (linux/netfilter/nfnetlink.h), with `NFULNL_MSG_PACKET` and `NFULNL_MSG_CONFIG`.
const PACKET: u16 = 4 << 8;
const CONFIG: u16 = PACKET | 1;
/// `NLM_F_REQUEST | NLM_F_ACK`, and the answer's type, `NLMSG_ERROR`.
const REQUEST: u16 = 1 | 4;
const ERROR: u16 = 2;
/// Octets of `nlmsghdr`, and of it with `nfgenmsg`.
const HEADER: usize = 16;
const HEADERS: usize = 20;
/// `NFULA_PAYLOAD`.
const PAYLOAD: u16 = 9;

/// Binds the group (`NFULNL_CFG_CMD_BIND`), has it copy packets (`NFULNL_COPY_PACKET`), and each be told at
/// once (`NFULA_CFG_QTHRESH`).
fn configuration() -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend(LOG_GROUP.to_be_bytes());
    let mut copy = LOGGED_OCTETS.to_be_bytes().to_vec();
    copy.extend([2, 0]);
    for (kind, value) in [(1_u16, &[1][..]), (2, &copy), (5, &1_u32.to_be_bytes())] {
        let length = u16::try_from(4 + value.len()).unwrap_or_default();
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(HEADER + body.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(CONFIG.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn number16(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(octets.get(at..at + 2)?.try_into().ok()?))
}

/// The error of an answer; 0 is none.
fn errno(message: &[u8]) -> Option<i32> {
    let octets = message.get(HEADER..HEADER + 4)?.try_into().ok()?;
    let is_answer = number16(message, 4)? == ERROR;
    is_answer.then(|| i32::from_ne_bytes(octets).saturating_neg())
}

fn packets_in(mut messages: &[u8]) -> Vec<DroppedPacket> {
    let mut packets = Vec::new();
    while let Some(length) = messages
        .first_chunk()
        .map(|octets| u32::from_ne_bytes(*octets))
    {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(message) = messages.get(..length).filter(|_| length >= HEADER) else {
            break;
        };
        if number16(message, 4) == Some(PACKET) {
            packets.extend(payload(message).and_then(packet));
        }
        messages = messages
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    packets
}

/// The packet in a message.
fn payload(message: &[u8]) -> Option<&[u8]> {
    let mut attributes = message.get(HEADERS..)?;
    loop {
        let length = usize::from(number16(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if number16(attributes, 2)? == PAYLOAD {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn packet(octets: &[u8]) -> Option<DroppedPacket> {
    let (source, destination, protocol, rest): (IpAddr, IpAddr, _, _) = match octets.first()? >> 4 {
        4 => {
            let head: &[u8; 20] = octets.first_chunk()?;
            let [
                first,
                _,
                _,
                _,
                _,
                _,
                f0,
                f1,
                _,
                protocol,
                _,
                _,
                s0,
                s1,
                s2,
                s3,
                d0,
                d1,
                d2,
                d3,
            ] = *head;
            let is_first = u16::from_be_bytes([f0, f1]) & 0x1fff == 0;
            let rest = octets.get(usize::from(first & 15) * 4..);
            (
                Ipv4Addr::new(s0, s1, s2, s3).into(),
                Ipv4Addr::new(d0, d1, d2, d3).into(),
                protocol,
                rest.filter(|_| is_first),
            )
        }
        6 => {
            let address = |at: usize| -> Option<Ipv6Addr> {
                let octets: [u8; 16] = octets.get(at..at + 16)?.try_into().ok()?;
                Some(octets.into())
            };
            let protocol = *octets.get(6)?;
            (
                address(8)?.into(),
                address(24)?.into(),
                protocol,
                octets.get(40..),
            )
        }
        _ => return None,
    };
    let ports = rest.and_then(|rest| match protocol {
        TCP | UDP | SCTP => {
            let [a, b, c, d] = *rest.first_chunk()?;
            Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
        }
        ICMP | ICMPV6 => {
            let kind = u16::from_be_bytes(*rest.first_chunk()?);
            Some((kind, kind))
        }
        _ => None,
    });
    Some(DroppedPacket {
        source,
        destination,
        protocol,
        ports: ports.unwrap_or_default(),
    })
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram() -> Vec<u8> {
        let mut octets = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, UDP, 0, 0];
        octets.extend([
            169, 254, 1, 2, 198, 51, 100, 7, 0x10, 0, 1, 0xbb, 0, 8, 0, 0,
        ]);
        octets
    }

    fn message(payload: &[u8]) -> Vec<u8> {
        let mut octets = vec![0; HEADERS];
        octets.extend(u16::try_from(4 + payload.len()).unwrap().to_ne_bytes());
        octets.extend(PAYLOAD.to_ne_bytes());
        octets.extend(payload);
        octets.resize(octets.len().next_multiple_of(4), 0);
        let length = u32::try_from(octets.len()).unwrap();
        octets[..4].copy_from_slice(&length.to_ne_bytes());
        octets[4..6].copy_from_slice(&PACKET.to_ne_bytes());
        octets
    }

    #[test]
    fn a_packet_is_read_with_its_ports_and_a_later_fragment_without() {
        let mut octets = datagram();
        let seen = packets_in(&[message(&octets), message(&octets)].concat());
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].destination, IpAddr::from([198, 51, 100, 7]));
        assert_eq!((seen[0].protocol, seen[0].ports), (UDP, (4096, 443)));
        octets[7] = 1;
        assert_eq!(packet(&octets).unwrap().ports, (0, 0));
        let mut six = vec![0x60; 40];
        six[6] = ICMPV6;
        six.extend([128, 0]);
        let ports = (0x8000, 0x8000);
        assert_eq!(packet(&six).unwrap().ports, ports);
    }

    #[test]
    fn what_is_cut_is_no_packet() {
        let whole = message(&datagram());
        for length in 0..whole.len() {
            assert!(packets_in(&whole[..length]).is_empty(), "{length}");
        }
        for length in 0..20 {
            assert_eq!(packet(&datagram()[..length]), None);
        }
    }
}
