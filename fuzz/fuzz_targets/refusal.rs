//! Any answer of a provider has one verdict of the table or none; the text of the finding is short, without a control
//! character, and the same each time.
//!
//! One execution reads one answer of one provider, at most two, so that the fuzzer learns from each alone. A small first
//! byte chooses provider and status; any other input, such as a fixture, is a body whose length chooses them.

#![no_main]

use libfuzzer_sys::fuzz_target;

// As modules: the package of the hop would bring the C code of its TLS library into this build.
#[path = "../../hop/src/doctor"]
#[allow(dead_code, reason = "the target calls the readers only")]
mod doctor {
    pub mod provider;
    pub mod refusal;
    pub mod verdict;
}

use doctor::provider::Provider;
use doctor::refusal::{Answer, read};
use doctor::verdict::Verdict;

fuzz_target!(|data: &[u8]| {
    let choices = Provider::ALL.len() * STATUSES.len();
    let (choice, body) = match data.split_first() {
        Some((first, body)) if usize::from(*first) < choices => (usize::from(*first), body),
        _ => (data.len() % choices, data),
    };
    let provider = Provider::ALL[choice % Provider::ALL.len()];
    let answer = Answer {
        status: STATUSES[choice / Provider::ALL.len()],
        body,
        ..Answer::default()
    };
    check(provider, &answer);
    let Ok(text) = std::str::from_utf8(body) else {
        return;
    };
    // The same bytes in gRPC's trailers and in the header of AWS.
    match provider {
        Provider::Gemini | Provider::Vertex => {
            let trailers = Answer {
                status: 200,
                grpc_status: Some("7"),
                grpc_message: Some(text),
                grpc_details: Some(text),
                ..Answer::default()
            };
            check(provider, &trailers);
        }
        Provider::Bedrock => {
            let error_type = Some(text);
            check(
                provider,
                &Answer {
                    error_type,
                    ..answer
                },
            );
        }
        _ => {}
    }
});

fn check(provider: Provider, answer: &Answer<'_>) {
    let refusal = read(provider, answer);
    assert_eq!(refusal, read(provider, answer));
    let Some(refusal) = refusal else {
        return;
    };
    assert!(Verdict::all().any(|known| known == refusal.verdict));
    for text in [
        refusal.values.fill(refusal.verdict.cause),
        refusal.values.fill(refusal.verdict.cure),
        refusal.values.fill_command(refusal.verdict.command),
    ] {
        let control = |c: char| c.is_control() && c != '\n';
        assert!(text.len() < 8000 && !text.contains(control), "{text:?}");
    }
}

const STATUSES: [u16; 6] = [200, 400, 401, 403, 429, 503];
