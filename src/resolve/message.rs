//! Extracts the addresses of an answer: those of the queried name, at the end of its chain of
//! aliases (RFC 1034, section 3.6.2; RFC 2308). Pure. Ignores records of other names.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, Query};
use hickory_resolver::proto::rr::{DNSClass, RData, Record};

/// The addresses of one family and their TTL; empty when the name has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

/// Why the whole answer is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// More than 64 addresses.
    #[error("the answer has more than {ADDRESSES_MAX} addresses")]
    TooManyAddresses,
    /// A TCP message of more than 16 KiB.
    #[error("the answer is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    /// A chain of more than 8 CNAME records, or a loop.
    #[error("the answer is a chain of more than {ALIASES_MAX} CNAME records")]
    TooManyAliases,
}

/// Reads an answer whose response code is NOERROR.
///
/// # Errors
/// An [`AnswerError`] for each bound that it exceeds.
pub(super) fn read(message: &Message, query: &Query) -> Result<Found, AnswerError> {
    let (mut name, mut ttl, mut aliases) = (query.name(), u32::MAX, 0);
    let of_class = || {
        message
            .answers
            .iter()
            .filter(|record| record.dns_class == DNSClass::IN)
    };
    let alias = |record: &&Record| matches!(record.data, RData::CNAME(_));
    while let Some(record) = of_class().find(|record| record.name == *name && alias(record)) {
        aliases += 1;
        if aliases > ALIASES_MAX {
            return Err(AnswerError::TooManyAliases);
        }
        ttl = ttl.min(record.ttl);
        if let RData::CNAME(target) = &record.data {
            name = &target.0;
        }
    }
    let mut addresses = Vec::new();
    for record in of_class()
        .filter(|record| record.name == *name && record.record_type() == query.query_type())
    {
        if addresses.len() == ADDRESSES_MAX {
            return Err(AnswerError::TooManyAddresses);
        }
        addresses.extend(record.data.ip_addr());
        ttl = ttl.min(record.ttl);
    }
    if addresses.is_empty() {
        return Ok(Found {
            addresses,
            ttl: negative_ttl(message),
        });
    }
    Ok(Found {
        addresses,
        ttl: Duration::from_secs(ttl.into()),
    })
}

/// How long to remember that a name has no address: from the SOA of its zone, otherwise zero (RFC
/// 2308, section 5).
pub(super) fn negative_ttl(message: &Message) -> Duration {
    let seconds = message
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        });
    Duration::from_secs(seconds.unwrap_or(0).into())
}

/// Google answers with at most 16 addresses per family. The guard judges every address, and each
/// takes memory.
pub(super) const ADDRESSES_MAX: usize = 64;
/// Resolvers follow about ten; real chains have one or two.
pub(super) const ALIASES_MAX: usize = 8;
/// The limit of one TCP message. Sixty-four addresses take 18 KiB under the longest name without
/// compression, and 2 KiB with the compression that every server uses.
pub(super) const ANSWER_BYTES_MAX: u16 = 16_384;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hickory_resolver::proto::op::{MessageType, OpCode};
    use hickory_resolver::proto::rr::rdata::{A, CNAME, SOA};
    use hickory_resolver::proto::rr::{Name, RecordType};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn address(owner: &str, last: u8, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A::new(203, 0, 113, last)))
    }

    fn alias(owner: &str, target: &str, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn read_all(answers: Vec<Record>) -> Result<Found, AnswerError> {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.answers = answers;
        read(&message, &Query::query(name("a.example."), RecordType::A))
    }

    #[test]
    fn sixty_four_addresses_are_taken_and_one_more_is_refused() {
        let records = |count: u8| {
            (0..count)
                .map(|last| address("a.example.", last, 60))
                .collect()
        };
        assert_eq!(read_all(records(64)).unwrap().addresses.len(), 64);
        assert_eq!(read_all(records(65)), Err(AnswerError::TooManyAddresses));
    }

    #[test]
    fn records_of_other_names_are_ignored() {
        let found = read_all(vec![
            address("b.example.", 1, 60),
            address("A.Example.", 2, 30),
        ])
        .unwrap();
        assert_eq!(
            found,
            Found {
                addresses: vec![[203, 0, 113, 2].into()],
                ttl: Duration::from_secs(30)
            }
        );
        assert!(
            read_all(vec![address("b.example.", 1, 60)])
                .unwrap()
                .addresses
                .is_empty()
        );
    }

    #[test]
    fn a_chain_is_followed_to_its_end_in_any_order_and_its_shortest_ttl_counts() {
        let found = read_all(vec![
            address("c.example.", 1, 60),
            alias("b.example.", "c.example.", 20),
            alias("a.example.", "b.example.", 40),
        ]);
        let wanted = Found {
            addresses: vec![[203, 0, 113, 1].into()],
            ttl: Duration::from_secs(20),
        };
        assert_eq!(found, Ok(wanted));
    }

    #[test]
    fn a_long_chain_and_a_ring_are_refused() {
        let chain = |length: u32| {
            let owner = |number: u32| {
                if number == 0 {
                    "a.example.".to_owned()
                } else {
                    format!("n{number}.example.")
                }
            };
            let mut records: Vec<_> = (0..length)
                .map(|number| alias(&owner(number), &owner(number + 1), 60))
                .collect();
            records.push(address(&owner(length), 1, 60));
            read_all(records)
        };
        assert_eq!(chain(8).unwrap().addresses.len(), 1);
        assert_eq!(chain(9), Err(AnswerError::TooManyAliases));
        let ring = vec![
            alias("a.example.", "b.example.", 1),
            alias("b.example.", "a.example.", 1),
        ];
        assert_eq!(read_all(ring), Err(AnswerError::TooManyAliases));
    }

    #[test]
    fn a_negative_answer_lasts_as_long_as_its_zone_states() {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        assert_eq!(negative_ttl(&message), Duration::ZERO);
        let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 2, 3, 4, 500);
        message.authorities = vec![Record::from_rdata(name("example."), 900, RData::SOA(soa))];
        assert_eq!(negative_ttl(&message), Duration::from_secs(500));
    }
}
