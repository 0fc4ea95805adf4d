//! Parsers and writers of the bytes on the wire: pure functions over slices. No I/O, no clock, no log, and no
//! allocation of a size that a peer names.

pub mod client_hello;
pub mod connect;
mod cursor;
mod distinct;
pub mod ja4;
pub mod message;
pub mod reply;
pub mod server_hello;

/// What a parser makes of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The whole message, and how many bytes it took; what is behind belongs to the next one.
    Complete {
        /// The message.
        value: T,
        /// Its length in bytes.
        consumed: usize,
    },
    /// A valid beginning; more bytes are needed.
    Incomplete,
}
