//! Reads and writes on a borrowed tokio socket: what the set-up of a tunnel needs before the relay takes over.
//!
//! Sockets are borrowed, never owned, so that whoever ends a tunnel still holds both. Deadlines are the caller's.

use std::io;

use bytes::BytesMut;
use tokio::net::TcpStream;

/// Appends what has arrived, waiting for at least one byte; 0 means the peer has ended its side.
///
/// # Errors
/// What the socket said.
pub async fn read_some(socket: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    buffer.reserve(READ_BYTES);
    loop {
        socket.readable().await?;
        match socket.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

/// Writes all of `bytes`.
///
/// # Errors
/// What the socket said.
pub async fn write_all(socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads and drops until the peer ends, an error comes or `bytes_max` have come. A socket that is closed with unread
/// bytes sends a reset, which can overtake the last words written to it (RFC 9112, section 9.6).
pub async fn discard(socket: &TcpStream, bytes_max: usize) {
    let mut buffer = BytesMut::new();
    let mut total = 0;
    while total < bytes_max {
        buffer.clear();
        match read_some(socket, &mut buffer).await {
            // Whatever the socket says now, the conversation is over.
            Ok(0) | Err(_) => return,
            Ok(n) => total += n,
        }
    }
}

/// A CONNECT head is some 200 bytes, a ClientHello at most about 2,000.
const READ_BYTES: usize = 2_048;
