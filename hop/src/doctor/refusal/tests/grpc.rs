//! gRPC's status has the verdicts of REST.

use super::*;

/// A field of a message that has a length.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = value.len();
    while length > 127 {
        bytes.push(u8::try_from(length & 127).unwrap() | 128);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    [bytes, value.to_vec()].concat()
}

fn grpc(
    code: &str,
    message: &str,
    reason: Option<&str>,
    metadata: &[(&str, &str)],
    padded: bool,
) -> Option<Refusal> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    let entries = metadata.iter().map(|(name, value)| {
        field(
            3,
            &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat(),
        )
    });
    let info: Vec<u8> = [
        field(1, reason.unwrap_or("").as_bytes()),
        field(2, b"googleapis.com"),
    ]
    .into_iter()
    .chain(entries)
    .flatten()
    .collect();
    let help = [
        field(1, b"type.googleapis.com/google.rpc.Help"),
        field(2, b"x"),
    ]
    .concat();
    let any = [
        field(1, b"type.googleapis.com/google.rpc.ErrorInfo"),
        field(2, &info),
    ]
    .concat();
    let status = [
        vec![8, 7],
        field(2, b"text"),
        vec![0x2d, 0, 0, 0, 0],
        field(3, &help),
        field(3, &any),
    ]
    .concat();
    let details = if padded {
        STANDARD.encode(&status)
    } else {
        STANDARD_NO_PAD.encode(&status)
    };
    let answer = Answer {
        status: 200,
        grpc_status: Some(code),
        grpc_message: Some(message),
        grpc_details: reason.map(|_| details.as_str()),
        ..Answer::default()
    };
    read(Provider::Gemini, &answer)
}

#[test]
fn grpc_has_the_verdicts_of_rest() {
    let metadata = [
        ("consumer", "projects/9"),
        ("service", "generativelanguage.googleapis.com"),
    ];
    for padded in [true, false] {
        for verdict in google::ALL {
            let reason = verdict.code.to_ascii_uppercase();
            let Some(known) = google_reason(&reason) else {
                continue;
            };
            let refusal = grpc("7", "no", Some(&reason), &metadata, padded).unwrap();
            assert_eq!(refusal.verdict, known);
            assert_eq!(refusal.values.get("project"), Some("9"));
        }
        let text = "The originating IP address of the call %28203.0.113.7%29 violates";
        let refusal = grpc(
            "7",
            text,
            Some("API_KEY_IP_ADDRESS_BLOCKED"),
            &metadata,
            padded,
        )
        .unwrap();
        assert_eq!(refusal.seen, Some("203.0.113.7".parse().unwrap()));
    }
    assert_eq!(grpc("0", "", None, &[], true), None);
    assert_eq!(
        grpc("16", "", None, &[], true).unwrap().verdict,
        google::UNAUTHENTICATED
    );
    assert_eq!(
        grpc("14", "", None, &[], true).unwrap().verdict,
        google::UNAVAILABLE
    );
    let leaked = "Your API key was reported as%20leaked%2";
    assert_eq!(
        grpc("7", leaked, None, &[], true).unwrap().verdict,
        google::API_KEY_LEAKED
    );
}

/// The verdict of a word that is a reason of Google's, and of no other word.
fn google_reason(reason: &str) -> Option<&'static Verdict> {
    let body = format!(r#"{{"error":{{"details":[{{"reason":"{reason}"}}]}}}}"#);
    let answer = Answer {
        status: 418,
        body: body.as_bytes(),
        ..Answer::default()
    };
    read(Provider::Gemini, &answer)
        .map(|refusal| refusal.verdict)
        .filter(|verdict| *verdict != google::REFUSED)
}

