//! A network full of clients, on a TUN device: each connects, asks for what is not allowed, and closes when it has been
//! answered (RFC 9293). To the daemon they are peers like any other, with handshake, request and close in due form; here
//! they are packets, for sockets would take the cores from what is measured.
//!
//! It keeps nothing of a connection: what a client says next follows from the packet that has come. So it sends nothing
//! twice, and a packet that is lost is a connection less, unless the daemon's side sends again.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use smoltcp::phy::{ChecksumCapabilities, Device, Medium, RxToken, TunTapInterface, TxToken};
use smoltcp::wire::{
    IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

/// Makes `rate` connections a second until standard input ends.
pub(crate) fn run(proxy: SocketAddrV4, rate: u64) -> io::Result<()> {
    let mut network = TunTapInterface::new(DEVICE, Medium::Ip)?;
    let (began, mut opened) = (Instant::now(), 0);
    let over = at_end_of_input();
    while !over.load(Ordering::Relaxed) {
        let due = began.elapsed().as_micros() as u64 * rate / 1_000_000;
        let until = due.min(opened + BURST);
        (opened..until).for_each(|number| connect(&mut network, number, proxy));
        opened = until;
        while let Some((packet, tx)) = network.receive(smoltcp::time::Instant::ZERO) {
            packet.consume(|packet| answer(packet, tx));
        }
        // As a network card holds its interrupts back.
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// The first packet of a client; nobody has had its address and port for half a minute.
fn connect(network: &mut TunTapInterface, number: u64, proxy: SocketAddrV4) {
    let from = Ipv4Addr::new(192, 0, 2, FIRST_CLIENT + (number % CLIENTS) as u8);
    let port = FIRST_PORT + (number / CLIENTS % PORTS) as u16;
    // Above the numbers of the one before with this port, whom the other side may remember (TIME-WAIT).
    let clock = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros()
        / 4;
    let syn = TcpRepr {
        src_port: port,
        dst_port: proxy.port(),
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(clock as i32),
        ack_number: None,
        window_len: WINDOW,
        window_scale: None,
        max_seg_size: Some(1_460),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: b"",
    };
    if let Some(tx) = network.transmit(smoltcp::time::Instant::ZERO) {
        send(tx, from, *proxy.ip(), &syn);
    }
}

/// To the second packet of a handshake the third, with the request; to a close the client's own.
fn answer(packet: &[u8], tx: impl TxToken) -> Option<()> {
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
    let (control, payload) = match (tcp.rst(), tcp.syn(), tcp.fin()) {
        (false, true, false) => (TcpControl::Psh, REQUEST),
        (false, false, true) => (TcpControl::Fin, b"".as_slice()),
        _ => return None,
    };
    let reply = TcpRepr {
        src_port: tcp.dst_port(),
        dst_port: tcp.src_port(),
        control,
        seq_number: tcp.ack_number(),
        ack_number: Some(tcp.seq_number() + tcp.segment_len()),
        window_len: WINDOW,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    };
    send(tx, ip.dst_addr(), ip.src_addr(), &reply);
    Some(())
}

fn send(tx: impl TxToken, from: Ipv4Addr, to: Ipv4Addr, tcp: &TcpRepr<'_>) {
    let (next_header, payload_len) = (IpProtocol::Tcp, tcp.buffer_len());
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header,
        payload_len,
        hop_limit: 64,
    };
    let checksums = ChecksumCapabilities::default();
    tx.consume(ip.buffer_len() + payload_len, |buffer| {
        let mut packet = Ipv4Packet::new_unchecked(buffer);
        ip.emit(&mut packet, &checksums);
        tcp.emit(
            &mut TcpPacket::new_unchecked(packet.payload_mut()),
            &from.into(),
            &to.into(),
            &checksums,
        );
    });
}

fn at_end_of_input() -> Arc<AtomicBool> {
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    std::thread::spawn(move || {
        let _whatever_it_said = io::stdin().read_to_end(&mut Vec::new());
        ended.store(true, Ordering::Relaxed);
    });
    over
}

/// The network's device.
pub(crate) const DEVICE: &str = "flood";
/// Its addresses (RFC 5737).
pub(crate) const NETWORK: &str = "192.0.2.0/24";
/// The daemon's, the last but one.
pub(crate) const DAEMON: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const REQUEST: &[u8] = b"CONNECT nobody.example:443 HTTP/1.1\r\n\r\n";
const FIRST_CLIENT: u8 = 1;
const CLIENTS: u64 = 16;
const FIRST_PORT: u16 = 10_000;
const PORTS: u64 = 50_000;
const WINDOW: u16 = 65_535;
/// Connections before answers are looked for.
const BURST: u64 = 64;
const TICK: Duration = Duration::from_micros(250);
