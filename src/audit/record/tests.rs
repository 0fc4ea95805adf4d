//! A record's line is what the reference promises, to the byte, and what serde_json would print of the same values.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;
use crate::audit::line;
use crate::authority::Host;
use crate::wire::Parsed;
use crate::wire::client_hello::{self, TlsVersion};

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn with_every_field_it_is_this_line() {
    let record = TunnelRecord {
        ts: OffsetDateTime::from_unix_timestamp_nanos(1_795_000_000_000_120_999).unwrap(),
        event: "tunnel",
        id: TunnelId {
            start: 0x1_0000_0000,
            number: 0,
        },
        user: UserId::parse("batch-7"),
        client: "192.0.2.255:65535".parse().ok(),
        auth: Some("both"),
        via: "198.51.100.10:4711".parse().ok(),
        certificate: Some(Digest::ZEROS),
        certificate_serial: Some("0a".into()),
        hop_version: Some("TLSv1.3".into()),
        hop_cipher: Some("TLS_AES_128_GCM_SHA256".into()),
        hop_group: Some("X25519MLKEM768".into()),
        listener: "[2001:db8::1]:3128".parse().unwrap(),
        host: Some(Destination::Name(Host::parse("a.example").unwrap())),
        port: Some(443),
        outcome: "allowed",
        code: "closed_by_client",
        would_deny: Some("sni_denied"),
        revoked_by: Some("auth_failed"),
        hello: Some(Box::new(HelloRecord {
            sni: Some("a\"\\/\u{8}\u{1f}\u{7f}é\u{2028}".into()),
            alpn: Protocols::of([&b"h2"[..], b"\"\0"].into_iter()),
            hello_bytes: u32::MAX,
            hello_records: 0,
            ech: true,
            ja4: fingerprint(),
            tls_offered: Versions::of([TlsVersion::Tls13, TlsVersion::Ssl30].into_iter()),
            hello_ms: Micros(u32::MAX),
        })),
        hello_retry: Some(false),
        server: Some(ServerRecord {
            tls_version: "1.3",
            cipher: Named {
                number: 0x1301,
                name: Some("TLS_AES_128_GCM_SHA256"),
            },
            group: Some(Named {
                number: 0x1d,
                name: None,
            }),
        }),
        upstream: "203.0.113.80:443".parse().ok(),
        egress: "[2001:db8::10]:0".parse().ok(),
        dns_ms: Some(Micros(0)),
        connect_ms: Some(Micros(1)),
        warm: Some(true),
        redialled: Some(true),
        first_byte_ms: Some(0),
        max_gap_ms: Some(u32::MAX),
        duration_ms: 2.0,
        bytes_up: u64::MAX,
        bytes_down: 10,
        spliced_up: 0,
        spliced_down: 9_999,
        error: Some("line\nend\t\r".into()),
        cut: Some(true),
        count: Some(u64::MAX),
        first: Some(OffsetDateTime::UNIX_EPOCH),
        policy: "hash".into(),
    };
    let wanted = concat!(
        r#"{"ts":"2026-11-18T11:06:40.000120Z","event":"tunnel","id":"100000000-0","user":"batch-7","auth":"both","#,
        r#""client":"192.0.2.255:65535","via":"198.51.100.10:4711","#,
        r#""certificate":"0000000000000000000000000000000000000000000000000000000000000000","certificate_serial":"0a","#,
        r#""hop_version":"TLSv1.3","hop_cipher":"TLS_AES_128_GCM_SHA256","hop_group":"X25519MLKEM768","#,
        r#""listener":"[2001:db8::1]:3128","host":"a.example","port":443,"#,
        r#""outcome":"allowed","code":"closed_by_client","would_deny":"sni_denied","revoked_by":"auth_failed","#,
        "\"sni\":\"a\\\"\\\\/\\b\\u001f\u{7f}é\u{2028}\",",
        r#""alpn":["h2","\\\"\\x00"],"hello_bytes":4294967295,"hello_records":0,"ech":true,"#,
        r#""ja4":"t13d1517h2_8daaf6152771_cb7bf5808d99","tls_offered":["1.3","SSL 3.0"],"hello_ms":4294967.295,"#,
        r#""hello_retry":false,"tls_version":"1.3","cipher":"TLS_AES_128_GCM_SHA256","group":"0x001d","#,
        r#""upstream":"203.0.113.80:443","egress":"[2001:db8::10]:0","dns_ms":0.0,"connect_ms":0.001,"warm":true,"redialled":true,"#,
        r#""first_byte_ms":0,"max_gap_ms":4294967295,"duration_ms":2.0,"bytes_up":18446744073709551615,"#,
        r#""bytes_down":10,"spliced_up":0,"spliced_down":9999,"error":"line\nend\t\r","cut":true,"count":18446744073709551615,"#,
        r#""first":"1970-01-01T00:00:00.000000Z","policy":"hash"}"#,
        "\n",
    );
    assert_eq!(printed(&record), wanted);
}

