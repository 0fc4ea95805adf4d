//! The status page: one document with its style and its script inside, built once from the files in
//! `page/`. It contains no data of the daemon; its script reads `/status` and shows the values as
//! text, never as markup.
//!
//! Content Security Policy (W3C CSP3): hashes allow exactly this style and this script, and the
//! page may connect only to this listener.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};

use crate::digest::Digest;

struct Page {
    html: Bytes,
    policy: HeaderValue,
}

/// The page.
pub(super) fn page() -> Response<Full<Bytes>> {
    let mut response = super::answer::typed("text/html; charset=utf-8", PAGE.html.clone());
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, PAGE.policy.clone());
    response
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let html = HTML
        .replacen("/* style.css */", STYLE, 1)
        .replacen("/* script.js */", SCRIPT, 1);
    // Hashes in base64 are visible ASCII. Without its own policy the page would get the strictest
    // one, and its script would not run.
    let policy =
        HeaderValue::try_from(policy()).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    Page {
        html: html.into(),
        policy,
    }
});

fn policy() -> String {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Digest::of(text).bytes()));
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");
