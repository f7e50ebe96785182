//! A connection's octets: plain, or in TLS that ends here.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use rustls::Connection as Session;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use transport::{Follows, send};

/// One side of a connection.
///
/// It can be driven in two ways: by readiness, with `ready` and then `try_…`, as the HTTP/1 shell does,
/// or as [`AsyncRead`] and [`AsyncWrite`].
#[derive(Debug)]
pub(super) struct Stream {
    socket: TcpStream,
    tls: Option<Box<Session>>,
    /// The writing was ended in TLS.
    is_ended: bool,
    /// The socket takes nothing more: what is held is lost.
    is_broken: bool,
}

/// What a side has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Content,
    End,
}

impl Stream {
    pub(super) const fn plain(socket: TcpStream) -> Self {
        Self {
            socket,
            tls: None,
            is_ended: false,
            is_broken: false,
        }
    }

    /// The socket under it.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether what is said on the socket is all that there is.
    pub(super) const fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// The socket, if it is so.
    pub(super) fn as_plain(&mut self) -> Option<&mut TcpStream> {
        self.is_plain().then_some(&mut self.socket)
    }

    /// Begins TLS; `first` is what was read of it before.
    ///
    /// # Errors
    /// As the handshake fails: what TLS says of it is inside.
    pub(super) async fn begin_tls(&mut self, session: Session, first: &[u8]) -> io::Result<()> {
        let session = self.tls.insert(Box::new(session));
        let mut rest = first;
        while !rest.is_empty() {
            session.read_tls(&mut rest)?;
            if let Err(error) = session.process_new_packets() {
                let _ = self.push();
                return Err(of_tls(error));
            }
        }
        loop {
            self.send_held()?;
            let is_over = |session: &Session| !session.is_handshaking();
            if self.tls.as_deref().is_none_or(is_over) {
                return Ok(());
            }
            match self.pull() {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready(true, false).await;
                }
                Err(error) => {
                    // The alert that says why.
                    let _ = self.push();
                    return Err(error);
                }
            }
        }
    }

    /// What was agreed on over TLS, if anything.
    pub(super) fn alpn(&self) -> Option<&[u8]> {
        self.tls.as_deref()?.alpn_protocol()
    }

    /// What there is to read, without reading it. `None`: nothing yet, though the socket had something.
    pub(super) async fn hears(&mut self) -> io::Result<Option<Heard>> {
        if self.tls.is_none() {
            return Ok(Some(match self.socket.peek(&mut [0]).await? {
                0 => Heard::End,
                _ => Heard::Content,
            }));
        }
        let count = if self.holds_content() {
            Ok(1)
        } else {
            self.pull()
        };
        let is_over = match count {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            count => count? == 0,
        };
        let Some(session) = &mut self.tls else {
            return Ok(None);
        };
        let state = session.process_new_packets().map_err(of_tls)?;
        Ok(match state.plaintext_bytes_to_read() {
            0 if is_over || state.peer_has_closed() => Some(Heard::End),
            0 => None,
            _ => Some(Heard::Content),
        })
    }

    /// Reads what is there.
    pub(super) fn try_read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(session) = &mut self.tls else {
                return drained(&self.socket, room.len(), self.socket.try_read(room));
            };
            match session.reader().read(room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            // At the end the session knows whether it was said.
            self.pull()?;
        }
    }

    /// Writes what can be. Of TLS some may be held until the socket takes it: see `has_unsent`.
    pub(super) fn try_write(&mut self, octets: &[u8], follows: Follows) -> io::Result<usize> {
        if self.tls.is_none() {
            let write = || send(self.socket.as_fd(), octets, follows);
            return self.socket.try_io(Interest::WRITABLE, write);
        }
        // One record after the other, and no more while one is held.
        self.push()?;
        let Some(session) = &mut self.tls else {
            return Ok(0);
        };
        let count = session.writer().write(octets)?;
        self.send_held()?;
        match count {
            0 if !octets.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    /// Whether octets that were written wait for the socket.
    pub(super) fn has_unsent(&self) -> bool {
        let holds = |session: &Session| session.wants_write();
        !self.is_broken && self.tls.as_deref().is_some_and(holds)
    }

    /// Ends the writing. Says whether that is done; else it is to be called again when `ready` was.
    pub(super) fn try_shutdown(&mut self) -> bool {
        let ended = self.end_writing();
        // An error shows at the next read.
        !matches!(ended, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits until it can be read or written, whichever is wanted, or has sent something of what it
    /// holds.
    pub(super) async fn ready(&mut self, reads: bool, writes: bool) {
        if reads && self.holds_content() {
            return;
        }
        let interest = match (reads, writes || self.has_unsent()) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => return std::future::pending().await,
        };
        // An error shows at the next read or write.
        let _ = self.socket.ready(interest).await;
        let _ = self.send_held();
    }

    /// Whether content was decrypted that nobody has read yet: of that the socket knows nothing.
    fn holds_content(&mut self) -> bool {
        let Some(session) = &mut self.tls else {
            return false;
        };
        // An error shows at the next read.
        let state = session.process_new_packets();
        state.map_or(true, |state| {
            state.plaintext_bytes_to_read() > 0 || state.peer_has_closed()
        })
    }

    /// Reads records from the socket.
    fn pull(&mut self) -> io::Result<usize> {
        let Some(session) = &mut self.tls else {
            return Ok(0);
        };
        let count = session.read_tls(&mut Now(&self.socket))?;
        session.process_new_packets().map_err(of_tls)?;
        Ok(count)
    }

    /// Writes records to the socket, until none is left.
    fn push(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.tls else {
            return Ok(());
        };
        while session.wants_write() {
            let error = match session.write_tls(&mut Now(&self.socket)) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(_) => continue,
                Err(error) => error,
            };
            self.is_broken |= error.kind() != io::ErrorKind::WouldBlock;
            return Err(error);
        }
        Ok(())
    }

    /// The same, as far as the socket takes them.
    fn send_held(&mut self) -> io::Result<()> {
        match self.push() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            pushed => pushed,
        }
    }

    /// Resets the connection now.
    pub(super) fn reset(&mut self) {
        self.is_broken = true;
        let _ = transport::reset(self.socket.as_fd());
    }

    fn end_writing(&mut self) -> io::Result<()> {
        if let Some(session) = &mut self.tls
            && !self.is_ended
        {
            session.send_close_notify();
        }
        self.is_ended = true;
        self.push()?;
        // The kernel never lets this wait.
        let mut context = Context::from_waker(Waker::noop());
        match pin!(&mut self.socket).poll_shutdown(&mut context) {
            Poll::Ready(ended) => ended,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// What was read into so much room. If there was room for more, that was all: the next read waits for the
/// reactor, which tells of what comes later (epoll, edge-triggered), without asking the kernel once more.
pub(super) fn drained(
    socket: &TcpStream,
    room: usize,
    read: io::Result<usize>,
) -> io::Result<usize> {
    if matches!(read, Ok(count) if 0 < count && count < room) {
        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = socket.try_io(Interest::READABLE, nothing);
    }
    read
}

fn of_tls(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A socket that is read and written without waiting.
struct Now<'a>(&'a TcpStream);

impl io::Read for Now<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(room)
    }
}

impl io::Write for Now<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.try_write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The result of one try, if it is more than "not now".
fn tried<T>(result: io::Result<T>) -> Option<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        result => Some(result),
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.tls.is_none() {
            return Pin::new(&mut self.socket).poll_read(context, room);
        }
        loop {
            let read = self.try_read(room.initialize_unfilled());
            if let Some(read) = tried(read) {
                return Poll::Ready(read.map(|count| room.advance(count)));
            }
            // What the reading made it say, as an update of keys.
            if self.has_unsent()
                && let Poll::Ready(Err(error)) = self.as_mut().poll_flush(context)
            {
                return Poll::Ready(Err(error));
            }
            ready!(self.socket.poll_read_ready(context))?;
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let written = self.try_write(octets, Follows::Unknown);
            if let Some(written) = tried(written) {
                return Poll::Ready(written);
            }
            ready!(self.socket.poll_write_ready(context))?;
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let pushed = self.push();
            if let Some(pushed) = tried(pushed) {
                return Poll::Ready(pushed);
            }
            ready!(self.socket.poll_write_ready(context))?;
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let ended = self.end_writing();
            if let Some(ended) = tried(ended) {
                return Poll::Ready(ended);
            }
            ready!(self.socket.poll_write_ready(context))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Both ends of one connection in TLS.
    async fn pair() -> (Stream, Stream) {
        let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "a.test".try_into().unwrap();
        let client = ClientConnection::new(Arc::new(client), name).unwrap();
        let server = ServerConnection::new(Arc::new(server)).unwrap();
        let (one, other) = crate::testing::pair().await;
        let begin = async |socket, session: Session| {
            let mut stream = Stream::plain(socket);
            stream.begin_tls(session, &[]).await.unwrap();
            stream
        };
        tokio::join!(begin(one, client.into()), begin(other, server.into()))
    }

    #[tokio::test]
    async fn what_one_end_writes_by_readiness_the_other_one_reads_whole() {
        const OCTETS: usize = 24 << 20; // more than both sockets hold
        let sent: Vec<u8> = (0..OCTETS).map(|at| (at % 251) as u8).collect();
        let (mut from, mut to) = pair().await;
        let expected = sent.clone();
        let writer = async move {
            let mut rest = &sent[..];
            let mut waits = 0;
            loop {
                match from.try_write(rest, Follows::Unknown) {
                    Ok(count) => rest = &rest[count..],
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
                if rest.is_empty() && !from.has_unsent() && from.try_shutdown() {
                    break (from, waits);
                }
                waits += 1;
                from.ready(false, !rest.is_empty()).await;
            }
        };
        let reader = async {
            let mut got = Vec::new();
            // Less than a record at a time: the rest is held where no socket knows of it.
            let mut room = [0; 1000];
            loop {
                match to.try_read(&mut room) {
                    Ok(0) => break got,
                    Ok(count) => got.extend_from_slice(&room[..count]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
                to.ready(true, false).await;
            }
        };
        let ((_from, waits), got) = tokio::join!(writer, reader);
        assert!(got == expected);
        assert!(waits > 1, "the socket was never full");
    }

    #[tokio::test]
    async fn an_end_without_a_farewell_is_no_end() {
        let (mut to, from) = pair().await;
        drop(from);
        let error = loop {
            to.ready(true, false).await;
            match to.try_read(&mut [0; 10]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => break error,
                Ok(count) => panic!("{count} octets"),
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn it_is_read_and_written_by_waiting_too() {
        let (mut one, mut other) = pair().await;
        one.write_all(b"ask").await.unwrap();
        one.flush().await.unwrap();
        one.shutdown().await.unwrap();
        let mut got = Vec::new();
        other.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"ask");
        other.write_all(b"answer").await.unwrap();
        other.shutdown().await.unwrap();
        got.clear();
        one.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"answer");
    }
}