/// However long its texts were. What is counted: a host of 253 octets, the longest of each other text, with every escape.
#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn the_record_of_a_refusal_has_a_bound() {
    let name = format!("{0}.{0}.{0}.{0}", "x".repeat(62));
    let hello = HelloRecord {
        sni: Some("s".repeat(255).into()),
        alpn: Protocols::of([&[0xff; 64][..]; 9].into_iter()),
        hello_bytes: u32::MAX,
        hello_records: 128,
        ech: true,
        ja4: fingerprint(),
        tls_offered: Versions::of(VERSIONS.iter().copied()),
        hello_ms: Micros(u32::MAX),
    };
    let longest = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535";
    let mut record = TunnelRecord {
        id: TunnelId {
            start: u64::MAX,
            number: u64::MAX,
        },
        user: UserId::parse(&"u".repeat(64)),
        client: longest.parse().ok(),
        auth: Some("certificate"),
        via: longest.parse().ok(),
        certificate: Some(Digest::ZEROS),
        certificate_serial: Some("a".repeat(64).into()),
        hop_version: Some("v".repeat(64).into()),
        hop_cipher: Some("c".repeat(64).into()),
        hop_group: Some("g".repeat(64).into()),
        listener: longest.parse().unwrap(),
        host: Some(Destination::Name(Host::parse(&name).unwrap())),
        port: Some(65_535),
        code: "client_hello_malformed",
        would_deny: Some("sni_mismatch"),
        hello: Some(Box::new(hello)),
        upstream: longest.parse().ok(),
        egress: longest.parse().ok(),
        dns_ms: Some(Micros(u32::MAX)),
        connect_ms: Some(Micros(u32::MAX)),
        duration_ms: 1e9 / 3.0,
        error: Some("\u{1}".repeat(5_000).into()),
        count: Some(u64::MAX),
        first: Some(OffsetDateTime::UNIX_EPOCH),
        policy: "f".repeat(64).into(),
        ..bare()
    };
    record.cut_texts();
    let line: Value = serde_json::from_str(&printed(&record)).unwrap();
    assert_eq!((&line["cut"], &line["host"]), (&json!(true), &json!(name)));
    assert_eq!(line["sni"], json!(format!("{}…", "s".repeat(128))));
    assert_eq!(
        line["alpn"],
        Value::Null,
        "the first one is too long already"
    );
    let in_the_chain =
        printed(&record).len() + r#","seq":18446744073709551615,"prev":"""#.len() + 64;
    assert!(in_the_chain <= 2_944, "{in_the_chain}");

    let mut short = TunnelRecord {
        error: Some("why".into()),
        ..bare()
    };
    short.cut_texts();
    assert_eq!((short.cut, short.error.as_deref()), (None, Some("why")));
}

#[test]
fn unknown_facts_are_absent() {
    let wanted = concat!(
        r#"{"ts":"1970-01-01T00:00:00.000000Z","event":"tunnel","id":"0-0","client":"192.0.2.1:1","#,
        r#""listener":"192.0.2.1:1","outcome":"denied","code":"head_timeout","duration_ms":0.5,"bytes_up":0,"#,
        r#""bytes_down":0,"spliced_up":0,"spliced_down":0,"policy":"hash"}"#,
        "\n",
    );
    assert_eq!(printed(&bare()), wanted);

    let hello = HelloRecord {
        sni: None,
        alpn: Protocols::of(std::iter::empty()),
        hello_bytes: 1,
        hello_records: 1,
        ech: false,
        ja4: fingerprint(),
        tls_offered: Versions::default(),
        hello_ms: Micros(1),
    };
    let cipher = Named {
        number: 0xc02f,
        name: None,
    };
    let server = ServerRecord {
        tls_version: "1.2",
        cipher,
        group: None,
    };
    let line = printed(&TunnelRecord {
        hello: Some(Box::new(hello)),
        server: Some(server),
        ..bare()
    });
    let part = concat!(
        r#","code":"head_timeout","hello_bytes":1,"hello_records":1,"ech":false,"#,
        r#""ja4":"t13d1517h2_8daaf6152771_cb7bf5808d99","tls_offered":[],"hello_ms":0.001,"#,
        r#""tls_version":"1.2","cipher":"0xc02f","duration_ms":"#,
    );
    assert!(line.contains(part), "{line}");
}

