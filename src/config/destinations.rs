//! The files of `policy.destination_ranges`: a list of networks, one a line, or the JSON in which Google publishes its
//! own. Read whole or not at all; what is not understood is an error, never left out.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::fields::{Fields, network};
use super::file::{Given, Problem};
use crate::policy::ranges::Ranges;

/// A file that was read, and how old what it says is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// When its list was made: `creationTime` of the JSON where it is there, else the file's modification time.
    pub made: SystemTime,
}

impl Source {
    /// How old it is; a time in the future is no age at all.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.made).unwrap_or_default()
    }
}

/// The ranges that the section `[policy]` names, and the files they are from; None where it names none, or where
/// something is wrong, which is noted.
pub(super) fn read(fields: &mut Fields<'_, '_>, config: &Path) -> Option<(Ranges, Vec<Source>)> {
    let mut named = |key| fields.text(key).filter(|given| !given.value.is_empty());
    let (given, minus) = (named(RANGES), named(MINUS));
    let Some(given) = given else {
        if let Some(minus) = minus {
            fields.complain(minus.line, MINUS, format!("takes nothing away: set policy.{RANGES} too"));
        }
        return None;
    };
    let line = given.line;
    let given = file(fields, config, RANGES, given);
    let minus = minus.map(|minus| file(fields, config, MINUS, minus));
    let ((networks, source), minus) = (given?, minus.map_or(Some(None), |minus| minus.map(Some))?);
    let mut ranges = Ranges::of(&networks);
    let mut sources = vec![source];
    if let Some((networks, source)) = minus {
        ranges = ranges.less(&Ranges::of(&networks));
        sources.push(source);
    }
    if ranges.is_empty() {
        fields.complain(line, RANGES, format!("policy.{MINUS} takes everything away: no address would be left"));
    }
    Some((ranges, sources))
}

/// One file, relative to that of the configuration.
fn file(fields: &mut Fields<'_, '_>, config: &Path, key: &str, given: Given<String>) -> Option<(Vec<IpNet>, Source)> {
    let path = config.parent().unwrap_or(Path::new("")).join(given.value);
    load(&path).map_err(|problem| fields.reader.problems.push(Problem { key: format!("policy.{key}"), ..problem })).ok()
}

/// Reads the networks of a file. The first thing that is wrong with it is enough.
fn load(path: &Path) -> Result<(Vec<IpNet>, Source), Problem> {
    let problem = |(line, message)| Problem { file: Some(path.to_owned()), line, key: String::new(), message };
    let unreadable = |error| problem((None, format!("cannot be read: {error}")));
    // Before it is opened: a FIFO would keep the opening waiting for a writer.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(problem((None, "is no regular file".to_owned())));
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes));
    if read.map_err(unreadable)? as u64 > BYTES_MAX {
        return Err(problem((None, format!("is larger than {BYTES_MAX} bytes: it is no list of networks"))));
    }
    let modified = metadata.modified().map_err(unreadable)?;
    let (networks, made) = parse(&bytes).map_err(problem)?;
    Ok((networks, Source { path: path.to_owned(), made: made.map_or(modified, SystemTime::from) }))
}

/// The networks, and when the list was made if it says so; or the line, from 1, and what is wrong there.
fn parse(bytes: &[u8]) -> Result<(Vec<IpNet>, Option<OffsetDateTime>), (Option<usize>, String)> {
    let text = std::str::from_utf8(bytes).map_err(|_| (None, "is no text in UTF-8".to_owned()))?;
    let (networks, made) = if text.trim_start().starts_with('{') { published(text)? } else { (lines(text)?, None) };
    if networks.is_empty() { Err((None, "holds no network".to_owned())) } else { Ok((networks, made)) }
}

fn lines(text: &str) -> Result<Vec<IpNet>, (Option<usize>, String)> {
    let content = |line: &'_ str| line.split('#').next().unwrap_or_default().trim().to_owned();
    let numbered = text.lines().map(content).enumerate().filter(|(_, line)| !line.is_empty());
    // Not shown: it may be a line of quite another file.
    numbered.map(|(at, line)| network(&line).map_err(|wrong| (Some(at + 1), wrong.to_owned()))).collect()
}

fn published(text: &str) -> Result<(Vec<IpNet>, Option<OffsetDateTime>), (Option<usize>, String)> {
    let list: Published = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        // The line stands before the message already.
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        (Some(error.line()).filter(|line| *line > 0), message.to_owned())
    })?;
    Ok((list.prefixes.into_iter().map(|Prefix(network)| network).collect(), list.creation_time))
}

/// `goog.json` and `cloud.json`, of which the second has more keys; keys that are not known are not looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Published {
    #[serde(default, deserialize_with = "creation_time")]
    creation_time: Option<OffsetDateTime>,
    prefixes: Vec<Prefix>,
}

#[derive(Deserialize)]
#[serde(try_from = "PrefixEntry")]
struct Prefix(IpNet);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PrefixEntry {
    #[serde(default, deserialize_with = "v4")]
    ipv4_prefix: Option<IpNet>,
    #[serde(default, deserialize_with = "v6")]
    ipv6_prefix: Option<IpNet>,
}

impl TryFrom<PrefixEntry> for Prefix {
    type Error = &'static str;

