//! Heads of real clients, hostile heads, and properties of the parser.

use super::*;
use proptest::prelude::*;

const LIMIT: usize = 16_384;

fn complete(bytes: &[u8]) -> (Head, usize) {
    match parse(bytes, LIMIT) {
        Ok(Parsed::Complete { value, consumed }) => (value, consumed),
        other => panic!("{other:?} for {}", String::from_utf8_lossy(bytes)),
    }
}

fn recorded() -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/connect");
    let heads: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    assert!(heads.len() >= 80);
    heads
}

#[test]
fn every_recorded_head_is_taken_and_every_prefix_is_incomplete() {
    for (path, bytes) in recorded() {
        let (head, consumed) = complete(&bytes);
        assert_eq!(consumed, bytes.len(), "{path:?}");
        assert!(
            head.authority
                .destination
                .to_string()
                .ends_with(".googleapis.com"),
            "{path:?}"
        );
        for end in 0..bytes.len() {
            assert_eq!(
                parse(&bytes[..end], LIMIT),
                Ok(Parsed::Incomplete),
                "{path:?} at {end}"
            );
        }
        if path.to_string_lossy().contains("-basic.head") {
            // axios takes the password out of HTTPS_PROXY without decoding it.
            let secret = if path.to_string_lossy().contains("axios-env") {
                "p%40ss%3Aw%2Frd"
            } else {
                "p@ss:w/rd"
            };
            let wanted = Credentials::Basic {
                name: "alice".to_owned().into(),
                secret: secret.to_owned().into(),
            };
            assert!(head.credentials == wanted, "{path:?}");
        }
    }
}

#[test]
fn bytes_after_the_head_are_not_consumed() {
    let (_, consumed) = complete(b"CONNECT a.example:443 HTTP/1.1\r\n\r\n\x16\x03\x01");
    assert_eq!(consumed, 34);
}

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn hostile_heads_are_refused_for_their_own_reason() {
    use HeadError as E;
    for (head, wanted) in [
        (
            "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            E::Method,
        ),
        ("connect a.example:443 HTTP/1.1\r\n\r\n", E::Method),
        ("CONNECT a.example:443 HTTP/2.0\r\n\r\n", E::Version),
        ("CONNECT a.example:443\r\n\r\n", E::Syntax),
        ("CONNECT  a.example:443 HTTP/1.1\r\n\r\n", E::Syntax),
        (
            "CONNECT a.example HTTP/1.1\r\n\r\n",
            E::Authority(AuthorityError::Shape),
        ),
        (
            "CONNECT u@a.example:443 HTTP/1.1\r\n\r\n",
            E::Authority(AuthorityError::Userinfo),
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\nHost: a.example\r\n\r\n",
            E::ControlByte,
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a\n\nX: y\r\n\r\n",
            E::ControlByte,
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n",
            E::Host,
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a b\r\n\r\n",
            E::Host,
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a/b\r\n\r\n",
            E::Host,
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nHost: u@a\r\n\r\n",
            E::Host,
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a:99999\r\n\r\n",
            E::Host,
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nHost: [::zz]:1\r\n\r\n",
            E::Host,
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
            E::Body,
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            E::Body,
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
            E::Syntax,
        ),
        ("CONNECT a.example:443 HTTP/1.1\r\nA : b\r\n\r\n", E::Syntax),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nA: b\x01\r\n\r\n",
            E::Syntax,
        ),
        ("\r\n\r\n", E::ControlByte),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nProxy-Authorization: Basic YTpi\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
            E::RepeatedCredentials,
        ),
        // Whatever the scheme of the first or of the second.
        (
            "CONNECT a.example:443 HTTP/1.1\r\nProxy-Authorization: Bearer x\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
            E::RepeatedCredentials,
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nProxy-Authorization: Basic YTpi\r\nProxy-Authorization:\r\n\r\n",
            E::RepeatedCredentials,
        ),
    ] {
        assert_eq!(parse(head.as_bytes(), LIMIT), Err(wanted), "{head:?}");
    }
}

