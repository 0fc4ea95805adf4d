//! A daemon whose audit writer is stuck: what an operator asks for is refused, and nothing changes.

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc as std_mpsc;

use crate::daemon::*;

/// Takes nothing until the other end of the channel is dropped.
struct Stuck(std_mpsc::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _released = self.0.recv();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The status of the answer to an operator's request.
fn operate(daemon: &Daemon, path: &str) -> String {
    let mut stream = TcpStream::connect(daemon.admin().unwrap()).unwrap();
    let head = "Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close";
    write!(stream, "POST {path} HTTP/1.1\r\n{head}\r\n\r\n{{}}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.get(9..12).unwrap_or_default().to_owned()
}

#[test]
fn an_operator_changes_nothing_without_a_record_of_it() {
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[egress]\naddresses = [\"127.0.0.1\"]";
    let config = Config::parse(Path::new("sealway.toml"), text, &Overrides::default()).unwrap();
    let (release, stuck) = std_mpsc::channel();
    let daemon = Daemon::start(config, Origin::default(), Stuck(stuck)).unwrap();
    assert_eq!(operate(&daemon, "/undrain"), "200", "there is room for it");
    let record = || DaemonRecord::Stop {
        ts: timestamp(),
        drained: 0,
    };
    while daemon.shared.evidence.audit.daemon(record()) {}
    for path in ["/drain", "/reload"] {
        assert_eq!(operate(&daemon, path), "503", "{path}");
    }
    assert!(daemon.shared.lifecycle.drain.load().is_none());
    drop(release);
    daemon.stop(std::future::ready(()));
}
