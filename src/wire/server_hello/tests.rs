//! Answers made of parts, hostile ones, and properties of the parser.

use super::*;
use proptest::prelude::*;

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [
        &kind.to_be_bytes()[..],
        &(data.len() as u16).to_be_bytes(),
        data,
    ]
    .concat()
}

fn message(legacy: u16, random: [u8; 32], cipher: u16, extensions: &[u8]) -> Vec<u8> {
    let mut body = legacy.to_be_bytes().to_vec();
    body.extend(random);
    body.push(0);
    body.extend(cipher.to_be_bytes());
    body.push(0);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    [&[2, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat()
}

fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
    [
        &[kind, 3, 3][..],
        &(fragment.len() as u16).to_be_bytes(),
        fragment,
    ]
    .concat()
}

fn tls13(random: [u8; 32], group: u16) -> Vec<u8> {
    let share: &[u8] = if random == RETRY_RANDOM {
        &[]
    } else {
        &[0, 3, 9, 9, 9]
    };
    let extensions = [
        extension(43, &[3, 4]),
        extension(51, &[&group.to_be_bytes()[..], share].concat()),
    ]
    .concat();
    message(0x0303, random, 0x1301, &extensions)
}

fn answer(bytes: &[u8]) -> Result<ServerFlight, ServerFlightError> {
    match parse(bytes)? {
        Parsed::Complete { value, .. } => Ok(value),
        Parsed::Incomplete => panic!("incomplete"),
    }
}

#[test]
fn hellos_retries_and_alerts_are_distinguished() {
    let hello = ServerFlight::Hello(ServerHello {
        version: TlsVersion::Tls13,
        cipher: 0x1301,
        group: Some(29),
    });
    assert_eq!(answer(&record(22, &tls13([7; 32], 29))), Ok(hello));
    assert_eq!(
        answer(&record(22, &tls13(RETRY_RANDOM, 23))),
        Ok(ServerFlight::Retry)
    );
    assert_eq!(
        answer(&record(21, &[2, 40])),
        Ok(ServerFlight::FinalAlert(40))
    );
    assert_eq!(
        answer(&record(21, &[1, 0])),
        Ok(ServerFlight::FinalAlert(0)),
        "close_notify"
    );
    assert_eq!(
        answer(&record(21, &[1, 90])),
        Ok(ServerFlight::Preamble),
        "user_canceled, before close_notify"
    );
    assert_eq!(answer(&record(21, &[1, 112])), Ok(ServerFlight::Preamble));
    assert_eq!(answer(&record(20, &[1])), Ok(ServerFlight::Preamble));
}

#[test]
fn older_versions_are_read_from_the_legacy_field() {
    for (number, version) in [
        (0x0303, TlsVersion::Tls12),
        (0x0302, TlsVersion::Tls11),
        (0x0301, TlsVersion::Tls10),
    ] {
        let hello = ServerHello {
            version,
            cipher: 0xc02f,
            group: None,
        };
        assert_eq!(
            answer(&record(22, &message(number, [7; 32], 0xc02f, &[]))),
            Ok(ServerFlight::Hello(hello))
        );
    }
    let without_extensions = {
        let mut bytes = message(0x0303, [7; 32], 0xc02f, &[]);
        bytes.truncate(bytes.len() - 2);
        bytes[3] -= 2;
        bytes
    };
    assert!(matches!(
        answer(&record(22, &without_extensions)),
        Ok(ServerFlight::Hello(_))
    ));
}

#[test]
fn bytes_after_a_server_hello_pass_but_none_may_follow_a_retry() {
    let flight = [tls13([7; 32], 29), vec![11, 0, 0, 1, 0]].concat();
    assert!(matches!(
        answer(&record(22, &flight)),
        Ok(ServerFlight::Hello(_))
    ));
    let retry = [tls13(RETRY_RANDOM, 23), vec![11]].concat();
    assert_eq!(
        answer(&record(22, &retry)),
        Err(MessageError::Trailing.into())
    );
}

#[test]
fn hostile_answers_are_refused() {
    let with =
        |extensions: &[u8]| answer(&record(22, &message(0x0303, [7; 32], 0x1301, extensions)));
    assert_eq!(
        with(&[extension(43, &[3, 4]), extension(43, &[3, 4])].concat()),
        Err(ServerFlightError::Syntax)
    );
    assert_eq!(
        with(&extension(43, &[3, 3])),
        Err(ServerFlightError::Syntax),
        "1.2 by the extension of 1.3"
    );
    assert_eq!(
        with(&extension(43, &[3, 5])),
        Err(ServerFlightError::Version)
    );
    assert_eq!(
        with(&extension(43, &[3, 4, 0])),
        Err(ServerFlightError::Syntax)
    );
    assert_eq!(
        with(&extension(51, &[0, 29])),
        Err(ServerFlightError::Syntax)
    );
    assert_eq!(with(&[0, 43, 0]), Err(ServerFlightError::Syntax));
    assert_eq!(
        answer(&record(22, &message(0x0304, [7; 32], 1, &[]))),
        Err(ServerFlightError::Syntax),
        "1.3 by the old field"
    );
    for unknown in [0x0305, 0x0299, 0xfefd, 0] {
        assert_eq!(
            answer(&record(22, &message(unknown, [7; 32], 1, &[]))),
            Err(ServerFlightError::Version),
            "{unknown:x}"
        );
    }
    assert_eq!(
        answer(&record(22, &message(0x0303, RETRY_RANDOM, 1, &[]))),
        Err(ServerFlightError::Syntax)
    );
    assert_eq!(
        answer(b"HTTP/1.1 400 Bad Request\r\n"),
        Err(MessageError::NotTls.into())
    );
    assert_eq!(answer(b"SSH-2.0-x\r\n"), Err(MessageError::NotTls.into()));
    assert_eq!(answer(&record(23, b"x")), Err(MessageError::NotTls.into()));
    assert_eq!(
        answer(&record(22, &[1, 0, 0, 0])),
        Err(MessageError::Kind.into())
    );
    assert_eq!(answer(&record(21, &[2])), Err(MessageError::Control.into()));
    assert_eq!(
        answer(&record(21, &[3, 40])),
        Err(MessageError::Control.into())
    );
    assert_eq!(answer(&record(20, &[2])), Err(MessageError::Control.into()));
}

/// What a server may say by RFC 5246 or 8446, however seldom one does.
#[test]
fn no_answer_is_refused_for_its_size_or_an_old_choice() {
    let compressed = |mut message: Vec<u8>| {
        message[4 + 2 + 32 + 1 + 2] = 1;
        answer(&record(22, &message))
    };
    assert!(
        matches!(
            compressed(message(0x0303, [7; 32], 0xc02f, &[])),
            Ok(ServerFlight::Hello(_))
        ),
        "DEFLATE (RFC 3749)"
    );
    assert_eq!(
        compressed(tls13([7; 32], 29)),
        Err(ServerFlightError::Syntax)
    );
    assert_eq!(
        compressed(tls13(RETRY_RANDOM, 29)),
        Err(ServerFlightError::Syntax)
    );
    let many = |count: u16| {
        (100..100 + count)
            .flat_map(|kind| extension(kind, &[]))
            .collect::<Vec<u8>>()
    };
    let with =
        |extensions: &[u8]| answer(&record(22, &message(0x0303, [7; 32], 0xc02f, extensions)));
    assert!(matches!(with(&many(3_000)), Ok(ServerFlight::Hello(_))));
    assert_eq!(
        with(&[many(3_000), extension(3_099, &[])].concat()),
        Err(ServerFlightError::Syntax)
    );

    let filling = extension(0x5000, &vec![0; 65_535 - 10]);
    let extensions = [extension(43, &[3, 4]), filling].concat();
    let mut body = [&[3, 3][..], &[7; 32], &[32], &[5; 32], &[0x13, 1, 0]].concat();
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(&extensions);
    assert_eq!(
        (extensions.len(), body.len() + 4),
        (65_535, HELLO_BYTES_MAX)
    );
    let [_, high, middle, low] = (body.len() as u32).to_be_bytes();
    let longest = [&[2, high, middle, low][..], &body].concat();
    let (crumbs, rest) = longest.split_at(100);
    let records: Vec<u8> = crumbs
        .iter()
        .flat_map(|byte| record(22, &[*byte]))
        .collect();
    let records = [
        records,
        rest.chunks(16_384)
            .flat_map(|part| record(22, part))
            .collect(),
    ]
    .concat();
    let hello = ServerFlight::Hello(ServerHello {
        version: TlsVersion::Tls13,
        cipher: 0x1301,
        group: None,
    });
    assert_eq!(answer(&records), Ok(hello));
}

proptest! {
    #[test]
    fn any_segmentation_parses_alike_and_no_prefix_is_an_error(
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8), group in any::<u16>(), cipher in any::<u16>(),
    ) {
        let extensions = [extension(51, &[&group.to_be_bytes()[..], &[0, 1, 5]].concat()), extension(43, &[3, 4])].concat();
        let message = message(0x0303, [7; 32], cipher, &extensions);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(message.len())).chain([0, message.len()]).collect();
        at.sort_unstable();
        at.dedup();
        let whole: Vec<u8> = at.windows(2).flat_map(|pair| record(22, &message[pair[0]..pair[1]])).collect();
        let hello = ServerHello { version: TlsVersion::Tls13, cipher, group: Some(group) };
        prop_assert_eq!(answer(&whole), Ok(ServerFlight::Hello(hello)));
        for end in 0..whole.len() {
            prop_assert_eq!(parse(&whole[..end]), Ok(Parsed::Incomplete));
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let framed = [&[22, 3, 3, 1, 0, 2, 0][..], &bytes].concat();
        for input in [&bytes, &framed] {
            if let Ok(Parsed::Complete { consumed, .. }) = parse(input) {
                prop_assert!(consumed <= input.len());
            }
        }
    }
}
