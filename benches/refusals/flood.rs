//! A network of clients, on a TUN device: each connects, sends a request that is refused, and
//! closes when the daemon has answered (RFC 9293). To the daemon they are regular peers, with
//! handshake, request and close. Here they are packets, because sockets would take the cores from
//! the measured daemon.
//!
//! The next packet of a client follows from the packet received, so the flood keeps one bit for
//! each connection: whether the daemon has answered and closed it. It never retransmits: a lost
//! packet is a connection less, unless the daemon's side retransmits.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use smoltcp::phy::{ChecksumCapabilities, Device, Medium, RxToken, TunTapInterface, TxToken};
use smoltcp::wire::{
    IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

/// A running flood.
pub(crate) struct Flood {
    proxy: SocketAddrV4,
    crowd: Crowd,
    /// The requests that clients send in turn.
    requests: Vec<Vec<u8>>,
    /// A bit for each address and port: the connection was answered and closed.
    answered: Vec<u64>,
    progress: Progress,
}

/// The source addresses of a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crowd {
    first: Ipv4Addr,
    clients: u32,
}

/// The progress of a flood.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// The time: microseconds of Unix time.
    pub(crate) at: u64,
    /// Connections started.
    pub(crate) opened: u64,
    /// Connections that the daemon answered and closed with FIN.
    pub(crate) answered: u64,
    /// Resets received.
    pub(crate) reset: u64,
}

impl Crowd {
    /// Sixteen addresses beside the daemon's.
    pub(crate) const NEAR: Self = Self {
        first: Ipv4Addr::new(192, 0, 2, 1),
        clients: 16,
    };

    /// This many addresses of the benchmarking network.
    pub(crate) fn far(clients: u32) -> Self {
        Self {
            first: Ipv4Addr::new(198, 18, 0, 1),
            clients: clients.clamp(1, 65_536),
        }
    }

    fn address(self, number: u64) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() + (number % u64::from(self.clients)) as u32)
    }

    fn port(self, number: u64) -> u16 {
        FIRST_PORT + (number / u64::from(self.clients) % PORTS) as u16
    }

    /// The index of a connection among all possible ones.
    fn place(self, address: Ipv4Addr, port: u16) -> usize {
        let client = address.to_bits().wrapping_sub(self.first.to_bits()) as usize;
        client * PORTS as usize + usize::from(port.wrapping_sub(FIRST_PORT))
    }
}

impl Flood {
    pub(crate) fn new(proxy: SocketAddrV4, crowd: Crowd, requests: Vec<Vec<u8>>) -> Self {
        let places = u64::from(crowd.clients) * PORTS;
        Self {
            proxy,
            crowd,
            requests,
            answered: vec![0; (places / 64 + 1) as usize],
            progress: Progress::default(),
        }
    }

    /// Makes `rate` connections a second until standard input ends, and prints its progress fifty times a second.
    pub(crate) fn run(mut self, rate: u64) -> io::Result<()> {
        let mut network = TunTapInterface::new(DEVICE, Medium::Ip)?;
        let (began, mut told) = (Instant::now(), Instant::now());
        let over = at_end_of_input();
        while !over.load(Ordering::Relaxed) {
            let due = began.elapsed().as_micros() as u64 * rate / 1_000_000;
            let until = due.min(self.progress.opened + BURST);
            (self.progress.opened..until).for_each(|number| self.connect(&mut network, number));
            self.progress.opened = until;
            while let Some((packet, tx)) = network.receive(smoltcp::time::Instant::ZERO) {
                packet.consume(|packet| self.answer(packet, tx));
            }
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                self.progress.print()?;
            }
            // Like a network card that coalesces its interrupts.
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// The first packet of a client. All other ports are used before an address and port recurs.
    fn connect(&self, network: &mut TunTapInterface, number: u64) {
        // Above the sequence numbers of the former connection with this port, which the other side
        // may remember (TIME-WAIT).
        let clock = unix_micros() / 4;
        let syn = TcpRepr {
            src_port: self.crowd.port(number),
            dst_port: self.proxy.port(),
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
            send(tx, self.crowd.address(number), *self.proxy.ip(), &syn);
        }
    }

    /// Replies to the second packet of a handshake with the third and the request, and to a close
    /// with the client's own.
    fn answer(&mut self, packet: &[u8], tx: impl TxToken) -> Option<()> {
        let ip = Ipv4Packet::new_checked(packet).ok()?;
        let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
        self.progress.reset += u64::from(tcp.rst());
        let place = self.crowd.place(ip.dst_addr(), tcp.dst_port());
        let (control, payload) = match (tcp.rst(), tcp.syn(), tcp.fin()) {
            (false, true, false) => (TcpControl::Psh, self.request(place)),
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
        if tcp.fin() {
            self.note(place);
        }
        Some(())
    }

    /// The request of the connection with this index: clients and moments take turns.
    fn request(&self, place: usize) -> &[u8] {
        let (client, port) = (place / PORTS as usize, place % PORTS as usize);
        let turn = (client + port) % self.requests.len().max(1);
        self.requests.get(turn).map_or(b"", Vec::as_slice)
    }

    /// Counts each connection once, however often the daemon's side sends its FIN.
    fn note(&mut self, place: usize) {
        if let Some(bits) = self.answered.get_mut(place / 64) {
            let bit = 1 << (place % 64);
            self.progress.answered += u64::from(*bits & bit == 0);
            *bits |= bit;
        }
    }
}

impl Progress {
    fn print(&mut self) -> io::Result<()> {
        self.at = unix_micros();
        let Self {
            at,
            opened,
            answered,
            reset,
        } = self;
        writeln!(io::stdout(), "{at} {opened} {answered} {reset}")
    }

    /// Reads the output of a flood.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut numbers = line.split(' ').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Self {
            at: next()?,
            opened: next()?,
            answered: next()?,
            reset: next()?,
        })
    }
}

pub(crate) fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as u64
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
        let _ignored = io::stdin().read_to_end(&mut Vec::new());
        ended.store(true, Ordering::Relaxed);
    });
    over
}

/// The network's device.
pub(crate) const DEVICE: &str = "flood";
/// Its addresses (RFC 5737).
pub(crate) const NETWORK: &str = "192.0.2.0/24";
/// Further ones that are routed to it (RFC 2544).
pub(crate) const FAR_NETWORK: &str = "198.18.0.0/15";
/// The daemon's, the last but one.
pub(crate) const DAEMON: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const FIRST_PORT: u16 = 10_000;
const PORTS: u64 = 50_000;
const WINDOW: u16 = 65_535;
/// Connections to start before answers are read.
const BURST: u64 = 64;
const TICK: Duration = Duration::from_micros(250);
const PROGRESS: Duration = Duration::from_millis(20);
