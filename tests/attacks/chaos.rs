//! Many chaotic attempts: each has one record, nothing remains of them, and no byte of one tunnel
//! appears in another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use support::client::{connect_head, dial};
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::{HOST, within};

/// Clients and upstreams that send too little, too much or the wrong bytes and leave at any moment,
/// by a FIN or a reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_four_thousand_chaotic_attempts_has_one_record() {
    let chaos = Upstream::start().await;
    let config = Config::to(chaos.address).audit_file("audit.jsonl", "");
    let config = config
        .section("[timeouts]\nclient_hello = \"2s\"\nserver_hello = \"2s\"\nrequest = \"2s\"");
    let mut daemon = Daemon::start(&config).await;
    let proxy = daemon.proxy_addr();
    let words = Arc::new(Words::new(chaos.address));
    let (gate, mut running) = (Arc::new(Semaphore::new(AT_A_TIME)), JoinSet::new());
    for number in 0..ATTEMPTS {
        let (words, turn) = (
            Arc::clone(&words),
            Arc::clone(&gate).acquire_owned().await.unwrap(),
        );
        running.spawn(async move {
            attempt(proxy, number, &words).await;
            drop(turn);
        });
    }
    within(LONG, "all attempts", running.join_all()).await;
    daemon
        .metric_until("sealway_tunnels_active", |active| active == 0.0)
        .await;
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success());
    let text = std::fs::read_to_string(daemon.path("audit.jsonl")).unwrap();
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let tunnels: Vec<_> = records
        .filter(|record| record["event"] == "tunnel")
        .collect();
    let told: u64 = tunnels
        .iter()
        .map(|record| record["count"].as_u64().unwrap_or(1))
        .sum();
    let mut codes: Vec<_> = tunnels
        .iter()
        .map(|record| record["code"].as_str().unwrap())
        .collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(told, ATTEMPTS, "records, for {codes:?}");
    assert!(codes.len() >= 10, "hardly chaos: {codes:?}");
    assert!(!codes.contains(&"internal_error"), "{codes:?}");
}

/// The messages of a client, in their regular order.
struct Words {
    head: Vec<u8>,
    denied: Vec<u8>,
    hello: Vec<u8>,
}

impl Words {
    fn new(upstream: SocketAddr) -> Words {
        let head = connect_head(&format!("{HOST}:{}", upstream.port()), &[]).into_bytes();
        let denied = connect_head("evil.example:443", &[]).into_bytes();
        Words {
            head,
            denied,
            hello: Recorded::named("curl-openssl").bytes,
        }
    }
}

/// One connection that sends at least a byte.
async fn attempt(proxy: SocketAddr, number: u64, words: &Words) {
    let mut dice = Dice::new(number);
    let mut stream = dial(proxy).await;
    let (head, hello) = (words.head.as_slice(), words.hello.as_slice());
    let wrong_hello: Vec<u8> = hello
        .iter()
        .map(|byte| byte ^ u8::from(*byte == b'g'))
        .collect();
    let said: Vec<u8> = match dice.below(8) {
        0 => head[..1 + dice.below(head.len() as u64 - 1) as usize].to_vec(),
        1 => words.denied.clone(),
        2 => b"\x16\x03\x01 no proxy protocol\r\n\r\n".to_vec(),
        3 => [head, b"GET / HTTP/1.1\r\n\r\n"].concat(),
        4 => [
            head,
            &hello[..1 + dice.below(hello.len() as u64 - 1) as usize],
        ]
        .concat(),
        5 => [head, &wrong_hello].concat(),
        _ => [head, hello].concat(),
    };
    let piece = [1 << 20, 200, 40][dice.below(3) as usize];
    for piece in said.chunks(piece) {
        if stream.write_all(piece).await.is_err() {
            break;
        }
        if dice.below(4) == 0 {
            tokio::task::yield_now().await;
        }
    }
    if dice.below(16) == 0 {
        // The connection may have ended already.
        let _over = SockRef::from(&stream).send_out_of_band(b"!");
    }
    let mut heard = vec![0; 4_096];
    let patience = Duration::from_millis(dice.below(40));
    match dice.below(4) {
        0 => {}
        1 => drop(tokio::time::timeout(patience, stream.read(&mut heard)).await),
        2 => {
            let _over = stream.shutdown().await;
            drop(tokio::time::timeout(patience, stream.read(&mut heard)).await);
        }
        _ => {
            let _over = stream
                .write_all(b"what may be a tunnel's first bytes")
                .await;
            drop(tokio::time::timeout(patience, stream.read_to_end(&mut heard)).await);
        }
    }
    if dice.below(2) == 0 {
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
}

/// An upstream that accepts each connection and does something with it.
struct Upstream {
    address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Upstream {
    async fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, mut serving) = (listener.local_addr().unwrap(), JoinSet::new());
        serving.spawn(async move {
            let mut served = JoinSet::new();
            for number in 0.. {
                let stream = listener.accept().await.unwrap().0;
                served.spawn(tokio::time::timeout(
                    Duration::from_secs(5),
                    answer(stream, number),
                ));
                while served.try_join_next().is_some() {}
            }
        });
        Upstream {
            address,
            _serving: serving,
        }
    }
}