#[test]
fn each_code_of_grpc_has_the_status_that_google_maps_it_to() {
    for (code, wanted) in [
        ("1", Some(("google_unavailable", "499"))),
        ("2", Some(("google_unavailable", "500"))),
        ("3", None),
        (" 4 ", Some(("google_unavailable", "504"))),
        ("5", None),
        ("6", None),
        ("7", Some(("google_permission_denied", "403"))),
        ("8", Some(("rate_limit_exceeded", "429"))),
        ("9", None),
        ("10", None),
        ("11", None),
        ("12", Some(("google_refused", "501"))),
        ("13", Some(("google_unavailable", "500"))),
        ("14", Some(("google_unavailable", "503"))),
        ("16", Some(("google_unauthenticated", "401"))),
        ("99", Some(("google_unavailable", "500"))),
    ] {
        let refusal = grpc(code, "x", None, &[], true);
        let found = refusal.as_ref().map(|refusal| {
            let status = refusal.values.get("status").unwrap_or_default();
            (refusal.verdict.code, status)
        });
        assert_eq!(found, wanted, "{code}");
    }
}

/// What a trailer of these fields says.
fn details_of(fields: &[Vec<u8>]) -> protobuf::Details {
    use base64::Engine;
    let trailer = base64::engine::general_purpose::STANDARD.encode(fields.concat());
    protobuf::details(&trailer)
}

fn any(kind: &str, reason: &str) -> Vec<u8> {
    let info = field(1, reason.as_bytes());
    let any = [
        field(
            1,
            format!("type.googleapis.com/google.rpc.{kind}").as_bytes(),
        ),
        field(2, &info),
    ];
    field(3, &any.concat())
}

#[test]
fn the_first_reason_of_an_error_info_counts_behind_fields_of_any_type() {
    let double = [vec![0x29], vec![0; 8]].concat();
    let float = [vec![0x2d], vec![0; 4]].concat();
    let long = vec![0x30, 0x81, 0x80, 0x01];
    let found = details_of(&[
        double,
        float,
        long,
        any("RequestInfo", "OTHER"),
        any("ErrorInfo", "FIRST"),
        any("ErrorInfo", "SECOND"),
        field(2, b"text"),
    ]);
    assert_eq!(
        (found.reason.as_str(), found.message.as_str()),
        ("FIRST", "text")
    );
    // A length of two bytes.
    let reason = "R".repeat(300);
    assert_eq!(details_of(&[any("ErrorInfo", &reason)]).reason, reason);
    // The message of the status counts where the trailer of the message is missing.
    use base64::Engine;
    let message = field(2, b"Your API key was reported as leaked");
    let details = base64::engine::general_purpose::STANDARD.encode(message);
    let answer = Answer {
        status: 200,
        grpc_status: Some("7"),
        grpc_details: Some(&details),
        ..Answer::default()
    };
    let refusal = read(Provider::Gemini, &answer).unwrap();
    assert_eq!(refusal.verdict, google::API_KEY_LEAKED);
}

#[test]
fn only_metadata_that_is_harmless_is_kept() {
    let of = |entries: &[(&str, &str)]| {
        let mut found = protobuf::Details::default();
        for (name, value) in entries {
            found.add(name, value);
        }
        [found.service, found.project, found.caller].join("|")
    };
    let long = "a".repeat(129);
    for (entries, wanted) in [
        (&[("consumer", "projects/9")][..], "|9|"),
        (&[("consumer", "project_number:9")], "|9|"),
        (&[("consumer", "api_key:AIza")], "||"),
        (&[("consumer", "projects/a b")], "||"),
        (&[("consumer", "projects/$(x)")], "||"),
        (&[("service", long.as_str())], "||"),
        (&[("service", &long[..128])], &format!("{}||", &long[..128])),
        (&[("apiName", "a.example")], "a.example||"),
        (
            &[("service", "s.example"), ("apiName", "a.example")],
            "s.example||",
        ),
        (
            &[("apiName", "a.example"), ("service", "s.example")],
            "s.example||",
        ),
        (&[("callerIp", "203.0.113.4")], "||203.0.113.4"),
        (&[("caller_ip", "203.0.113.4")], "||203.0.113.4"),
        (&[("clientIp", "203.0.113.4")], "||203.0.113.4"),
        (
            &[("clientIp", "203.0.113.4"), ("callerIp", "")],
            "||203.0.113.4",
        ),
        (&[("other", "203.0.113.4")], "||"),
    ] {
        assert_eq!(of(entries), wanted, "{entries:?}");
    }
}
