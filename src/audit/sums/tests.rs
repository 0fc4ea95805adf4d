use std::time::Duration;

use super::*;
use crate::audit::record::tests::bare;
use crate::limits::sharded::PARTS;

fn refused<'r>(client: &str, user: Option<&'r UserId>, code: &'static str) -> Refused<'r> {
    Refused {
        client: client.parse().unwrap(),
        user,
        outcome: "denied",
        code,
    }
}

fn record(refused: &Refused<'_>) -> TunnelRecord {
    TunnelRecord {
        ts: OffsetDateTime::now_utc(),
        client: Some((refused.client, 1).into()),
        user: refused.user.cloned(),
        code: refused.code,
        ..bare()
    }
}

/// Refuses so many times; the records that are to be written at once.
fn refuse(sums: &Sums, refused: &Refused<'_>, times: u64, now: Instant) -> Vec<TunnelRecord> {
    (0..times)
        .filter_map(|_| sums.refused(refused, now, true, || record(refused)))
        .collect()
}

/// The attempts that records stand for.
fn total(records: &[TunnelRecord]) -> u64 {
    records.iter().map(|record| record.count.unwrap_or(1)).sum()
}

#[test]
fn first_refusals_are_written_at_once_and_the_rest_summed_by_code() {
    let (sums, now) = (Sums::default(), Instant::now());
    let denied = refused("192.0.2.7", None, "host_denied");
    assert_eq!(refuse(&sums, &denied, 1_000, now).len(), 60);
    refuse(&sums, &refused("192.0.2.7", None, "not_tls"), 1, now);
    let taken = sums.take();
    assert_eq!(
        taken
            .iter()
            .map(|record| (record.code, record.count))
            .collect::<Vec<_>>(),
        [("host_denied", Some(940)), ("not_tls", None),]
    );
    let sum = taken.first().unwrap();
    assert!(sum.first.unwrap() <= sum.ts && sum.client.is_some());
    assert!(sums.take().is_empty(), "they are taken once");
    assert_eq!(
        refuse(&sums, &denied, 10, now + Duration::from_secs(2)).len(),
        2,
        "two more after two seconds"
    );
    assert_eq!(total(&sums.take()), 8);
}

#[test]
fn users_are_counted_apart_and_an_ipv6_64_is_one_client() {
    let (sums, now) = (Sums::default(), Instant::now());
    let [ann, bob] = ["ann", "bob"].map(|name| UserId::parse(name).unwrap());
    for (client, user) in [
        ("2001:db8::1", &ann),
        ("2001:db8::2", &ann),
        ("2001:db8::ffff", &bob),
    ] {
        refuse(&sums, &refused(client, Some(user), "host_denied"), 100, now);
    }
    let taken = sums.take();
    let by_user: Vec<_> = taken
        .iter()
        .map(|record| (record.user.as_ref().unwrap().as_str(), record.count))
        .collect();
    assert_eq!(by_user, [("ann", Some(140)), ("bob", Some(100))]);
}

#[test]
fn one_stranger_has_a_few_sums_and_nothing_is_lost() {
    let (sums, now) = (Sums::default(), Instant::now());
    let codes = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let at_once: u64 = codes
        .iter()
        .map(|code| refuse(&sums, &refused("192.0.2.7", None, code), 100, now).len() as u64)
        .sum();
    let taken = sums.take();
    assert_eq!((at_once, total(&taken)), (60, 800 - 60));
    let of_the_client = taken
        .iter()
        .filter(|record| record.client.is_some())
        .count();
    assert_eq!(
        (of_the_client, taken.len()),
        (STRANGER_SUMS_MAX, codes.len()),
        "the others are counted by code"
    );
    assert!(
        taken
            .iter()
            .all(|record| record.client.is_some()
                || (record.user.is_none() && record.host.is_none()))
    );
}

/// The bar: 20,000 refusals a second from 1,000 addresses.
#[test]
fn a_flood_from_many_addresses_is_some_hundred_records_a_second_and_takes_nothing_from_users() {
    let (sums, start) = (Sums::default(), Instant::now());
    let ann = UserId::parse("ann").unwrap();
    let (mut written, mut refusals) = (Vec::new(), 0);
    for half in 0..20 {
        let now = start + Duration::from_millis(500 * half);
        for number in 0..10_000 {
            let client = format!("10.0.{}.{}", number % 1_000 / 250, number % 250);
            written.push(refuse(
                &sums,
                &refused(&client, None, "auth_required"),
                1,
                now,
            ));
            refusals += 1;
        }
        let of_ann = refuse(
            &sums,
            &refused("192.0.2.7", Some(&ann), "host_denied"),
            1,
            now,
        );
        assert_eq!(
            of_ann.len(),
            1,
            "a user's refusal is written at once, after {half} half seconds"
        );
        written.push(sums.take());
    }
    let written: Vec<_> = written.into_iter().flatten().collect();
    assert_eq!(total(&written), refusals);
    let most = 1_024 + 20 * (32 + SUMS_MAX + 1);
    assert!(
        written.len() <= most,
        "{} records in ten seconds, {most} at most",
        written.len()
    );
}

