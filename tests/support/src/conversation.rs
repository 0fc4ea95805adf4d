//! A model of the greeting: both sides' bytes in any pieces, from the first byte after the 200,
//! through the daemon's own parsers and judgements in the order of a tunnel, but without sockets. A
//! witness parses the passed bytes again, with a record reader of its own, and panics at the first
//! byte that must not pass (RFC 8446, sections 2, 4.1.4, 4.2.10, 5.1 and D.4).

use sealway::authority::Authority;
use sealway::greeting::GreetingError;
use sealway::greeting::negotiation::{Negotiation, Outcome};
use sealway::policy::guard::AddressGuard;
use sealway::policy::{Authorised, NameRules, Policy, Verdict};
use sealway::wire::Parsed;
use sealway::wire::client_hello::{self, TlsVersion};

use crate::witness::Witness;

/// The operator's settings, and the allowed destination.
pub struct Rules {
    policy: Policy,
    authorised: Authorised,
    pub min_tls: TlsVersion,
    pub ech_allowed: bool,
    pub hello_bytes_max: usize,
}

/// The bytes that one side sends in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub side: Side,
    pub bytes: Vec<u8>,
}

/// The sender; its number is its index in pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Upstream,
}

/// The result of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    /// How many bytes of each side have reached the other.
    pub passed: [usize; 2],
    pub verdict: Answer,
}

/// The state of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing is decided.
    Open,
    /// After a ServerHello everything passes, after the fatal alert nothing does.
    Done(Outcome),
    /// Nothing passes any more.
    Refused(String),
}

impl Rules {
    /// The name in the recordings, and the settings that the bits of `choice` select.
    pub fn chosen_by(choice: u8) -> Rules {
        let bit = |number: u8| choice >> number & 1 == 1;
        let (min_tls, ech_allowed) = (
            if bit(0) {
                TlsVersion::Tls13
            } else {
                TlsVersion::Tls12
            },
            !bit(1),
        );
        let names = NameRules::parse([HOST]).expect("a rule");
        let policy = Policy::new(names, AddressGuard::new(Vec::new()), min_tls, ech_allowed);
        let asked = Authority::parse(&format!("{HOST}:443")).expect("an authority");
        let Verdict::Allow(authorised) = policy.judge(asked, None) else {
            panic!("{HOST} is allowed")
        };
        let hello_bytes_max = if bit(2) { 2_048 } else { 65_536 };
        Rules {
            policy,
            authorised,
            min_tls,
            ech_allowed,
            hello_bytes_max,
        }
    }

    /// Bytes of the upstream before the first hello wait for it in the kernel. Whether the client
    /// has sent more by then is a matter of timing; here it has.
    fn as_they_are_read(&self, turns: &[Turn]) -> Vec<Turn> {
        let (mut read, mut client, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        let mut turns = turns.iter().peekable();
        while let Some(turn) = turns.next() {
            match turn.side {
                Side::Client => client.extend_from_slice(&turn.bytes),
                Side::Upstream
                    if matches!(
                        client_hello::parse(&client, self.hello_bytes_max),
                        Ok(Parsed::Incomplete)
                    ) =>
                {
                    waiting.push(turn.clone());
                    continue;
                }
                Side::Upstream => {}
            }
            read.push(turn.clone());
            let is_greeted = !matches!(
                client_hello::parse(&client, self.hello_bytes_max),
                Ok(Parsed::Incomplete)
            );
            if is_greeted && turns.peek().is_none_or(|next| next.side == Side::Upstream) {
                read.append(&mut waiting);
            }
        }
        read
    }

    /// Plays a conversation to its end; panics if a byte passes that must not.
    pub fn play(&self, turns: &[Turn]) -> Course {
        let mut talk = Talk {
            rules: self,
            said: [Vec::new(), Vec::new()],
            course: Course {
                passed: [0, 0],
                verdict: Answer::Open,
            },
            negotiation: None,
            witness: Witness::of(self),
        };
        for turn in turns {
            talk.said[turn.side as usize].extend_from_slice(&turn.bytes);
            talk.goes_on();
        }
        talk.course
    }
}

/// The same bytes in as few pieces as there are changes of sides.
pub fn in_whole_turns(turns: &[Turn]) -> Vec<Turn> {
    let mut whole: Vec<Turn> = Vec::new();
    for turn in turns.iter().filter(|turn| !turn.bytes.is_empty()) {
        match whole.last_mut() {
            Some(last) if last.side == turn.side => last.bytes.extend_from_slice(&turn.bytes),
            _ => whole.push(turn.clone()),
        }
    }
    whole
}

/// The same bytes in the same order give the same verdict in any pieces, and a refusal comes no
/// later.
pub fn pieces_do_not_matter(rules: &Rules, turns: &[Turn]) -> Course {
    let course = rules.play(turns);
    let turns = rules.as_they_are_read(turns);
    let (pieces, whole) = (rules.play(&turns), rules.play(&in_whole_turns(&turns)));
    assert_eq!(
        pieces.verdict, whole.verdict,
        "the pieces changed the verdict"
    );
    for side in [0, 1] {
        match whole.verdict {
            // Bytes before a refused record may have passed before that record arrived.
            Answer::Refused(_) => assert!(whole.passed[side] <= pieces.passed[side]),
            _ => assert_eq!(
                whole.passed[side], pieces.passed[side],
                "the pieces changed what passes"
            ),
        }
    }
    course
}

/// Reads turns in the fuzzer's form: a byte for side (its lowest bit) and length, then that many
/// bytes.
pub fn turns_of(mut input: &[u8]) -> Vec<Turn> {
    let mut turns = Vec::new();
    while let [head, rest @ ..] = input {
        let (bytes, behind) = rest.split_at(usize::from(head >> 1).min(rest.len()));
        let side = if head & 1 == 0 {
            Side::Client
        } else {
            Side::Upstream
        };
        turns.push(Turn {
            side,
            bytes: bytes.to_vec(),
        });
        input = behind;
    }
    turns
}

/// A running conversation.
struct Talk<'a> {
    rules: &'a Rules,
    said: [Vec<u8>; 2],
    course: Course,
    /// None before the first hello is judged.
    negotiation: Option<Negotiation<'a>>,
    witness: Witness<'a>,
}

