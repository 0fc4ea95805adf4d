//! Attacks on the listening sockets from another process of the same machine: a process that binds
//! a second socket to the port reads the heads of the connections that it gets, credentials
//! included.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel};
use support::workers::worker_sleeps;

/// The test has the daemon's uid, the only condition of `SO_REUSEPORT`. An address more specific
/// than the daemon's would get every connection.
#[tokio::test]
async fn no_other_socket_gets_a_share_of_the_clients() {
    let cases = [
        (
            "127.0.0.1:0",
            "127.0.0.1",
            ["127.0.0.1", "0.0.0.0", "::"].as_slice(),
        ),
        (
            "0.0.0.0:0",
            "127.0.0.1",
            &["127.0.0.1", "0.0.0.0", "127.0.0.9", "::"],
        ),
        ("[::1]:0", "::1", &["::1", "::"]),
        ("[::]:0", "::1", &["::1", "::"]),
    ];
    let mut wrong = Vec::new();
    for workers in [1, 2, 5] {
        for (listener, target, thieves) in cases {
            let (daemon, _) = start(listener, workers).await;
            let clients = SocketAddr::new(target.parse().unwrap(), daemon.proxy_addr().port());
            let admin = (
                daemon.admin_addr(),
                ["127.0.0.1", "0.0.0.0", "::"].as_slice(),
            );
            for (at, thieves) in [(clients, thieves), admin] {
                for thief in thieves {
                    for options in [(true, true), (true, false), (false, true)] {
                        let stolen = stolen(
                            at,
                            SocketAddr::new(thief.parse().unwrap(), at.port()),
                            options,
                        );
                        if stolen != Err(ErrorKind::AddrInUse) {
                            wrong.push(format!(
                                "{workers} workers on {listener}: {thief} {options:?} {stolen:?} of {at}"
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The clients of the socket that all workers share are spread over them, and none is lost while it
/// is closed.
#[tokio::test]
async fn the_clients_of_one_socket_are_spread_over_the_workers() {
    let (mut daemon, upstream) = start("127.0.0.1:0", 2).await;
    let mut tunnels = Vec::new();
    for _ in 0..100 {
        tunnels.push(Tunnel::open(&daemon, &upstream).await);
    }
    let woken = worker_sleeps(&daemon);
    let (least, most) = (woken.iter().min().unwrap(), woken.iter().max().unwrap());
    assert!(
        woken.len() == 2 && *least * 3 > *most,
        "one worker had nearly all of it: {woken:?}"
    );
    drop(tunnels);
    // Connected and not accepted yet, or accepted: each gets a reply when the daemon drains.
    let waiting: Vec<_> = (0..50)
        .map(|_| TcpStream::connect(daemon.proxy_addr()).unwrap())
        .collect();
    daemon.signal("TERM");
    for mut client in waiting {
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client
            .write_all(b"CONNECT a.example:443 HTTP/1.1\r\n\r\n")
            .unwrap();
        let mut head = [0; 9];
        client.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 ");
    }
    assert!(daemon.exit_status().await.success());
}

async fn start(listener: &str, workers: usize) -> (Daemon, RawUpstream) {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr())
        .listener(&format!("address = {listener:?}\nallow_cleartext = true"))
        .section("[auth]\nclients = [\"127.0.0.0/8\", \"::1/128\"]")
        .section(&format!("[relay]\nworkers = {workers}"))
        .section("[timeouts]\ndrain = \"2s\"");
    (Daemon::start(&config).await, upstream)
}

/// How many of 200 connections to `target` the thief gets; the error if it cannot listen.
fn stolen(
    target: SocketAddr,
    thief: SocketAddr,
    (port, address): (bool, bool),
) -> Result<usize, ErrorKind> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(thief), Type::STREAM, None)?;
        socket.set_reuse_port(port)?;
        socket.set_reuse_address(address)?;
        if thief.is_ipv6() {
            // `::` accepts IPv4 clients too.
            socket.set_only_v6(target.is_ipv6())?;
        }
        socket.bind(&thief.into())?;
        socket.listen(256)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket: Socket = listen().map_err(|error: std::io::Error| error.kind())?;
    let mut stolen = 0;
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(TcpStream::connect_timeout(&target, DEADLINE).map_err(|error| error.kind())?);
        stolen += usize::from(socket.accept().is_ok());
    }
    Ok(stolen)
}

const DEADLINE: Duration = Duration::from_secs(10);
