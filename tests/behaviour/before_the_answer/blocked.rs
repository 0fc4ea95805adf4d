//! An upload that the upstream does not read, before the ServerHello and at the hand-over to the
//! relay. Small kernel buffers in a network of its own, and the kernel's counts of queued bytes
//! (proc(5), `/proc/net/tcp`), show that the daemon holds bytes of the upload when the case begins.

use std::net::SocketAddr;

use support::client::connect;
use support::command::sealway;
use support::config::Config;
use support::made_answer::MadeAnswer;
use support::made_hello::{MadeHello, record};
use support::namespace::{in_own_network, set_kernel_parameter};
use support::raw::{pass, read_to_end, read_to_reset, reset};
use support::{HOST, payload, soon, tick, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{End, Setting, Talk, ends};

/// An upload of early data that the upstream does not read; the daemon holds part of it.
struct Blocked {
    talk: Talk,
    served: TcpStream,
    sent: Vec<u8>,
    proxy: SocketAddr,
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_blocked_upload_before_the_answer_is_bounded() {
    in_own_network("a_blocked_upload_before_the_answer_is_bounded", async {
        let mut setting = Setting::with_upstream().await;
        for (end, code) in [
            (End::ResetByClient, "reset_by_client"),
            (End::FinOfUpstream, "closed_by_upstream"),
            (End::ResetByUpstream, "reset_by_upstream"),
        ] {
            let Blocked {
                talk,
                mut served,
                sent,
                ..
            } = Blocked::start(&setting).await;
            let record = if let End::ResetByClient = end {
                // The upstream reads nothing until the daemon has recorded the reset.
                reset(talk.client);
                let record = setting.record(&format!("blocked, then {end:?}")).await;
                read_to_reset(&mut served).await;
                record
            } else {
                talk.ends(served, end).await;
                setting.record(&format!("blocked, then {end:?}")).await
            };
            assert_eq!(record["code"], code, "{end:?}: {record}");
            let up = record["bytes_up"].as_u64().unwrap() as usize;
            assert!(
                0 < up && up + HELD_MIN <= sent.len(),
                "{end:?}, {} sent: {record}",
                sent.len()
            );
        }
    });
}

/// The answer arrives while the daemon holds part of the upload. The relay then delivers that part,
/// whether or not the client ended its side before the answer.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_answer_to_a_blocked_upload_arrives() {
    in_own_network("an_answer_to_a_blocked_upload_arrives", async {
        let mut setting = Setting::with_upstream().await;
        for (answer, is_half_closed) in [
            (MadeAnswer::tls13().bytes(), false),
            (MadeAnswer::below(0x0303).bytes(), false),
            (MadeAnswer::tls13().bytes(), true),
            (MadeAnswer::below(0x0303).bytes(), true),
        ] {
            let mut blocked = Blocked::start(&setting).await;
            if is_half_closed {
                blocked.talk.client.shutdown().await.unwrap();
            }
            blocked.answered(&answer).await;
            let Blocked {
                mut talk,
                mut served,
                sent,
                ..
            } = blocked;
            // The other direction continues.
            pass(&mut served, &mut talk.client, b"and more").await;
            let mut arrived = vec![0; sent.len()];
            soon("the whole upload", served.read_exact(&mut arrived))
                .await
                .unwrap();
            assert!(arrived == sent, "the upload arrived changed");
            talk.client.shutdown().await.unwrap();
            assert!(read_to_end(&mut served).await.is_empty());
            drop(served);
            assert!(read_to_end(&mut talk.client).await.is_empty());
            let down = answer.len() + 8;
            let recorded = ("allowed", "closed_by_client", sent.len(), down);
            setting
                .is_recorded("blocked, then answered", recorded)
                .await;
        }
    });
}

/// A server may send any number of change_cipher_spec records before its ServerHello (RFC 8446, section 5). A client that
/// reads nothing must stop it, otherwise they would fill the daemon's memory.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_answer_that_the_client_does_not_take() {
    in_own_network("an_answer_that_the_client_does_not_take", async {
        for buffers in ["tcp_wmem", "tcp_rmem"] {
            let path = format!("/proc/sys/net/ipv4/{buffers}");
            set_kernel_parameter(&path, "4096 16384 16384");
        }
        let setting = Setting::with_upstream().await;
        let hello = MadeHello::naming(HOST).bytes();
        let (_talk, mut served) = setting.greeted(&hello).await;
        let flood = [20, 3, 3, 0, 1, 1].repeat(1 << 17);
        let limit = std::time::Duration::from_millis(1_500);
        let sent = tokio::time::timeout(limit, served.write_all(&flood)).await;
        assert!(sent.is_err(), "the daemon takes {} bytes", flood.len());
    });
}

