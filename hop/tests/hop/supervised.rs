//! One command starts everything: `sealway run` starts the hop, restarts it after a crash, and leaves no process behind.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use rustls::pki_types::ServerName;
use serde_json::Value;
use support::client::{connect_head, tls_connect};
use support::command::sealway;
use support::config::Config;
use support::daemon::Daemon;
use support::tls::TlsUpstream;
use support::{HOST, soon, wait_until};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::core::TOKEN;
use crate::program::{Client, NAME};
use crate::zoo::{Authority, write};

/// A daemon that runs its hop, at addresses of this test alone.
struct Both {
    daemon: Daemon,
    upstream: TlsUpstream,
    authority: Authority,
    tls: SocketAddr,
}

impl Both {
    async fn start(number: u8, more: &str) -> Both {
        let upstream = TlsUpstream::start(&rustls::version::TLS13, &[]).await;
        let folder = tempfile::tempdir().unwrap();
        let authority = files(&folder);
        let config = config(&upstream, number, more);
        let daemon = Daemon::start_in(folder, &config).await;
        let both = Both {
            daemon,
            upstream,
            authority,
            tls: at(number, 9443),
        };
        both.is_up(1).await;
        both
    }

    /// Waits until the hop has listened this many times, and the daemon knows its process.
    async fn is_up(&self, times: usize) {
        wait_until("the hop listens", async || {
            let listening = self.lines("listening");
            let of_hop = listening.iter().filter(|line| line["sessions"].is_number());
            of_hop.count() >= times && self.lines(STARTED).last().is_some_and(is_alive)
        })
        .await;
    }

    fn lines(&self, message: &str) -> Vec<Value> {
        let text = self.daemon.log_text();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines
            .filter(|line: &Value| line["message"] == message)
            .collect()
    }

    /// The hop that was started last.
    fn hop(&self) -> u32 {
        let started = self.lines(STARTED);
        let pid = started.last().expect("a hop")["pid"].as_u64().unwrap();
        pid.try_into().unwrap()
    }

    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        Client::trusting(&self.authority).connect(self.tls).await
    }

    /// A tunnel through the hop, and its upstream's side.
    async fn tunnel(&self) -> Tunnel {
        let mut outer = self.connect().await.unwrap();
        let head = connect_head(&self.upstream.authority(), &[]);
        outer.write_all(head.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n\r\n") {
            reply.push(soon("the reply", outer.read_u8()).await.unwrap());
        }
        let reply = String::from_utf8_lossy(&reply);
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        let connector = TlsConnector::from(self.upstream.client());
        let name = ServerName::try_from(HOST).unwrap();
        let (inner, (server, _)) =
            tokio::join!(connector.connect(name, outer), self.upstream.accept());
        Tunnel {
            client: inner.unwrap(),
            server,
        }
    }
}

struct Tunnel {
    client: TlsStream<TlsStream<TcpStream>>,
    server: tokio_rustls::server::TlsStream<TcpStream>,
}