    fn try_from(entry: PrefixEntry) -> Result<Self, Self::Error> {
        match (entry.ipv4_prefix, entry.ipv6_prefix) {
            (Some(network), None) | (None, Some(network)) => Ok(Self(network)),
            _ => Err("an entry has either ipv4Prefix or ipv6Prefix"),
        }
    }
}

fn v4<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpNet>, D::Error> {
    let parse = |text: &str| text.parse().map(IpNet::V4).map_err(|_| "ipv4Prefix is no IPv4 network");
    deserializer.deserialize_str(Text(parse)).map(Some)
}

fn v6<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpNet>, D::Error> {
    let parse = |text: &str| text.parse().map(IpNet::V6).map_err(|_| "ipv6Prefix is no IPv6 network");
    deserializer.deserialize_str(Text(parse)).map(Some)
}

/// RFC 3339, or the same without a zone as Google writes it: taken as UTC, since a few hours do not matter to an age in
/// days.
fn creation_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OffsetDateTime>, D::Error> {
    let parse = |text: &str| {
        let made = OffsetDateTime::parse(text, &Rfc3339);
        let made = made.or_else(|_| OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339));
        made.map_err(|_| "creationTime is no time such as 2026-11-20T12:00:00")
    };
    deserializer.deserialize_str(Text(parse)).map(Some)
}

/// Parses a text while the reader still stands at it, so that the line of an error is the text's own.
struct Text<F>(F);

impl<T, F: FnOnce(&str) -> Result<T, &'static str>> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

/// Older lists are warned of: Google's change every few weeks.
pub const AGE_MAX: Duration = Duration::from_secs(30 * 86_400);
const RANGES: &str = "destination_ranges";
const MINUS: &str = "destination_ranges_minus";
/// Google's lists have some ten to a hundred KiB.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        parse(text.as_bytes()).unwrap().0.iter().map(IpNet::to_string).collect()
    }

    #[test]
    fn lines_and_published_json_are_read_alike() {
        let wanted = ["8.8.4.0/24", "2001:4860::/32"];
        assert_eq!(shown("# Google\r\n\n 8.8.4.0/24 # DNS\n2001:4860::/32"), wanted);
        assert_eq!(shown("192.0.2.7\n"), ["192.0.2.7/32"]);
        let goog = "\n {\"syncToken\": \"1\", \"creationTime\": \"2026-11-20T12:34:56.789012\", \"prefixes\": [\n\
            {\"ipv4Prefix\": \"8.8.4.0/24\"},\n{\"ipv6Prefix\": \"2001:4860::/32\"}]}";
        assert_eq!(shown(goog), wanted);
        let cloud = goog.replace("/24\"", "/24\", \"service\": \"Google Cloud\", \"scope\": \"us-east1\"");
        assert_eq!(shown(&cloud), wanted);
    }

    #[test]
    fn the_time_is_that_of_the_list_where_it_says_so() {
        let made = |time: &str| {
            let text = format!("{{{time}\"prefixes\": [{{\"ipv4Prefix\": \"8.8.4.0/24\"}}]}}");
            parse(text.as_bytes()).map(|(_, made)| made.map(OffsetDateTime::unix_timestamp))
        };
        assert_eq!(made(""), Ok(None));
        assert_eq!(made("\"creationTime\": \"2026-11-20T00:00:00.5\","), Ok(Some(1_795_132_800)));
        assert_eq!(made("\"creationTime\": \"2026-11-20T01:00:00+01:00\","), Ok(Some(1_795_132_800)));
        for wrong in ["\"yesterday\"", "\"\"", "1795132800", "null"] {
            assert!(made(&format!("\"creationTime\": {wrong},")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        for (text, line, wanted) in [
            ("", None, "holds no network"),
            ("# nothing\n\n", None, "holds no network"),
            ("8.8.4.0/24\n\n8.8.4.0/33\n", Some(3), "not an address or a network"),
            ("8.8.4.0/24 8.8.8.0/24", Some(1), "not an address or a network"),
            ("<html>", Some(1), "not an address or a network"),
            ("{\"prefixes\": []}", None, "holds no network"),
            ("{}", Some(1), "missing field `prefixes`"),
            ("{\"prefixes\": [\n{\"ipv4Prefix\": \"8.8.4.0/24\"},\n", Some(3), "EOF"),
            ("{\"prefixes\": [\n{\"ipv4Prefix\": \"2001:4860::/32\"}\n]}", Some(2), "ipv4Prefix is no IPv4 network"),
            ("{\"prefixes\": [\n{\"ipv6Prefix\": \"8.8.4.0/24\"}\n]}", Some(2), "ipv6Prefix is no IPv6 network"),
            ("{\"prefixes\": [\n{\"ipv4Prefix\": \"8.8.4.0\"}\n]}", Some(2), "ipv4Prefix is no IPv4 network"),
            ("{\"prefixes\": [\n{\"scope\": \"x\"}]}", Some(2), "an entry has either"),
        ] {
            let (at, message) = parse(text.as_bytes()).unwrap_err();
            assert_eq!((at, message.starts_with(wanted)), (line, true), "{text:?}: {at:?} {message}");
        }
        assert!(parse(b"8.8.4.0/24\n\xff").unwrap_err().1.contains("UTF-8"));
    }
}