#[test]
fn memory_is_bounded_and_counts_add_up_for_any_number_of_clients() {
    let (sums, now) = (Sums::default(), Instant::now());
    let mut at_once = 0;
    for number in 0..100_000_u32 {
        let client = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).to_string();
        at_once += refuse(&sums, &refused(&client, None, "client_limit"), 1, now).len() as u64;
    }
    let clients: usize = sums.strangers.clients.each().map(|part| part.len()).sum();
    assert!(clients <= PARTS * clients::CLIENTS_MAX, "{clients}");
    assert_eq!(at_once + total(&sums.take()), 100_000);
    // A minute later the table has room for others.
    let later = now + Duration::from_secs(61);
    assert_eq!(
        refuse(
            &sums,
            &refused("198.51.100.1", None, "client_limit"),
            1,
            later
        )
        .len(),
        1
    );
}

/// One site of 65,536 clients: the refusals of others keep their records, their sums and their places.
#[test]
fn one_site_leaves_half_of_everything_to_others() {
    for (flood, other) in [
        ("2001:db8:1", "2001:db8:2::1"),
        ("2001:db8:1", "192.0.2.7"),
        ("10.0.0", "10.0.1.7"),
    ] {
        let (sums, now) = (Sums::default(), Instant::now());
        let mut written = Vec::new();
        for number in 0..65_536_u32 {
            let client = match flood {
                "10.0.0" => format!("10.0.0.{}", number % 256),
                _ => format!("{flood}:{number:x}::1"),
            };
            written.extend(refuse(&sums, &refused(&client, None, "a"), 1, now));
            written.extend(refuse(&sums, &refused(&client, None, "b"), 1, now));
        }
        let denied = refused(other, None, "host_denied");
        assert_eq!(
            refuse(&sums, &denied, 100, now).len(),
            60,
            "{other} beside {flood}"
        );
        let taken = sums.take();
        let of_other = taken.iter().find(|record| record.code == "host_denied");
        let of_other = of_other.unwrap();
        assert_eq!(
            (of_other.count, of_other.client.unwrap().ip().to_string()),
            (Some(40), other.to_owned()),
            "{other} beside {flood}"
        );
        assert_eq!(total(&taken) + written.len() as u64, 2 * 65_536 + 40);
    }
}

#[test]
fn locks_beyond_the_rate_share_a_record() {
    let (sums, now) = (Sums::default(), Instant::now());
    let client = "192.0.2.7".parse().unwrap();
    let record = || DaemonRecord::AuthLockout {
        ts: "t".into(),
        client,
        network: "192.0.2.7".into(),
        user: None,
        failures: 10,
        count: None,
    };
    let at_once = (0..5_000)
        .filter(|_| sums.lockout(record(), now).is_some())
        .count();
    let Some(DaemonRecord::AuthLockout { count, .. }) = sums.take_lockouts() else {
        unreachable!("no record")
    };
    assert_eq!(
        (at_once, count, sums.take_lockouts().is_none()),
        (1_024, Some(5_000 - 1_024), true)
    );
}

#[test]
fn a_full_queue_sums_refusals_and_keeps_late_records() {
    let (sums, now) = (Sums::default(), Instant::now());
    let denied = refused("192.0.2.7", None, "host_denied");
    assert!(
        sums.refused(&denied, now, false, || record(&denied))
            .is_none()
    );
    sums.keep(record(&denied));
    sums.keep(record(&denied));
    let taken = sums.take();
    assert_eq!((taken.len(), total(&taken)), (2, 3));
}

#[test]
fn threads_that_count_while_the_writer_takes_lose_nothing() {
    let (sums, now) = (Sums::default(), Instant::now());
    let (done, counted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let (sums, done, counted) = (&sums, &done, &counted);
            threads.spawn(move || {
                for number in 0..20_000 {
                    let client = format!("192.0.2.{}", number % 16 + thread);
                    let at_once =
                        refuse(sums, &refused(&client, None, "host_denied"), 1, now).len();
                    counted.fetch_add(at_once, Ordering::Relaxed);
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        while done.load(Ordering::Relaxed) < 4 {
            counted.fetch_add(total(&sums.take()) as usize, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert_eq!(
        counted.load(Ordering::Relaxed) as u64 + total(&sums.take()),
        80_000
    );
}
