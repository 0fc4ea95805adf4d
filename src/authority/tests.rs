use super::*;
use proptest::prelude::*;

#[test]
fn names_become_canonical() {
    for (given, wanted) in [
        (
            "Generativelanguage.GoogleAPIs.com:443",
            "generativelanguage.googleapis.com",
        ),
        (
            "generativelanguage.googleapis.com.:443",
            "generativelanguage.googleapis.com",
        ),
        ("bücher.example:443", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example:443", "xn--bcher-kva.example"),
        ("ｇoogle.com:443", "google.com"),
        (
            "My_Bucket.storage.example.:443",
            "my_bucket.storage.example",
        ),
        ("_service._tcp.example:443", "_service._tcp.example"),
        ("under＿score.example:443", "under_score.example"),
        (
            "r3---sn-4g5e6nzl.example.com:8443",
            "r3---sn-4g5e6nzl.example.com",
        ),
    ] {
        assert_eq!(
            Authority::parse(given).unwrap().destination.to_string(),
            wanted,
            "{given}"
        );
    }
}

#[test]
fn address_literals_are_distinguished_from_names() {
    for (given, wanted) in [
        ("127.0.0.1:443", "127.0.0.1"),
        ("[::1]:443", "::1"),
        ("[::ffff:10.0.0.1]:1", "::ffff:10.0.0.1"),
    ] {
        let authority = Authority::parse(given).unwrap();
        assert_eq!(
            authority.destination,
            Destination::Address(wanted.parse().unwrap())
        );
    }
}

#[test]
fn each_malformed_form_has_its_own_error() {
    use AuthorityError as E;
    for (given, wanted) in [
        ("", E::Shape),
        ("example.com", E::Shape),
        ("::1:443", E::Shape),
        ("a:b:443", E::Shape),
        ("http://example.com:443", E::Shape),
        ("user@example.com:443", E::Userinfo),
        ("user:pw@example.com:443", E::Userinfo),
        ("example.com:", E::Port),
        ("example.com:0", E::Port),
        ("example.com:0443", E::Port),
        ("example.com:+443", E::Port),
        ("example.com:443 ", E::Port),
        ("example.com:65536", E::Port),
        ("example.com:4294967739", E::Port),
        ("example.com:https", E::Port),
        ("example.com:443/x", E::Port),
        ("[::1:443", E::Bracket),
        ("[::1]x:443", E::Bracket),
        ("[fe80::1%25eth0]:443", E::Bracket),
        ("[fe80::1%eth0]:443", E::Bracket),
        ("[127.0.0.1]:443", E::Bracket),
        ("[]:443", E::Bracket),
        (":443", E::Host),
        (".:443", E::Host),
        ("a..b:443", E::Host),
        (".example.com:443", E::Host),
        ("example.com..:443", E::Host),
        ("exa mple.com:443", E::Host),
        ("exa\tmple.com:443", E::Host),
        ("example.com\0.test:443", E::Host),
        ("-a.example:443", E::Host),
        ("a-.example:443", E::Host),
        ("%67oogle.com:443", E::Host),
        ("a/b:443", E::Host),
        ("xn--a.example:443", E::Host),
        ("*.example.com:443", E::Host),
        ("2130706433:443", E::AmbiguousAddress),
        ("0x7f000001:443", E::AmbiguousAddress),
        ("0x7f.1:443", E::AmbiguousAddress),
        ("0177.0.0.1:443", E::AmbiguousAddress),
        ("127.1:443", E::AmbiguousAddress),
        ("127.0.1:443", E::AmbiguousAddress),
        ("127.0.0.1.:443", E::AmbiguousAddress),
        ("127.0.0.256:443", E::AmbiguousAddress),
        ("１２７.0.0.1:443", E::AmbiguousAddress),
        ("example.0x:443", E::AmbiguousAddress),
    ] {
        assert_eq!(Authority::parse(given), Err(wanted), "{given:?}");
    }
    let label = format!("{}.example:443", "a".repeat(64));
    assert_eq!(Authority::parse(&label), Err(E::Host));
    let long = format!("{}example:443", "a.".repeat(124));
    assert_eq!(Authority::parse(&long), Err(E::Host));
}

#[test]
fn a_character_that_no_host_has_is_refused() {
    for byte in (0..0x80_u8).filter(|byte| !byte.is_ascii_alphanumeric() && !b"-._".contains(byte))
    {
        let name = format!("a{}b.example", char::from(byte));
        assert_eq!(Host::parse(&name), Err(AuthorityError::Host), "{name:?}");
    }
}

#[test]
fn one_trailing_dot_of_a_server_name_is_ignored() {
    let host = Host::parse("a.example.").unwrap();
    for same in ["a.example", "a.example.", "A.Example."] {
        assert!(host.equals_server_name(same), "{same}");
    }
    for other in [
        "a.example..",
        ".",
        "",
        "example.",
        "a.example.com.",
        ".a.example",
        "a.exampl",
    ] {
        assert!(!host.equals_server_name(other), "{other}");
    }
}

#[test]
fn a_user_is_named_in_printable_ascii() {
    for name in [
        "a",
        "svc-llm@corp.example",
        "CORP\\svc",
        "a\"b",
        "{x}=1,#%&'()*+/;<>?[]^`|~",
        "-",
        &"n".repeat(128),
    ] {
        assert_eq!(UserId::parse(name).unwrap().as_str(), name);
    }
    for name in [
        "",
        "a b",
        "a:b",
        "a\tb",
        "a\n",
        "\u{7f}",
        "ä",
        " a",
        "a\0",
        &"n".repeat(129),
    ] {
        assert_eq!(UserId::parse(name), None, "{name:?}");
    }
}

#[test]
fn https_is_443() {
    assert_eq!(Port::HTTPS.number(), 443);
}

proptest! {
    #[test]
    fn any_text_parses_or_is_refused_and_canonical_names_are_stable(text in "\\PC{0,80}") {
        if let Ok(Authority { destination: Destination::Name(host), .. }) = Authority::parse(&text) {
            prop_assert_eq!(Host::parse(host.as_str()).unwrap(), host.clone());
            let plain = host.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
            prop_assert!(plain);
            prop_assert!(!host.as_str().ends_with('.') && host.as_str().len() <= 253);
        }
    }
}