proptest! {
    #[test]
    fn a_record_equals_the_output_of_serde_json(record in records()) {
        let field = |(name, value): (&str, Option<Value>)| value.map(|value| format!("{}:{value}", json!(name)));
        let fields: Vec<String> = promised(&record).into_iter().filter_map(field).collect();
        prop_assert_eq!(printed(&record), format!("{{{}}}\n", fields.join(",")));
    }
}

fn printed(record: &TunnelRecord) -> String {
    // Behind another line, as most are.
    let mut lines = b"{}\n".to_vec();
    line::append(record, &mut lines);
    assert!(lines.starts_with(b"{}\n"));
    let line = String::from_utf8(lines.split_off(3)).unwrap();
    assert!(
        serde_json::from_str::<Value>(&line).is_ok_and(|value| value.is_object()),
        "{line}"
    );
    line
}

/// Names and values in order.
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn promised(record: &TunnelRecord) -> Vec<(&'static str, Option<Value>)> {
    let text = |value: &dyn Display| json!(value.to_string());
    let named = |named: Named| {
        named.name.map_or_else(
            || text(&format!("0x{:04x}", named.number)),
            |name| json!(name),
        )
    };
    let optional = |value: Option<u32>| value.map(|value| json!(value));
    let milliseconds = |took: Option<Micros>| took.map(|took| json!(took.milliseconds()));
    let (hello, server) = (record.hello.as_deref(), record.server);
    let names = |hello: &HelloRecord| hello.alpn.names().map(str::to_owned).collect::<Vec<_>>();
    let versions = |hello: &HelloRecord| {
        hello
            .tls_offered
            .each()
            .map(|it| it.as_str())
            .collect::<Vec<_>>()
    };
    vec![
        ("ts", Some(text(&time_text(record.ts)))),
        ("event", Some(json!(record.event))),
        ("id", Some(text(&record.id))),
        ("user", record.user.as_ref().map(|user| text(user))),
        ("auth", record.auth.map(|auth| text(&auth))),
        ("client", record.client.map(|client| text(&client))),
        ("via", record.via.map(|via| text(&via))),
        (
            "certificate",
            record.certificate.map(|digest| text(&digest)),
        ),
        ("listener", Some(text(&record.listener))),
        ("host", record.host.as_ref().map(|host| text(host))),
        ("port", record.port.map(|port| json!(port))),
        ("outcome", Some(json!(record.outcome))),
        ("code", Some(json!(record.code))),
        ("would_deny", record.would_deny.map(|code| json!(code))),
        ("revoked_by", record.revoked_by.map(|code| json!(code))),
        (
            "sni",
            hello
                .and_then(|hello| hello.sni.as_ref())
                .map(|name| text(name)),
        ),
        (
            "alpn",
            hello
                .filter(|hello| hello.alpn.names().next().is_some())
                .map(|hello| json!(names(hello))),
        ),
        ("hello_bytes", hello.map(|hello| json!(hello.hello_bytes))),
        (
            "hello_records",
            hello.map(|hello| json!(hello.hello_records)),
        ),
        ("ech", hello.map(|hello| json!(hello.ech))),
        ("ja4", hello.map(|hello| text(&hello.ja4))),
        ("tls_offered", hello.map(|hello| json!(versions(hello)))),
        ("hello_ms", milliseconds(hello.map(|hello| hello.hello_ms))),
        (
            "hello_retry",
            record.hello_retry.map(|retried| json!(retried)),
        ),
        (
            "tls_version",
            server.map(|server| json!(server.tls_version)),
        ),
        ("cipher", server.map(|server| named(server.cipher))),
        ("group", server.and_then(|server| server.group).map(named)),
        ("upstream", record.upstream.map(|address| text(&address))),
        ("egress", record.egress.map(|address| text(&address))),
        ("dns_ms", milliseconds(record.dns_ms)),
        ("connect_ms", milliseconds(record.connect_ms)),
        ("warm", record.warm.map(|warm| json!(warm))),
        ("redialled", record.redialled.map(|again| json!(again))),
        ("first_byte_ms", optional(record.first_byte_ms)),
        ("max_gap_ms", optional(record.max_gap_ms)),
        ("duration_ms", Some(json!(record.duration_ms))),
        ("bytes_up", Some(json!(record.bytes_up))),
        ("bytes_down", Some(json!(record.bytes_down))),
        ("spliced_up", Some(json!(record.spliced_up))),
        ("spliced_down", Some(json!(record.spliced_down))),
        ("error", record.error.as_ref().map(|error| text(error))),
        ("cut", record.cut.map(|cut| json!(cut))),
        ("count", record.count.map(|count| json!(count))),
        ("first", record.first.map(|first| text(&time_text(first)))),
        ("policy", Some(text(&record.policy))),
    ]
}

