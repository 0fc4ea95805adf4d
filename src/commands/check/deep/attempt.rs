//! One connection of T05 and T06: opens it from an egress address, reads its segment size, and sends as many bytes as a
//! post-quantum ClientHello has.
//!
//! The bytes are the beginning of a ClientHello, so the upstream waits for the rest. Resets every connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::sys;
use crate::sys::options::{give_up_after, is_own_limit, path_bytes, segment_bytes};

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Refused,
    NoAnswer,
    Failed(String),
    /// This process has no descriptor left, which says nothing about the upstream.
    NotTried,
    Open(Facts),
}

/// What an open connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The largest segment, in bytes of data.
    pub(super) segment: u32,
    /// The largest packet to the upstream that this kernel knows of, in bytes.
    pub(super) packet: u32,
    pub(super) hello: Hello,
}

/// Whether a large segment arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hello {
    Arrives,
    /// Twice it did not, each time on a connection that had opened.
    Lost,
    /// Not sent, or the time was too short for this round trip.
    Unknown,
}

/// Opens a connection and, if `probe` is set, sends a large segment. A lost one is sent again on a second connection.
pub(super) async fn attempt(from: IpAddr, to: SocketAddr, probe: bool, until: Instant) -> Outcome {
    let (stream, round_trip) = match connected_in_time(from, to).await {
        Ok(opened) => opened,
        Err(outcome) => return outcome,
    };
    // Both fail only for a connection that is reset already.
    let segment = segment_bytes(&stream).unwrap_or(u32::MAX);
    let packet = path_bytes(&stream, to.is_ipv4()).unwrap_or(u32::MAX);
    let mut hello = Hello::Unknown;
    if probe {
        hello = hello_on(stream, round_trip, until).await;
        if hello == Hello::Lost {
            hello = match connected_in_time(from, to).await {
                Ok((again, second)) => hello_on(again, second.max(round_trip), until).await,
                Err(_) => Hello::Unknown,
            };
        }
    }
    Outcome::Open(Facts {
        segment,
        packet,
        hello,
    })
}

/// The connection, and how long it took to open.
async fn connected_in_time(from: IpAddr, to: SocketAddr) -> Result<(TcpStream, Duration), Outcome> {
    let began = Instant::now();
    match timeout(CONNECT_LIMIT, connected(from, to)).await {
        Ok(Ok(stream)) => Ok((stream, began.elapsed())),
        Err(_) => Err(Outcome::NoAnswer),
        Ok(Err(error)) => Err(of_error(&error)),
    }
}

fn of_error(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::TimedOut => Outcome::NoAnswer,
        _ if is_own_limit(error) => Outcome::NotTried,
        _ => Outcome::Failed(error.to_string()),
    }
}

async fn connected(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = sys::upstream_socket(from)?;
    sys::reset_on_close(&socket)?;
    sys::connect(&socket, to)?;
    let stream = TcpStream::from_std(socket)?;
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(stream), Err)
}

/// Whether the kernel at the other end acknowledges bytes as many as a post-quantum ClientHello has. An answer of any kind, and
/// silence without an unacknowledged byte, say yes.
async fn hello_on(mut stream: TcpStream, round_trip: Duration, until: Instant) -> Hello {
    let patience = patience(round_trip);
    let ends = Instant::now() + patience + MARGIN;
    if ends > until {
        return Hello::Unknown;
    }
    let is_sent =
        give_up_after(&stream, patience).is_ok() && stream.write_all(&beginning()).await.is_ok();
    if !is_sent {
        // A reset after the handshake is an answer.
        return Hello::Arrives;
    }
    let mut byte = [0];
    match timeout_at(ends, stream.read(&mut byte)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Hello::Lost,
        Ok(_) | Err(_) => Hello::Arrives,
    }
}

/// How long bytes may stay unacknowledged. The kernel sends lost bytes again after 200 ms, or after about three round trips
/// on a slow path, so this leaves time for a second transmission and its answer.
fn patience(round_trip: Duration) -> Duration {
    LOST_AFTER.max(round_trip.saturating_mul(4))
}

/// One TLS record that begins a ClientHello of more bytes (RFC 8446, sections 4 and 5.1), so that it has no answer yet.
fn beginning() -> Vec<u8> {
    let mut record = vec![0x16, 3, 1, 0x07, 0x03];
    record.extend([1, 0, 0x0f, 0xff, 3, 3]);
    record.resize(HELLO_BYTES, 0);
    record
}

/// A ClientHello with X25519MLKEM768 and the usual extensions.
const HELLO_BYTES: usize = 1_800;
/// Three attempts of the kernel: it sends a SYN again after one second and after three.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_millis(3_500);
/// Several retransmissions on a path with a short round trip.
const LOST_AFTER: Duration = Duration::from_millis(1_200);
/// From the kernel's own limit to its error.
const MARGIN: Duration = Duration::from_millis(600);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_record_and_the_hello_in_it_are_as_long_as_they_say() {
        let record = beginning();
        let length = u16::from_be_bytes([*record.get(3).unwrap(), *record.get(4).unwrap()]);
        assert_eq!(usize::from(length) + 5, record.len());
        // The hello continues in a record that never comes.
        assert!(record.len() < 0x0fff);
    }

    #[test]
    fn a_slow_path_has_four_round_trips() {
        let after = |ms| patience(Duration::from_millis(ms)).as_millis();
        assert_eq!(
            [0, 300, 301, 1_500].map(after),
            [1_200, 1_200, 1_204, 6_000]
        );
    }

    #[test]
    fn the_checks_own_limit_on_open_files_is_no_fault_of_the_upstream() {
        let of = |errno| of_error(&io::Error::from_raw_os_error(errno));
        let [emfile, econnrefused, etimedout, enfile, enetunreach] = [24, 111, 110, 23, 101];
        assert_eq!(of(emfile), Outcome::NotTried);
        assert_eq!(of(econnrefused), Outcome::Refused);
        assert_eq!(of(etimedout), Outcome::NoAnswer);
        // The whole host has none left, so tunnels fail too.
        assert!(matches!(of(enfile), Outcome::Failed(_)));
        assert!(matches!(of(enetunreach), Outcome::Failed(_)));
    }
}