impl Tunnel {
    async fn exchange(&mut self) {
        exchange(&mut self.client, &mut self.server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_hop_is_back_and_the_tunnels_of_the_daemon_live() {
    let mut both = Both::start(1, "").await;
    let mut through_the_hop = both.tunnel().await;
    through_the_hop.exchange().await;
    let (mut clear, mut server) = direct(&both.daemon, &both.upstream).await;
    for times in 1..=2 {
        let killed = both.hop();
        let at = Instant::now();
        support::signal(killed, "KILL");
        if times == 1 {
            let end = soon("a reset", through_the_hop.client.read(&mut [0; 1])).await;
            let kind = end.unwrap_err().kind();
            assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
            assert_eq!(both.daemon.tunnel_record().await["code"], "reset_by_client");
        }
        both.is_up(times + 1).await;
        both.tunnel().await.exchange().await;
        println!("a new tunnel after {:?}", at.elapsed());
        assert_ne!(both.hop(), killed);
        exchange(&mut clear, &mut server).await;
    }
    let ends = both.lines(ENDED);
    let pauses: Vec<_> = ends
        .iter()
        .map(|end| end["retry_ms"].as_u64().unwrap())
        .collect();
    assert_eq!(pauses, [100, 200], "{ends:?}");
    let reason = ends[0]["reason"].as_str().unwrap();
    assert!(reason.contains("SIGKILL"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hop_that_cannot_start_is_retried_ever_later_and_a_reload_tries_at_once() {
    let both = Both::start(2, "program = \"hop\"\n").await;
    both.tunnel().await.exchange().await;
    let program = both.daemon.path("hop");
    replace(&program, Path::new("/bin/false"));
    support::signal(both.hop(), "KILL");
    wait_until("five ends", async || both.lines(ENDED).len() >= 5).await;
    let pauses: Vec<_> = both.lines(ENDED)[..5]
        .iter()
        .map(|end| end["retry_ms"].as_u64().unwrap())
        .collect();
    assert_eq!(pauses, [100, 200, 400, 800, 1_600]);
    // The daemon itself carries on.
    let (status, _) = both.daemon.admin_get("/healthz").await;
    assert_eq!(status, 200);
    replace(&program, Path::new(env!("CARGO_BIN_EXE_sealway-hop")));
    both.daemon.signal("HUP");
    both.is_up(2).await;
    both.tunnel().await.exchange().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_the_daemon_is_one_of_the_hop() {
    let mut both = Both::start(3, "").await;
    both.daemon.signal("HUP");
    assert_eq!(both.daemon.event("reload").await["result"], "ok");
    let read_again = "certificates, keys and revocation lists read again";
    let line = |line: &Value| line["message"] == read_again;
    both.daemon.line("the hop's reload", line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_drains_both_records_the_last_event_and_leaves_no_process() {
    let mut both = Both::start(4, "").await;
    let mut tunnel = both.tunnel().await;
    tunnel.exchange().await;
    let hop = both.hop();
    let supervisor = parent(hop);
    let mut plain = TcpStream::connect(both.tls).await.unwrap();
    plain
        .write_all(b"CONNECT a:443 HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut reply = Vec::new();
    soon("a reply", plain.read_to_end(&mut reply))
        .await
        .unwrap();
    // A service manager may signal all processes of the service, and more than once.
    for pid in [hop, supervisor] {
        support::signal(pid, "TERM");
    }
    both.daemon.signal("TERM");
    let draining = |line: &Value| line["message"] == "draining" && line["sessions"].is_number();
    both.daemon.line("the hop drains", draining).await;
    tunnel.exchange().await;
    // The client ends, and the upstream after it.
    tunnel.client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon("an end", tunnel.server.read_to_end(&mut rest))
        .await
        .unwrap();
    tunnel.server.shutdown().await.unwrap();
    drop(tunnel);
    assert_eq!(both.daemon.exit_status().await.code(), Some(0));
    assert!(!is_running(hop) && !is_running(supervisor));
    let text = both.daemon.log_text();
    let kinds: Vec<_> = text
        .lines()
        .filter(|line| line.contains("\"hop_event\""))
        .collect();
    assert!(
        kinds.iter().any(|line| line.contains("tls_required")),
        "{kinds:?}"
    );
    assert!(!text.contains("sealway-hop ended"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_both_at_once() {
    let mut both = Both::start(5, "").await;
    let mut tunnel = both.tunnel().await;
    tunnel.exchange().await;
    let (hop, supervisor) = (both.hop(), parent(both.hop()));
    both.daemon.signal("TERM");
    let draining = |line: &Value| line["message"] == "draining" && line["sessions"].is_number();
    both.daemon.line("the hop drains", draining).await;
    both.daemon.signal("TERM");
    assert_eq!(both.daemon.exit_status().await.code(), Some(0));
    assert!(!is_running(hop) && !is_running(supervisor));
    let end = soon("an end", tunnel.client.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_or_supervisor_leaves_no_hop() {
    for victim in ["daemon", "supervisor"] {
        let mut both = Both::start(6, "").await;
        let mut tunnel = both.tunnel().await;
        tunnel.exchange().await;
        let (hop, supervisor) = (both.hop(), parent(both.hop()));
        let is_daemon = victim == "daemon";
        let pid = if is_daemon {
            both.daemon.pid()
        } else {
            supervisor
        };
        support::signal(pid, "KILL");
        let status = both.daemon.exit_status().await;
        assert_eq!(status.code(), (!is_daemon).then_some(1), "{victim}");
        wait_until("no process is left", async || {
            !is_running(hop) && !is_running(supervisor)
        })
        .await;
        let end = soon("an end", tunnel.client.read(&mut [0; 1])).await;
        let kind = end.unwrap_err().kind();
        let is_cut = kind == std::io::ErrorKind::ConnectionReset
            // The kernel ends the connections of a killed daemon with FINs. The hop may still pass one on, and the inner
            // session shows that it is incomplete.
            || is_daemon && kind == std::io::ErrorKind::UnexpectedEof;
        assert!(is_cut, "{victim}: {kind}");
        assert!(TcpStream::connect(both.tls).await.is_err());
        if !is_daemon {
            let said = both.daemon.log_text();
            assert!(
                said.contains("the supervisor of sealway-hop was ended"),
                "{said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_and_a_wrong_file_are_wrong_configurations() {
    let upstream = TlsUpstream::start(&rustls::version::TLS13, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    files(&folder);
    let file = folder.path().join("sealway.toml");
    let run = async |more: &str, flags: &[&str]| {
        std::fs::write(&file, config(&upstream, 7, more).to_toml()).unwrap();
        let words = [&["run", "--config", file.to_str().unwrap()], flags].concat();
        sealway(&words).await
    };
    let missing = run("program = \"nowhere/hop\"\n", &[]).await;
    assert_eq!(missing.status, 78, "{missing:?}");
    for says in ["nowhere/hop", "hop.program", "--no-hop"] {
        assert!(missing.stderr.contains(says), "{says}: {missing:?}");
    }
    write(&folder, "hop.pem", "no certificate");
    let wrong = run("", &[]).await;
    assert_eq!(wrong.status, 78, "{wrong:?}");
    assert!(
        wrong.stderr.contains("hop.pem") && wrong.stderr.contains("sealway-hop refuses"),
        "{wrong:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_hop_the_daemon_serves_its_own_listeners_only() {
    let upstream = TlsUpstream::start(&rustls::version::TLS13, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    files(&folder);
    // Not even the program is needed.
    let config = config(&upstream, 8, "program = \"nowhere/hop\"\n");
    let daemon = Daemon::start_with_flags(folder, &config, &["--no-hop"]).await;
    let (mut clear, mut server) = direct(&daemon, &upstream).await;
    exchange(&mut clear, &mut server).await;
    assert!(TcpStream::connect(at(8, 9443)).await.is_err());
}

/// The addresses of one test: loopback has room for all processes.
fn at(number: u8, port: u16) -> SocketAddr {
    let [.., a, b] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 100 + number, a, b.max(1)], port))
}

fn config(upstream: &TlsUpstream, number: u8, hop: &str) -> Config {
    let (tls, core) = (at(number, 9443), at(number, 9296));
    Config::to(upstream.addr()).section(&format!(
        "[[listener]]\naddress = \"{tls}\"\n\
         tls = {{ certificate = \"hop.pem\", key = \"hop.key\", core = \"{core}\" }}\n\
         [hop]\naddress = \"\"\n{hop}[auth]\nclients = [\"127.0.0.0/8\"]\n"
    ))
}

/// The hop's files, and a link to its program.
fn files(folder: &TempDir) -> Authority {
    let authority = Authority::new("hop CA");
    let own = authority.server(&[NAME]);
    write(folder, "hop.pem", &own.pem);
    write(folder, "hop.key", &own.key_pem);
    write(folder, "hop.token", TOKEN);
    let program = Path::new(env!("CARGO_BIN_EXE_sealway-hop"));
    symlink(program, folder.path().join("hop")).unwrap();
    authority
}

fn replace(link: &Path, target: &Path) {
    let beside = link.with_extension("new");
    symlink(target, &beside).unwrap();
    std::fs::rename(&beside, link).unwrap();
}

/// A tunnel through the daemon's listener without TLS, and its upstream's side.
async fn direct(
    daemon: &Daemon,
    upstream: &TlsUpstream,
) -> (
    TlsStream<TcpStream>,
    tokio_rustls::server::TlsStream<TcpStream>,
) {
    let authority = upstream.authority();
    let client = tls_connect(daemon.proxy_addr(), &authority, upstream.client());
    let (client, (server, _)) = tokio::join!(client, upstream.accept());
    (client, server)
}

/// Moves a byte each way.
async fn exchange<A, B>(one: &mut A, other: &mut B)
where
    A: AsyncReadExt + AsyncWriteExt + Unpin,
    B: AsyncReadExt + AsyncWriteExt + Unpin,
{
    one.write_all(b"x").await.unwrap();
    one.flush().await.unwrap();
    assert_eq!(soon("a byte up", other.read_u8()).await.unwrap(), b'x');
    other.write_all(b"y").await.unwrap();
    other.flush().await.unwrap();
    assert_eq!(soon("a byte down", one.read_u8()).await.unwrap(), b'y');
}

/// Whether the process of a line still runs.
fn is_alive(started: &Value) -> bool {
    let pid = started["pid"].as_u64().unwrap();
    is_running(pid.try_into().unwrap())
}

/// The process that started another (proc_pid_stat).
fn parent(pid: u32) -> u32 {
    stat(pid).expect("a process")[1].parse().unwrap()
}

/// Whether a process runs: one that has ended may wait for its parent to look.
fn is_running(pid: u32) -> bool {
    // The first thread may have ended before the others, which still hold the sockets.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    threads > 1 || stat(pid).is_some_and(|fields| fields[0] != "Z" && fields[0] != "X")
}

fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// The line of the daemon about each start.
const STARTED: &str = "sealway-hop started";
/// The line of the daemon about the end of a hop.
const ENDED: &str =
    "sealway-hop ended: its tunnels are reset, and no TLS client can connect until it starts again";