/// How the daemon itself ends a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Operator,
    Stop,
    Revocation,
}

/// An operator, a drain that has expired and a reload that revokes end a tunnel whose upload is
/// blocked, in the handshake and in the relay, and the record has exactly the bytes that the kernel
/// accepted.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_operator_ends_a_blocked_upload() {
    in_own_network("an_operator_ends_a_blocked_upload", async {
        for (order, is_answered, outcome, code) in [
            (Order::Operator, false, "failed", "ended_by_operator"),
            (Order::Operator, true, "allowed", "ended_by_operator"),
            (Order::Stop, false, "failed", "drained"),
            (Order::Stop, true, "allowed", "drained"),
            // A reload ends no handshake: the relay notices the revocation when it takes the tunnel
            // over.
            (Order::Revocation, false, "allowed", "revoked"),
            (Order::Revocation, true, "allowed", "revoked"),
        ] {
            let what = format!("{order:?}, answered: {is_answered}");
            let mut setting = Setting::with_upstream_and(LIMITS).await;
            let mut blocked = Blocked::start(&setting).await;
            let answer = MadeAnswer::tls13().bytes();
            if is_answered {
                blocked.answered(&answer).await;
            }
            let taken = blocked.sent.len() - blocked.held();
            setting.ends(order).await;
            if order == Order::Revocation && !is_answered {
                blocked.answered(&answer).await;
            }
            let record = setting.daemon.tunnel_record().await;
            assert_eq!(
                (&record["outcome"], &record["code"]),
                (&outcome.into(), &code.into()),
                "{what}: {record}"
            );
            assert_eq!(record["bytes_up"], taken, "{what}: {record}");
            read_to_reset(&mut blocked.served).await;
            if outcome == "allowed" {
                read_to_reset(&mut blocked.talk.client).await;
            } else {
                ends(&mut blocked.talk.client).await;
            }
        }
    });
}

impl Setting {
    async fn ends(&mut self, order: Order) {
        match order {
            Order::Operator => {
                let admin = self.daemon.admin_addr().to_string();
                let words = ["end", "--client", "127.0.0.0/8", "--reason", "x"];
                let ended = sealway(&[&words[..], &["--admin", &admin]].concat()).await;
                assert_eq!(ended.status, 0, "{ended:?}");
            }
            Order::Stop => self.daemon.signal("TERM"),
            Order::Revocation => {
                let upstream = self.upstream.as_ref().unwrap().addr();
                let without = Config::closed().host("other.example", upstream);
                let without = without.section(&format!("[timeouts]\n{LIMITS}"));
                let result = self.daemon.reload(&without.to_toml()).await;
                assert_eq!(result["result"], "ok", "{result}");
            }
        }
    }
}

impl Blocked {
    /// Sends early data until the kernel accepts no more, and one record more, of which the daemon
    /// keeps the rest.
    async fn start(setting: &Setting) -> Blocked {
        set_kernel_parameter("/proc/sys/net/ipv4/tcp_wmem", "4096 4096 4096");
        let listener = setting.upstream.as_ref().unwrap();
        listener.takes_little();
        let proxy = setting.daemon.proxy_addr();
        let client = connect(proxy, &listener.authority(), &[])
            .await
            .established();
        let hello = MadeHello::naming(HOST).extension(42, b"").bytes();
        let mut talk = Talk { client };
        talk.client.write_all(&hello).await.unwrap();
        let served = setting.accept().await;
        let mut blocked = Blocked {
            talk,
            served,
            sent: hello,
            proxy,
        };
        while !blocked.is_full().await {
            blocked.send(1_000).await;
        }
        blocked.send(16_000).await;
        let is_held = async || blocked.held() >= HELD_MIN;
        wait_until("bytes in the daemon's hands", is_held).await;
        blocked
    }

