//! A client that asks for one name after the other.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::Workload;

/// A socket of a workload, connected to a DNS server.
pub struct Asking {
    socket: UdpSocket,
    id: u16,
}

impl Asking {
    /// Asks a server at port 53, and waits for each answer no longer than said.
    ///
    /// # Errors
    /// If there is no socket.
    pub fn new(workload: &Workload, server: IpAddr, patience: Duration) -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a workload's own socket")]
        let socket = workload.ns.run(|| {
            let socket = UdpSocket::bind((workload.v4, 0))?;
            socket.connect((server, 53))?;
            Ok::<_, std::io::Error>(socket)
        })??;
        socket.set_read_timeout(Some(patience))?;
        Ok(Self { socket, id: 0 })
    }

    /// Asks for the A records of `LABEL.example.com`. Gives how long the question was, header and all, and the
    /// answer.
    ///
    /// # Errors
    /// Without an answer in time, or with one to another question.
    pub fn ask(&mut self, label: &str) -> Result<(usize, Vec<u8>)> {
        self.id = self.id.wrapping_add(1);
        let [high, low] = self.id.to_be_bytes();
        let mut query = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.push(u8::try_from(label.len())?);
        query.extend(label.as_bytes());
        query.extend(b"\x07example\x03com\0\0\x01\0\x01");
        self.socket.send(&query)?;
        let mut answer = vec![0; 512];
        let len = self.socket.recv(&mut answer).context(label.to_owned())?;
        answer.truncate(len);
        ensure!(answer.starts_with(&[high, low]), "{label}: another answer");
        Ok((query.len(), answer))
    }
}