async fn answer(mut stream: TcpStream, number: u64) {
    let (mut dice, recorded) = (Dice::new(!number), Recorded::named("curl-openssl"));
    let mut heard = vec![0; 65_536];
    // The result does not matter: it is chaos too.
    let _heard = stream.read(&mut heard).await;
    let answer = recorded.server_hello();
    let said: Vec<u8> = match dice.below(8) {
        0 => Vec::new(),
        1 => b"SSH-2.0-none\r\n".to_vec(),
        2 => vec![21, 3, 3, 0, 2, 2, 40, 22, 3, 3],
        3 => answer[..answer.len() / 2].to_vec(),
        _ => [answer.as_slice(), &[23; 9_000]].concat(),
    };
    let _sent = stream.write_all(&said).await;
    match dice.below(4) {
        0 => SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap(),
        1 => drop(stream.shutdown().await),
        _ => while matches!(stream.read(&mut heard).await, Ok(1..)) {},
    }
}

/// Pipes and buffers move from tunnel to tunnel, also from those that are reset in the middle of a
/// transfer. Each eight bytes name their tunnel and direction, and each page its position.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gigabytes_hold_no_byte_of_another_tunnel() {
    let mut verified = 0;
    for mode in ["splice", "adaptive"] {
        let (listener, hello) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            Recorded::named("curl-openssl"),
        );
        let address = listener.local_addr().unwrap();
        let daemon =
            Daemon::start(&Config::to(address).section(&format!("[relay]\nmode = {mode:?}"))).await;
        let (hello, proxy) = (Arc::new(hello), daemon.proxy_addr());
        let head: Arc<str> = connect_head(&format!("{HOST}:{}", address.port()), &[]).into();
        let (gate, mut running) = (Arc::new(Semaphore::new(SIDE_BY_SIDE)), JoinSet::new());
        let served = Arc::clone(&hello);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut ends = JoinSet::new();
            for _ in 0..TUNNELS {
                let stream = listener.accept().await.unwrap().0;
                let served = Arc::clone(&served);
                ends.spawn(async move {
                    within(ONE, "an upstream", upstream_end(stream, served)).await
                });
            }
            ends.join_all().await.into_iter().sum::<u64>()
        });
        for id in 0..TUNNELS {
            let (head, hello) = (Arc::clone(&head), Arc::clone(&hello));
            let turn = Arc::clone(&gate).acquire_owned().await.unwrap();
            // The first foreign byte ends the test.
            while let Some(ended) = running.try_join_next() {
                verified += ended.unwrap();
            }
            running.spawn(async move {
                let verified = within(ONE, "a client", client_end(proxy, id, &head, &hello)).await;
                drop(turn);
                verified
            });
        }
        verified += within(LONG, "all clients", running.join_all())
            .await
            .into_iter()
            .sum::<u64>();
        verified += within(LONG, "all upstreams", serving.join_all())
            .await
            .into_iter()
            .sum::<u64>();
        daemon
            .metric_until("sealway_tunnels_active", |active| active == 0.0)
            .await;
    }
    assert!(verified >= 2_000_000_000, "{verified} bytes were compared");
}

