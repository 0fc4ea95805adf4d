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
