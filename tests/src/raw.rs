//! TCP segments that no socket of the sender belongs to.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use anyhow::Result;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};

use crate::Workload;

/// Sends IPv4 segments with a workload's own address and any source port.
pub struct RawTcp {
    socket: OwnedFd,
    source: Ipv4Addr,
}

const TCP: u8 = 6;
const HEADER_LEN: u8 = 20;
const SYN: u8 = 0x02;

impl RawTcp {
    /// Opens the socket in the workload's namespace.
    ///
    /// # Errors
    /// Without root.
    pub fn open(workload: &Workload) -> Result<Self> {
        let open = || {
            socket_with(
                AddressFamily::INET,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                Some(ipproto::TCP),
            )
        };
        Ok(Self {
            socket: workload.ns.run(open)??,
            source: workload.v4,
        })
    }

    /// Sends a SYN.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn syn(&self, source_port: u16, to: SocketAddrV4) -> Result<()> {
        let mut segment = [0; HEADER_LEN as usize];
        let parts: [&[u8]; 6] = [
            &source_port.to_be_bytes(),
            &to.port().to_be_bytes(),
            &u32::from(source_port).to_be_bytes(),
            &0u32.to_be_bytes(),
            &[(HEADER_LEN / 4) << 4, SYN],
            &u16::MAX.to_be_bytes(), // the window
        ];
        for (byte, value) in segment.iter_mut().zip(parts.concat()) {
            *byte = value;
        }
        let pseudo = [
            &self.source.octets()[..],
            &to.ip().octets(),
            &[0, TCP, 0, HEADER_LEN],
        ];
        let sum = checksum(&[&pseudo.concat()[..], &segment].concat());
        if let Some(place) = segment.get_mut(16..18) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        sendto(&self.socket, &segment, SendFlags::empty(), &to)?;
        Ok(())
    }
}

/// The Internet's checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.as_chunks::<2>().0.iter();
    let sum: u32 = words.map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0)
}