/// Such a record is about nobody in particular, so the first one's name, address and errors would be wrong.
#[test]
fn a_summed_record_has_no_fields_of_a_single_client() {
    let address: SocketAddr = "203.0.113.7:443".parse().unwrap();
    let one = TunnelRecord {
        user: UserId::parse("alice"),
        host: Some(Destination::Address(address.ip())),
        port: Some(443),
        would_deny: Some("host_denied"),
        hello_retry: Some(true),
        server: Some(ServerRecord {
            tls_version: "1.3",
            cipher: Named {
                number: 0x1301,
                name: None,
            },
            group: None,
        }),
        upstream: Some(address),
        egress: Some(address),
        dns_ms: Some(Duration::from_millis(1).into()),
        connect_ms: Some(Duration::from_millis(1).into()),
        error: Some("no answer".into()),
        cut: Some(true),
        ..bare()
    };
    let nobody = TunnelRecord {
        client: None,
        ..bare()
    };
    let text = |record: &TunnelRecord| {
        let mut lines = Vec::new();
        line::append(record, &mut lines);
        String::from_utf8(lines).unwrap()
    };
    assert_eq!(text(&one.of_several_clients()), text(&nobody));
}

/// A record in which all that is optional is absent; other tests fill in what they need.
pub(in crate::audit) fn bare() -> TunnelRecord {
    let address = "192.0.2.1:1".parse().unwrap();
    TunnelRecord {
        ts: OffsetDateTime::UNIX_EPOCH,
        event: "tunnel",
        id: TunnelId {
            start: 0,
            number: 0,
        },
        user: None,
        client: Some(address),
        auth: None,
        via: None,
        certificate: None,
        certificate_serial: None,
        hop_version: None,
        hop_cipher: None,
        hop_group: None,
        listener: address,
        host: None,
        port: None,
        outcome: "denied",
        code: "head_timeout",
        would_deny: None,
        revoked_by: None,
        hello: None,
        hello_retry: None,
        server: None,
        upstream: None,
        egress: None,
        dns_ms: None,
        connect_ms: None,
        warm: None,
        redialled: None,
        first_byte_ms: None,
        max_gap_ms: None,
        duration_ms: 0.5,
        bytes_up: 0,
        bytes_down: 0,
        spliced_up: 0,
        spliced_down: 0,
        error: None,
        cut: None,
        count: None,
        first: None,
        policy: "hash".into(),
    }
}

