//! The chain of an audit file: each line has a number (`seq`) and the SHA-256 of the line before it
//! (`prev`), so a changed, removed or moved line shows in the line after it. Pure functions; they
//! never trust bytes read from a file.
//!
//! The hash is of the bytes of a line without its line end. The first line of a chain has `seq` 1 and a `prev` of
//! zeros.

use std::borrow::Cow;

use serde::Deserialize;

use crate::digest::Digest;

/// The end of a chain: what its next line must continue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The number of the last line; 0 if there is none.
    pub seq: u64,
    /// The hash of the last line; zeros if there is none.
    pub hash: Digest,
}

/// The fields of a line that the chain needs.
#[derive(Debug)]
pub struct Link<'l> {
    /// `seq`.
    pub seq: u64,
    /// `prev`: the hash of the line before.
    pub prev: Digest,
    /// `event`.
    pub event: Cow<'l, str>,
    /// `ts`.
    pub ts: Cow<'l, str>,
    /// `reason` of a record about the file.
    pub cause: Option<Cow<'l, str>>,
    /// `records` of a record about a loss.
    pub lost: Option<u64>,
}

/// Why a line is not a record of a chain.
#[derive(Debug, thiserror::Error)]
pub enum NoRecord {
    /// Not JSON; the parser's message.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// JSON, but not an object with these fields.
    #[error("it is not a JSON object")]
    NoObject,
    /// `prev` is not 64 hexadecimal digits.
    #[error("prev is not 64 hexadecimal digits")]
    NoHash,
}

impl Chain {
    /// Appends `record`, a JSON object, as the next line of the chain.
    pub fn seal(&mut self, record: &[u8], lines: &mut Vec<u8>) {
        let start = lines.len();
        self.seq = self.seq.saturating_add(1);
        lines.extend_from_slice(
            format!("{{\"seq\":{},\"prev\":\"{}\",", self.seq, self.hash).as_bytes(),
        );
        // After the opening brace; every record has at least one field.
        lines.extend_from_slice(record.get(1..).unwrap_or_default());
        self.hash = Digest::of(lines.get(start..).unwrap_or_default());
        lines.push(b'\n');
    }
}

impl<'l> Link<'l> {
    /// Parses a line without its line end. The whole line must be JSON.
    ///
    /// # Errors
    /// Why the line is not a record of a chain.
    pub fn parse(line: &'l [u8]) -> Result<Self, NoRecord> {
        #[derive(Deserialize)]
        struct Fields<'l> {
            seq: u64,
            #[serde(borrow)]
            prev: Cow<'l, str>,
            #[serde(borrow)]
            event: Cow<'l, str>,
            #[serde(borrow)]
            ts: Cow<'l, str>,
            #[serde(borrow)]
            cause: Option<Cow<'l, str>>,
            lost: Option<u64>,
        }
        // The derived deserialiser would also accept an array.
        if line.first() != Some(&b'{') {
            return Err(NoRecord::NoObject);
        }
        let Fields {
            seq,
            prev,
            event,
            ts,
            cause,
            lost,
        } = serde_json::from_slice(line)?;
        Ok(Self {
            seq,
            prev: Digest::parse(&prev).ok_or(NoRecord::NoHash)?,
            event,
            ts,
            cause,
            lost,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_the_hash_of_the_one_before() {
        let (mut chain, mut lines) = (Chain::default(), Vec::new());
        chain.seal(br#"{"ts":"t","event":"start"}"#, &mut lines);
        chain.seal(br#"{"ts":"t","event":"stop"}"#, &mut lines);
        let lines: Vec<_> = lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .collect();
        let links: Vec<_> = lines
            .iter()
            .map(|line| Link::parse(line).unwrap())
            .collect();
        assert_eq!(
            links.iter().map(|link| link.seq).collect::<Vec<_>>(),
            [1, 2]
        );
        let (first, second) = (links.first().unwrap(), links.last().unwrap());
        assert_eq!(first.prev, Digest::default());
        assert_eq!(second.prev, Digest::of(lines.first().unwrap()));
        assert_eq!(
            (second.event.as_ref(), chain.hash),
            ("stop", Digest::of(lines.last().unwrap()))
        );
    }

    #[test]
    fn other_lines_are_not_records() {
        let zeros = Digest::default();
        let whole = format!("{{\"seq\":1,\"prev\":\"{zeros}\",\"ts\":\"t\",\"event\":\"e\"}}");
        assert!(Link::parse(whole.as_bytes()).is_ok());
        for cut in 0..whole.len() {
            assert!(
                Link::parse(whole.get(..cut).unwrap().as_bytes()).is_err(),
                "{cut}"
            );
        }
        let list = format!("[1,\"{zeros}\",\"e\",\"t\"]");
        let (twice, no_hash) = (
            whole.replace("{", "{\"seq\":1,"),
            whole.replace("00\"", "0\""),
        );
        for bad in [
            list,
            twice,
            no_hash,
            format!("{whole} x"),
            whole.replace(":1,", ":-1,"),
        ] {
            assert!(Link::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