impl Talk<'_> {
    /// The reaction of a tunnel to received bytes.
    fn goes_on(&mut self) {
        let result = match self.course.verdict {
            Answer::Open => self.greets().and_then(|is_greeted| {
                if is_greeted {
                    self.negotiates()
                } else {
                    Ok(())
                }
            }),
            Answer::Done(Outcome::ClientAlert(_) | Outcome::UpstreamAlert(_)) => Ok(()),
            Answer::Done(Outcome::Negotiated(_)) => {
                self.course.passed = [self.said[0].len(), self.said[1].len()];
                Ok(())
            }
            Answer::Refused(_) => Ok(()),
        };
        if let Err(error) = result {
            self.course.verdict = Answer::Refused(format!("{error:?}"));
        }
    }

    /// The first hello; no byte of the upstream is read before it.
    fn greets(&mut self) -> Result<bool, GreetingError> {
        if self.negotiation.is_some() {
            return Ok(true);
        }
        let rules = self.rules;
        let Parsed::Complete { value, consumed } =
            client_hello::parse(&self.said[0], rules.hello_bytes_max)?
        else {
            return Ok(false);
        };
        let judged = rules.policy.judge_hello(&rules.authorised, value)?;
        let early_data = judged.hello.has_early_data();
        self.negotiation = Some(Negotiation::new(
            &rules.policy,
            &rules.authorised,
            rules.hello_bytes_max,
            early_data,
        ));
        self.passes(Side::Client, consumed);
        Ok(true)
    }

    fn negotiates(&mut self) -> Result<(), GreetingError> {
        for side in [Side::Client, Side::Upstream] {
            let pending = &self.said[side as usize][self.course.passed[side as usize]..];
            let Some(negotiation) = &mut self.negotiation else {
                return Ok(());
            };
            let said = says(negotiation, side, pending);
            if said.is_err() {
                assert!(
                    says(negotiation, side, pending).is_err(),
                    "what was refused passes when it is asked again"
                );
            }
            let outcome = negotiation.outcome();
            self.passes(side, said?);
            if let Some(outcome) = outcome {
                self.witness.is_told(outcome);
                self.course.verdict = Answer::Done(outcome);
                if let Outcome::Negotiated(_) = outcome {
                    self.course.passed = [self.said[0].len(), self.said[1].len()];
                }
                return Ok(());
            }
        }
        Ok(())
    }

    fn passes(&mut self, side: Side, len: usize) {
        let from = self.course.passed[side as usize];
        let said = &self.said[side as usize];
        assert!(from + len <= said.len(), "more passed than was said");
        match side {
            Side::Client => self.witness.sees_upstream(&said[from..from + len]),
            Side::Upstream => self.witness.sees_client(&said[from..from + len]),
        }
        self.course.passed[side as usize] = from + len;
    }
}

fn says(
    negotiation: &mut Negotiation<'_>,
    side: Side,
    bytes: &[u8],
) -> Result<usize, GreetingError> {
    match side {
        Side::Client => negotiation.client_says(bytes),
        Side::Upstream => negotiation.upstream_says(bytes),
    }
}

/// The only name that may be greeted.
pub const HOST: &str = "generativelanguage.googleapis.com";
