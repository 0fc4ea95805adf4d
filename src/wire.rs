//! Parsers and writers of protocol bytes: pure functions over slices. No I/O, no clock, no log, and
//! no allocation of a size that a peer chooses.

pub mod client_hello;
pub mod connect;
mod cursor;
mod distinct;
pub mod ja4;
pub mod message;
pub mod proxy_protocol;
pub mod record;
pub mod reply;
pub mod server_hello;
pub mod terminator;

/// The result of parsing the bytes received so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The whole message and its length; the bytes after it belong to the next message.
    Complete {
        /// The message.
        value: T,
        /// Its length in bytes.
        consumed: usize,
    },
    /// A valid beginning; more bytes are needed.
    Incomplete,
}