    /// Sends a record of early data, and waits until the daemon has read it.
    async fn send(&mut self, len: usize) {
        let record = record(23, &payload::bytes(self.sent.len() as u64, len));
        soon("room", self.talk.client.write_all(&record))
            .await
            .unwrap();
        self.sent.extend(record);
        wait_until("a daemon that reads", async || self.unread() == 0).await;
    }

    /// The upstream answers and the client receives the answer; the daemon still holds bytes of the
    /// upload, which it had read before.
    async fn answered(&mut self, answer: &[u8]) {
        // A FIN counts as a byte.
        wait_until("a daemon that reads", async || self.unread() <= 1).await;
        assert!(self.held() >= HELD_MIN);
        pass(&mut self.served, &mut self.talk.client, answer).await;
        assert!(
            self.held() >= HELD_MIN,
            "the kernel has taken all: nothing is left for the relay"
        );
    }

    /// Bytes that the client has sent and the daemon has not read.
    fn unread(&self) -> usize {
        let client = self.talk.client.local_addr().unwrap();
        queued(client, self.proxy).0 + queued(self.proxy, client).1
    }

    /// Whether the upstream's kernel has no room: bytes remain unsent for longer than an
    /// acknowledgement may be delayed.
    async fn is_full(&self) -> bool {
        for _ in 0..30 {
            if self.unsent() == 0 {
                return false;
            }
            tick().await;
        }
        true
    }

    /// Bytes that the daemon has written and that do not fit into the upstream's kernel.
    fn unsent(&self) -> usize {
        let [upstream, egress] = self.upstream_ends();
        queued(egress, upstream).0
    }

    /// Bytes that the daemon has read and not written. The upstream reads nothing.
    fn held(&self) -> usize {
        let [upstream, egress] = self.upstream_ends();
        let taken = self.unsent() + queued(upstream, egress).1;
        // A segment whose acknowledgement is under way is in both queues.
        self.sent.len().saturating_sub(self.unread() + taken)
    }

    fn upstream_ends(&self) -> [SocketAddr; 2] {
        let SocketAddr::V4(_) = self.served.local_addr().unwrap() else {
            panic!("/proc/net/tcp lists IPv4 only");
        };
        [
            self.served.local_addr().unwrap(),
            self.served.peer_addr().unwrap(),
        ]
    }
}

/// The kernel's counts for the socket with these ends: bytes not acknowledged, and bytes not read.
fn queued(local: SocketAddr, remote: SocketAddr) -> (usize, usize) {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = [hex(local), hex(remote)];
    let line = table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[1..3] == ends).then(|| words[4].to_owned())
    });
    let line = line.unwrap_or_else(|| panic!("no socket from {local} to {remote}"));
    let (tx, rx) = line.split_once(':').unwrap();
    let [tx, rx] = [tx, rx].map(|count| usize::from_str_radix(count, 16).unwrap());
    (tx, rx)
}

/// An address as proc(5) writes it: the IPv4 address as a number in this machine's byte order.
fn hex(address: SocketAddr) -> String {
    let SocketAddr::V4(v4) = address else {
        panic!("{address} is not an IPv4 address");
    };
    let ip = u32::from_ne_bytes(v4.ip().octets());
    format!("{ip:08X}:{:04X}", v4.port())
}

/// More than the kernel accepts when a window opens slightly.
const HELD_MIN: usize = 4_096;
const LIMITS: &str = "server_hello = \"1h\"\ndrain = \"300ms\"";