prop_compose! {
    fn records()(
        (ts, start, number, user, [client, listener], via) in
            (times(), numbers(), numbers(), option::of("[A-Za-z0-9._-]{1,64}"), any::<[SocketAddr; 2]>(), any::<Option<SocketAddr>>()),
        (host, port, [outcome, code], would_deny) in
            (option::of(destinations()), any::<Option<u16>>(), [words(), words()], option::of(words())),
        (hello, hello_retry, server) in (option::of(hellos()), any::<Option<bool>>(), option::of(answers())),
        [upstream, egress] in any::<[Option<SocketAddr>; 2]>(),
        [dns, connect, first_byte_ms, max_gap_ms] in any::<[Option<u32>; 4]>(),
        duration_ms in prop_oneof![proptest::num::f64::ANY, numbers().prop_map(|micros| micros as f64 / 1_000.0)],
        [bytes_up, bytes_down, spliced_up, spliced_down] in [numbers(), numbers(), numbers(), numbers()],
        (error, policy, cut) in (option::of(texts()), texts(), any::<bool>()),
    ) -> TunnelRecord {
        TunnelRecord {
            ts, event: "tunnel", id: TunnelId { start, number }, user: user.map(|name| UserId::parse(&name).unwrap()),
            auth: via.map(|_| "basic"), client: Some(client), via, certificate: via.map(|_| Digest::ZEROS), certificate_serial: None, hop_version: None, hop_cipher: None, hop_group: None, listener, host, port, outcome, code, would_deny, revoked_by: would_deny, hello: hello.map(Box::new), hello_retry, server,
            upstream, egress, dns_ms: dns.map(Micros), connect_ms: connect.map(Micros), warm: hello_retry, redialled: cut.then_some(cut), first_byte_ms, max_gap_ms,
            duration_ms, bytes_up, bytes_down, spliced_up, spliced_down,
            error: error.map(Into::into), cut: cut.then_some(cut), count: cut.then_some(bytes_up), first: cut.then_some(ts),
            policy: policy.into(),
        }
    }
}

prop_compose! {
    fn hellos()(
        sni in option::of(texts()),
        names in vec(texts(), 0..4),
        [hello_bytes, hello_records, took] in any::<[u32; 3]>(),
        ech in any::<bool>(),
        offered in vec(select(VERSIONS), 0..7),
    ) -> HelloRecord {
        HelloRecord {
            sni: sni.map(Into::into),
            alpn: Protocols::of(names.iter().map(String::as_bytes)),
            hello_bytes, hello_records, ech, ja4: fingerprint(),
            tls_offered: Versions::of(offered.into_iter()),
            hello_ms: Micros(took),
        }
    }
}

prop_compose! {
    fn answers()(
        tls_version in words(),
        numbers in any::<[u16; 2]>(),
        names in [option::of(words()), option::of(words())],
        has_group in any::<bool>(),
    ) -> ServerRecord {
        let ([cipher, group], [cipher_name, group_name]) = (numbers, names);
        let group = has_group.then_some(Named { number: group, name: group_name });
        ServerRecord { tls_version, cipher: Named { number: cipher, name: cipher_name }, group }
    }
}

/// From the year 0 to 9999, to the nanosecond.
fn times() -> impl Strategy<Value = OffsetDateTime> {
    let seconds = -62_167_219_200_i64..253_402_300_800;
    (seconds, 0..1_000_000_000_i128).prop_map(|(seconds, nanoseconds)| {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(seconds) * 1_000_000_000 + nanoseconds)
            .unwrap()
    })
}

/// Of every length.
fn numbers() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..=64_u32)
        .prop_map(|(number, bits)| number.checked_shr(bits).unwrap_or_default())
}

fn destinations() -> impl Strategy<Value = Destination> {
    let names =
        "[a-z0-9]{1,40}\\.example".prop_map(|name| Destination::Name(Host::parse(&name).unwrap()));
    prop_oneof![any::<IpAddr>().prop_map(Destination::Address), names]
}

fn words() -> impl Strategy<Value = &'static str> {
    select(vec![
        "",
        "denied",
        "closed_by_client",
        "SSL 3.0",
        "TLS_AES_128_GCM_SHA256",
    ])
}

/// Plain and odd ones.
fn texts() -> impl Strategy<Value = String> {
    let special = select(vec!['"', '\\', '/', '\u{7f}', '\u{2028}']);
    let odd = vec(
        prop_oneof![(0..b' ').prop_map(char::from), special, any::<char>()],
        0..40,
    );
    prop_oneof![
        "[ -~]{0,80}",
        odd.prop_map(String::from_iter),
        "[a-z ]{0,40}[\"\\\\\n]?[a-z ]{0,40}"
    ]
}

/// Chromium's.
fn fingerprint() -> Ja4 {
    let hello = include_bytes!("../../../tests/fixtures/clienthello/chromium156.bin");
    match client_hello::parse(hello, 65_536) {
        Ok(Parsed::Complete { value, .. }) => Ja4::of(&value),
        _ => unreachable!("the recorded hello is whole"),
    }
}

const VERSIONS: &[TlsVersion] = &[
    TlsVersion::Ssl30,
    TlsVersion::Tls10,
    TlsVersion::Tls11,
    TlsVersion::Tls12,
    TlsVersion::Tls13,
];
