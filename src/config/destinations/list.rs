//! Parses a list of networks: one per line, or the JSON format of Google's published lists.
//! Anything else is an error, never skipped. Pure.

use std::fmt;

use ipnet::IpNet;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::fields::network;

/// The contents of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct List {
    pub(super) networks: Vec<IpNet>,
    /// The creation time, if the list has one.
    pub(super) made: Option<OffsetDateTime>,
}

/// The problem of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// From 1; None for the whole file.
    pub(super) line: Option<usize>,
    pub(super) message: String,
}

impl Wrong {
    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self {
            line: None,
            message: message.into(),
        }
    }
}

/// Parses a list in either format.
pub(super) fn parse(text: &str) -> Result<List, Wrong> {
    let list = if text.trim_start().starts_with('{') {
        published(text)?
    } else {
        lines(text)?
    };
    if list.networks.is_empty() {
        Err(Wrong::whole("contains no network"))
    } else {
        Ok(list)
    }
}

fn lines(text: &str) -> Result<List, Wrong> {
    let mut networks = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let content = line.split('#').next().unwrap_or_default().trim();
        if !content.is_empty() {
            // The text is not shown: the file may be the wrong one.
            networks.push(network(content).map_err(|wrong| Wrong {
                line: Some(at + 1),
                message: wrong.to_owned(),
            })?);
        }
    }
    Ok(List {
        networks,
        made: None,
    })
}

fn published(text: &str) -> Result<List, Wrong> {
    let list: Published = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        // The caller puts the line before the message.
        let message = message
            .rsplit_once(" at line ")
            .map_or(message.as_str(), |(message, _)| message)
            .to_owned();
        Wrong {
            line: Some(error.line()).filter(|line| *line > 0),
            message,
        }
    })?;
    let networks = list
        .prefixes
        .into_iter()
        .map(|Prefix(network)| network)
        .collect();
    Ok(List {
        networks,
        made: list.creation_time,
    })
}

/// The format of `goog.json` and `cloud.json`. Unknown keys are ignored; `cloud.json` has some.
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
    let parse = |text: &str| {
        text.parse()
            .map(IpNet::V4)
            .map_err(|_| "ipv4Prefix is not an IPv4 network")
    };
    deserializer.deserialize_str(Text(parse)).map(Some)
}

fn v6<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpNet>, D::Error> {
    let parse = |text: &str| {
        text.parse()
            .map(IpNet::V6)
            .map_err(|_| "ipv6Prefix is not an IPv6 network")
    };
    deserializer.deserialize_str(Text(parse)).map(Some)
}

/// Parses RFC 3339, or the same without a zone as Google writes it. That counts as UTC, because a
/// few hours do not matter to an age in days.
fn creation_time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<OffsetDateTime>, D::Error> {
    let parse = |text: &str| {
        let made = OffsetDateTime::parse(text, &Rfc3339);
        let made = made.or_else(|_| OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339));
        made.map_err(|_| "creationTime is not a time such as 2026-11-20T12:00:00")
    };
    deserializer.deserialize_str(Text(parse)).map(Some)
}

/// Parses a string inside the deserialiser, so that errors carry the line of the string.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        parse(text)
            .unwrap()
            .networks
            .iter()
            .map(IpNet::to_string)
            .collect()
    }

    #[test]
    fn lines_and_published_json_are_read_alike() {
        let wanted = ["8.8.4.0/24", "2001:4860::/32"];
        assert_eq!(
            shown("# Google\r\n\n 8.8.4.0/24 # DNS\n2001:4860::/32"),
            wanted
        );
        assert_eq!(shown("192.0.2.7\n"), ["192.0.2.7/32"]);
        let goog = "\n {\"syncToken\": \"1\", \"creationTime\": \"2026-11-20T12:34:56.789012\", \"prefixes\": [\n\
            {\"ipv4Prefix\": \"8.8.4.0/24\"},\n{\"ipv6Prefix\": \"2001:4860::/32\"}]}";
        assert_eq!(shown(goog), wanted);
        let cloud = goog.replace(
            "/24\"",
            "/24\", \"service\": \"Google Cloud\", \"scope\": \"us-east1\"",
        );
        assert_eq!(shown(&cloud), wanted);
    }

    #[test]
    fn a_list_that_states_its_time_has_that_time() {
        let made = |time: &str| {
            let text = format!("{{{time}\"prefixes\": [{{\"ipv4Prefix\": \"8.8.4.0/24\"}}]}}");
            parse(&text).map(|list| list.made.map(OffsetDateTime::unix_timestamp))
        };
        assert_eq!(made(""), Ok(None));
        assert_eq!(
            made("\"creationTime\": \"2026-11-20T00:00:00.5\","),
            Ok(Some(1_795_132_800))
        );
        assert_eq!(
            made("\"creationTime\": \"2026-11-20T01:00:00+01:00\","),
            Ok(Some(1_795_132_800))
        );
        for wrong in ["\"yesterday\"", "\"\"", "1795132800", "null"] {
            assert!(
                made(&format!("\"creationTime\": {wrong},")).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn an_unreadable_line_is_refused_by_number() {
        for (text, line, wanted) in [
            ("", None, "contains no network"),
            ("# nothing\n\n", None, "contains no network"),
            (
                "8.8.4.0/24\n\n8.8.4.0/33\n",
                Some(3),
                "not an address or a network",
            ),
            (
                "8.8.4.0/24 8.8.8.0/24",
                Some(1),
                "not an address or a network",
            ),
            ("<html>", Some(1), "not an address or a network"),
            ("{\"prefixes\": []}", None, "contains no network"),
            ("{}", Some(1), "missing field `prefixes`"),
            (
                "{\"prefixes\": [\n{\"ipv4Prefix\": \"8.8.4.0/24\"},\n",
                Some(3),
                "EOF",
            ),
            (
                "{\"prefixes\": [\n{\"ipv4Prefix\": \"2001:4860::/32\"}\n]}",
                Some(2),
                "ipv4Prefix is not an IPv4 network",
            ),
            (
                "{\"prefixes\": [\n{\"ipv6Prefix\": \"8.8.4.0/24\"}\n]}",
                Some(2),
                "ipv6Prefix is not an IPv6 network",
            ),
            (
                "{\"prefixes\": [\n{\"ipv4Prefix\": \"8.8.4.0\"}\n]}",
                Some(2),
                "ipv4Prefix is not an IPv4 network",
            ),
            (
                "{\"prefixes\": [\n{\"scope\": \"x\"}]}",
                Some(2),
                "an entry has either",
            ),
        ] {
            let Wrong { line: at, message } = parse(text).unwrap_err();
            assert_eq!(
                (at, message.starts_with(wanted)),
                (line, true),
                "{text:?}: {at:?} {message}"
            );
        }
    }
}
