//! Attacks on the memory of handshakes: hellos and answers that are larger than real ones and never end.

use support::HOST;
use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::raise_descriptor_limit;
use support::raw::{RawUpstream, Tunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::unfinished_hello;

/// One client holds unfinished ClientHellos of 64 KiB, more than the pool has for one client: those beyond are refused, real
/// hellos are not, and the memory of those that ended is free again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_hellos_share_a_pool() {
    let (upstream, mut daemon, greedy, serving) = scene(false).await;
    let (before, hello) = (daemon.resident_kib(), unfinished_hello());
    let hold = async |many: usize| {
        let mut held = Vec::new();
        for _ in 0..many {
            let mut client = connect(daemon.proxy_addr(), &greedy, &[])
                .await
                .established();
            let _refused_in_the_middle = client.write_all(&hello).await;
            held.push(client);
        }
        held
    };
    // 32 MiB in blocks of 4 KiB; a hello has fifteen beyond its first 4 KiB.
    let (many, most) = (650, 8_192 / 15);
    let held = hold(many).await;
    daemon
        .metric_until(TOO_LARGE, |refused| refused >= (many - most) as f64)
        .await;
    Tunnel::open(&daemon, &upstream).await.exchange(1).await;
    assert_eq!(
        daemon.metric(TOO_LARGE).await,
        Some((many - most) as f64),
        "of {many}"
    );
    let taken = daemon.resident_kib().saturating_sub(before);
    let stated = 32 * 1_024 + many * 12;
    assert!(taken <= stated, "{taken} KiB, and {stated} KiB are stated");
    drop(held);
    daemon
        .metric_until(MALFORMED, |ended| ended >= most as f64)
        .await;
    let _held = hold(100).await;
    Tunnel::open(&daemon, &upstream).await.exchange(2).await;
    assert_eq!(
        daemon.metric(TOO_LARGE).await,
        Some((many - most) as f64),
        "none more"
    );
    let record = daemon.tunnel_record().await;
    assert!(
        record["error"]
            .as_str()
            .is_some_and(|error| error.contains("64 MiB")),
        "{record}"
    );
    serving.abort();
}

/// The same from the other side: an upstream begins an answer of 80 KB in each of many tunnels and does not finish it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_answers_share_a_pool() {
    let (upstream, mut daemon, greedy, serving) = scene(true).await;
    let hello = Recorded::named("curl-openssl").bytes;
    let (before, mut held) = (daemon.resident_kib(), Vec::new());
    // An answer of 80,000 bytes has nineteen blocks beyond its first 4 KiB.
    let (many, most) = (520, 8_192 / 19);
    for _ in 0..many {
        let mut client = connect(daemon.proxy_addr(), &greedy, &[])
            .await
            .established();
        client.write_all(&hello).await.unwrap();
        held.push(client);
    }
    daemon
        .metric_until(ANSWER_MALFORMED, |refused| refused >= (many - most) as f64)
        .await;
    Tunnel::open(&daemon, &upstream).await.exchange(1).await;
    let taken = daemon.resident_kib().saturating_sub(before);
    let stated = 32 * 1_024 + many * 12;
    assert!(taken <= stated, "{taken} KiB, and {stated} KiB are stated");
    // A buffer that doubles may take all of the bound, so a few less may be held.
    let refused = daemon.metric(ANSWER_MALFORMED).await.unwrap() as usize;
    assert!(
        (many - most..=many - 8_192 / 20).contains(&refused),
        "{refused}"
    );
    let record = daemon.tunnel_record().await;
    assert!(
        record["error"]
            .as_str()
            .is_some_and(|error| error.contains("64 MiB")),
        "{record}"
    );
    serving.abort();
}

/// An upstream for good clients, a daemon, and the authority of an upstream that takes all there is; if it `answers`, with a
/// ServerHello that it does not finish.
async fn scene(answers: bool) -> (RawUpstream, Daemon, String, JoinHandle<()>) {
    raise_descriptor_limit();
    let upstream = RawUpstream::start().await;
    let greedy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = format!("{HOST}:{}", greedy.local_addr().unwrap().port());
    let config = Config::to(upstream.addr()).allow(&authority).section(
        "[limits]\naccept_rate = 0\nconnect_rate = 0\n[timeouts]\nclient_hello = \"60s\"\nserver_hello = \"60s\"\n[relay]\nworkers = 2",
    );
    let serving = tokio::spawn(async move {
        let answer = unfinished_answer();
        let mut accepted = Vec::new();
        loop {
            let (mut stream, _) = greedy.accept().await.unwrap();
            let answer = answer.clone();
            accepted.push(tokio::spawn(async move {
                let mut hello = [0; 4_096];
                if stream.read(&mut hello).await.is_ok_and(|read| read > 0) && answers {
                    let _refused_in_the_middle = stream.write_all(&answer).await;
                }
                let _ended = stream.read(&mut hello).await;
            }));
        }
    });
    (upstream, Daemon::start(&config).await, authority, serving)
}

/// The first records of a ServerHello of 80,000 bytes (RFC 8446, section 5.1).
fn unfinished_answer() -> Vec<u8> {
    let message = [&[2, 1, 0x38, 0x80], vec![0; 81_000].as_slice()].concat();
    let record = |part: &[u8]| [&[22, 3, 3], &(part.len() as u16).to_be_bytes()[..], part].concat();
    let mut records: Vec<u8> = message.chunks(16_000).flat_map(record).collect();
    records.truncate(80_000);
    records
}

const TOO_LARGE: &str = "sealway_tunnels_denied_total{code=\"client_hello_too_large\"}";
const ANSWER_MALFORMED: &str = "sealway_tunnels_denied_total{code=\"server_hello_malformed\"}";
const MALFORMED: &str = "sealway_tunnels_denied_total{code=\"client_hello_malformed\"}";
