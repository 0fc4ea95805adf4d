//! The tables of codes: refusals and failures, endings, and the error types of `Proxy-Status`.

use std::collections::BTreeMap;

use sealway::outcome::{DenyReason, End, Ending, Failure, Reply};
use sealway::wire::reply::farewell;

use super::markdown::{code, prose, table};

pub fn tables() -> Vec<(String, String)> {
    vec![
        ("a refusal".to_owned(), a_refusal()),
        ("error types".to_owned(), error_types()),
        ("refusals and failures".to_owned(), refusals()),
        ("endings".to_owned(), endings()),
    ]
}

/// The whole reply of one code, as an example.
fn a_refusal() -> String {
    let bytes = String::from_utf8(farewell(DenyReason::HostDenied.into())).unwrap();
    format!("```\n{}```\n", bytes.replace('\r', ""))
}

fn refusals() -> String {
    let rows = ends().map(|end| {
        let answer = match end.reply() {
            Reply::Http(status, _) => status.to_string(),
            Reply::Alert(description) => format!("alert {description}"),
            Reply::Close => "close".to_owned(),
        };
        vec![
            code(end.code()),
            answer,
            prose(end.cause()),
            prose(end.cure()),
        ]
    });
    table(&["code", "answer", "cause", "cure"], rows)
}

fn endings() -> String {
    let rows = Ending::ALL.iter().map(|ending| {
        let seen = if ending.is_orderly() {
            "FIN, after all earlier bytes"
        } else {
            "reset"
        };
        vec![code(ending.code()), prose(ending.cause()), seen.to_owned()]
    });
    table(&["code", "meaning", "seen by both sides"], rows)
}

fn error_types() -> String {
    let mut types: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for end in ends() {
        if let Reply::Http(_, error) = end.reply() {
            types.entry(error).or_default().push(code(end.code()));
        }
    }
    let rows = types
        .into_iter()
        .map(|(error, codes)| vec![code(error), codes.join(", ")]);
    table(&["error", "codes"], rows)
}

/// Every way in which an attempt ends without a tunnel.
fn ends() -> impl Iterator<Item = End> {
    let denied = DenyReason::ALL.iter().map(|reason| End::from(*reason));
    denied.chain(Failure::ALL.iter().map(|failure| End::from(*failure)))
}