async fn client_end(proxy: SocketAddr, id: u64, head: &str, hello: &Recorded) -> u64 {
    let mut stream = dial(proxy).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = vec![0; ESTABLISHED.len()];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply, ESTABLISHED);
    stream.write_all(&hello.bytes).await.unwrap();
    stream
        .read_exact(&mut vec![0; hello.server_hello().len()])
        .await
        .unwrap();
    stream.write_all(&id.to_le_bytes()).await.unwrap();
    both_ways(stream, id, 0).await
}

async fn upstream_end(mut stream: TcpStream, hello: Arc<Recorded>) -> u64 {
    stream
        .read_exact(&mut vec![0; hello.bytes.len()])
        .await
        .unwrap();
    stream.write_all(&hello.server_hello()).await.unwrap();
    let id = stream.read_u64_le().await.unwrap();
    both_ways(stream, id, 1).await
}

/// Sends its own bytes and compares those of the other end, until one of them ends; returns the
/// number of right bytes.
async fn both_ways(stream: TcpStream, id: u64, end: u64) -> u64 {
    // One end resets one tunnel in four in the middle of its transfer, with full buffers on the
    // way.
    let is_reset = id % 4 == 3;
    let resets = is_reset && id / 4 % 2 == end;
    let (mut reader, mut writer) = stream.into_split();
    let sending = async {
        let mut page = Pages::of(id, end);
        // More bytes than all buffers hold go to a side that resets.
        for chunk in 0..if is_reset { 8 * CHUNKS } else { CHUNKS } {
            if writer.write_all(page.chunk(chunk)).await.is_err() {
                assert!(is_reset, "tunnel {id} broke");
                break;
            }
        }
        // A reset leaves nothing to end.
        let _over = writer.shutdown().await;
    };
    let receiving = async {
        let (mut pages, mut buffer, mut received) = (Pages::of(id, 1 - end), vec![0; CHUNK], 0);
        loop {
            if resets && received >= (CHUNKS / 3) * CHUNK {
                // Until the daemon's pipe is full too.
                tokio::time::sleep(Duration::from_millis(100)).await;
                break;
            }
            let awaited = &pages.chunk(received / CHUNK)[received % CHUNK..];
            match reader.read(&mut buffer[..awaited.len()]).await {
                Ok(0) => {
                    assert!(
                        is_reset || received == CHUNKS * CHUNK,
                        "tunnel {id} ended after {received} bytes"
                    );
                    break;
                }
                Ok(read) => {
                    assert!(
                        buffer[..read] == awaited[..read],
                        "tunnel {id}: foreign bytes behind {received}"
                    );
                    received += read;
                }
                Err(error) => {
                    assert!(is_reset, "tunnel {id}: {error}");
                    break;
                }
            }
            if id % 8 == 5 && received % 7 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        received as u64
    };
    if resets {
        let received = tokio::select! { received = receiving => received, () = async { sending.await; std::future::pending().await } => 0 };
        let stream = reader.reunite(writer).unwrap();
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        return received;
    }
    tokio::join!(sending, receiving).1
}

/// The bytes of one direction of one tunnel.
struct Pages(Vec<u8>);

impl Pages {
    fn of(id: u64, end: u64) -> Pages {
        let words = (0..CHUNK as u64 / 8).map(|word| (id << 32 | end << 31 | word).to_le_bytes());
        Pages(words.flatten().collect())
    }

    /// The bytes at this position.
    fn chunk(&mut self, number: usize) -> &[u8] {
        for page in self.0.chunks_mut(4_096) {
            page[..8].copy_from_slice(&(number as u64 | 1 << 63).to_le_bytes());
        }
        &self.0
    }
}

/// The same random numbers for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) % bound
    }
}

const ATTEMPTS: u64 = 4_000;
const AT_A_TIME: usize = 48;
const TUNNELS: u64 = 320;
const SIDE_BY_SIDE: usize = 24;
const CHUNK: usize = 64 << 10;
/// 1.9 MB each way.
const CHUNKS: usize = 29;
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
/// A tunnel that hangs delays the others that wait for their turn.
const ONE: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(120);