#[test]
fn a_length_is_zero_or_refused() {
    let with = |fields: &str| {
        parse(
            format!("CONNECT a.example:443 HTTP/1.1\r\n{fields}\r\n").as_bytes(),
            LIMIT,
        )
        .map(drop)
    };
    for zero in [
        "Content-Length: 0\r\n",
        "content-length:0\r\n",
        "Content-Length: 00 \r\n",
        "Content-Length: 0, 0\r\n",
    ] {
        assert_eq!(with(zero), Ok(()), "{zero:?}");
    }
    assert_eq!(with("Content-Length: 0\r\nContent-Length: 0\r\n"), Ok(()));
    for value in [
        "", "1", "10", "01", "+0", "-0", "0x0", "0.0", "0 0", "0,", ",0", "0, 1", "٠",
    ] {
        assert_eq!(
            with(&format!("Content-Length: {value}\r\n")),
            Err(HeadError::Body),
            "{value:?}"
        );
    }
    assert_eq!(
        with("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        Err(HeadError::Body)
    );
    assert_eq!(
        with("Content-Length: 0\r\nContent-Length: 5\r\n"),
        Err(HeadError::Body)
    );
    assert_eq!(
        with("Transfer-Encoding: identity\r\n"),
        Err(HeadError::Body)
    );
}

#[test]
fn other_protocols_are_refused_at_once() {
    for hello in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"\x16\x03",
        b"\x16\x03\x00\r\n\r\n",
    ] {
        assert_eq!(parse(hello, LIMIT), Err(HeadError::Tls));
    }
    assert_eq!(parse(b"\x16", LIMIT), Ok(Parsed::Incomplete));
    assert_eq!(parse(b"\x16\x02", LIMIT), Err(HeadError::Syntax));
    assert_eq!(parse(b"\x05\x01\x00", LIMIT), Err(HeadError::Syntax));
    assert_eq!(parse(b"SSH-2.0-x\r\n", LIMIT), Err(HeadError::Syntax));
    assert_eq!(
        parse(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", LIMIT),
        Err(HeadError::Version)
    );
}

#[test]
fn the_limit_is_exact_and_beyond_it_is_an_error() {
    let head = b"CONNECT a.example:443 HTTP/1.1\r\nA: b\r\n\r\n";
    assert!(matches!(
        parse(head, head.len()),
        Ok(Parsed::Complete { .. })
    ));
    assert_eq!(parse(head, head.len() - 1), Err(HeadError::TooLarge));
    assert_eq!(parse(&[b'A'; LIMIT], LIMIT), Err(HeadError::TooLarge));
    let many = format!(
        "CONNECT a.example:443 HTTP/1.1\r\n{}\r\n",
        "A: b\r\n".repeat(FIELDS_MAX + 1)
    );
    assert_eq!(parse(many.as_bytes(), LIMIT), Err(HeadError::TooLarge));
}

#[test]
fn credentials_are_read_as_rfc_7617_says_and_never_shown() {
    let with = |value: &str| {
        let head =
            format!("CONNECT a.example:443 HTTP/1.1\r\nProxy-Authorization: {value}\r\n\r\n");
        complete(head.as_bytes()).0.credentials
    };
    assert!(
        with("basic YWxpY2U6OnA6")
            == Credentials::Basic {
                name: "alice".to_owned().into(),
                secret: ":p:".to_owned().into()
            }
    );
    for unusable in [
        "Bearer x",
        "Basic",
        "Basic !",
        "Basic YQ==",
        "Basic /zo6",
        "",
    ] {
        assert!(with(unusable) == Credentials::Unusable, "{unusable}");
    }
    assert_eq!(
        format!("{:?}", with("Basic YWxpY2U6OnA6")),
        "Basic(redacted)"
    );
}

#[test]
fn a_head_in_single_bytes_is_scanned_once() {
    const MAX: usize = 1 << 20;
    for start in [&b"CONNECT a.example:443 HTTP/1.1\r\nA: "[..], b"CONNECT "] {
        let head = [start, &vec![b'x'; MAX - start.len()]].concat();
        let (mut scan, mut searched) = (Scan::default(), 0);
        for len in 1..MAX {
            searched += scan.unsearched(&head[..len]).1.len();
            searched += if scan.line_is_judged {
                0
            } else {
                len - scan.line
            };
            assert_eq!(scan.parse(&head[..len], MAX), Ok(Parsed::Incomplete));
            assert!(searched <= 5 * MAX, "{searched} bytes looked at for {len}");
        }
        assert_eq!(scan.parse(&head, MAX), Err(HeadError::TooLarge));
    }
}

proptest! {
    #[test]
    fn any_bytes_never_panic_and_a_complete_head_fits_its_limit(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(Parsed::Complete { consumed, .. }) = parse(&bytes, 300) {
            prop_assert!(consumed <= 300 && bytes[..consumed].ends_with(b"\r\n\r\n"));
        }
    }

    #[test]
    fn a_corrupted_head_never_panics_or_yields_another_authority(
        pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let heads = recorded();
        let mut bytes = heads[pick.index(heads.len())].1.clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(Parsed::Complete { value, .. }) = parse(&bytes, LIMIT) {
            let target = std::str::from_utf8(&bytes).unwrap_or("").split(' ').nth(1).map(Authority::parse);
            prop_assert!(target.is_none_or(|t| t == Ok(value.authority)));
        }
    }

    #[test]
    fn a_head_is_read_in_pieces_as_it_is_at_once(
        pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        pieces in prop::collection::vec(1_usize..40, 1..40),
    ) {
        let heads = recorded();
        let mut bytes = heads[pick.index(heads.len())].1.clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let (mut scan, mut len) = (Scan::default(), 0);
        for piece in pieces.iter().cycle() {
            len = (len + piece).min(bytes.len());
            let parsed = scan.parse(&bytes[..len], 300);
            prop_assert_eq!(&parsed, &parse(&bytes[..len], 300));
            if len == bytes.len() || parsed != Ok(Parsed::Incomplete) {
                break;
            }
        }
    }
}
