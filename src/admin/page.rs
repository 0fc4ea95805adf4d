//! The status page: one document with its style and its script inside, made once from the files beside this one. Has no
//! data of the daemon in it; its script reads `/status` and shows what it says as text, never as markup.
//!
//! Content Security Policy (W3C CSP3): the one style and the one script are known by their hashes, and the page may talk
//! to this listener only.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use sha2::{Digest, Sha256};

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
    // Hashes in base64 are visible ASCII; a page without its policy would have the strictest, and no script.
    let policy =
        HeaderValue::try_from(policy()).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    Page {
        html: html.into(),
        policy,
    }
});

fn policy() -> String {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
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
