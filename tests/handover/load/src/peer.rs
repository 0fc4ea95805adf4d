//! One end of a tunnel: it sends and receives as its plan says until the run ends, and reports what it has moved.

use std::io;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::clock::now;
use crate::frame::{Incoming, Outgoing};
use crate::kind::{Kind, Plan, Sending};
use crate::stats::Shared;

/// The recorded handshake.
pub(crate) struct Greeting {
    pub(crate) hello: Vec<u8>,
    pub(crate) answer: Vec<u8>,
}

/// What precedes the frames: the tunnel's number and its kind.
pub(crate) const INTRODUCTION: usize = 8;

/// The introduction's bytes.
pub(crate) fn introduction(tunnel: u32, kind: Kind) -> [u8; INTRODUCTION] {
    let [a, b, c, d] = tunnel.to_le_bytes();
    [a, b, c, d, kind as u8, 0, 0, 0]
}

/// What one end has moved.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) tunnel: u32,
    pub(crate) kind: Kind,
    /// This end's own address.
    local: String,
    sent: u64,
    sent_sha256: String,
    received: u64,
    received_sha256: String,
    /// What went wrong first.
    pub(crate) error: Option<String>,
}

/// One end of a tunnel whose introduction is over.
pub(crate) struct Peer {
    pub(crate) tunnel: u32,
    pub(crate) kind: Kind,
    pub(crate) plan: Plan,
    pub(crate) stats: Shared,
    /// True from the end of the run on.
    pub(crate) finish: watch::Receiver<bool>,
}

impl Peer {
    /// Sends and receives until both directions have ended.
    pub(crate) async fn run(self, stream: TcpStream) -> Report {
        let local = stream.local_addr();
        let (reader, writer) = stream.into_split();
        let (returns, to_return) = mpsc::unbounded_channel();
        let mut incoming = Incoming::new(self.tunnel);
        let mut outgoing = Outgoing::new(self.tunnel);
        let (received, sent) = tokio::join!(
            self.receive(reader, &mut incoming, returns),
            self.send(writer, &mut outgoing, to_return)
        );
        let error = received
            .err()
            .or(sent.err().map(|error| format!("send: {error}")));
        let (sent, sent_sha256) = outgoing.sum();
        let (received, received_sha256) = incoming.sum();
        Report {
            tunnel: self.tunnel,
            kind: self.kind,
            local: local.map_or_else(|error| error.to_string(), |address| address.to_string()),
            sent,
            sent_sha256,
            received,
            received_sha256,
            error,
        }
    }

    async fn receive(
        &self,
        reader: OwnedReadHalf,
        incoming: &mut Incoming,
        returns: mpsc::UnboundedSender<u64>,
    ) -> Result<(), String> {
        let ended = self.receive_all(reader, incoming, returns).await;
        if let Err(why) = &ended {
            self.stats.borrow_mut().lost(self.tunnel, why);
        }
        self.stats.borrow_mut().over(self.tunnel);
        ended
    }

    async fn receive_all(
        &self,
        mut reader: OwnedReadHalf,
        incoming: &mut Incoming,
        returns: mpsc::UnboundedSender<u64>,
    ) -> Result<(), String> {
        let mut finish = self.finish.clone();
        if self.plan.reads_late {
            let _ = finish.wait_for(|is_over| *is_over).await;
        }
        let mut buffer = vec![
            0;
            if self.kind.is_timed() {
                2048
            } else {
                64 * 1024
            }
        ];
        loop {
            let count = reader.read(&mut buffer).await;
            let count = count.map_err(|error| format!("receive: {error}"))?;
            if count == 0 {
                break;
            }
            self.stats.borrow_mut().bytes(self.tunnel);
            incoming.take(buffer.get(..count).unwrap_or_default(), |sent| {
                self.stats.borrow_mut().frame(self.tunnel, sent);
                let _ = returns.send(sent);
            })?;
        }
        if !incoming.is_whole() {
            return Err("ended within a frame".to_string());
        }
        let may_end = self.plan.peer_ends_early || self.stats.borrow().is_ending;
        if !may_end && !*finish.borrow() {
            return Err("ended before the run did".to_string());
        }
        Ok(())
    }

    async fn send(
        &self,
        writer: OwnedWriteHalf,
        outgoing: &mut Outgoing,
        to_return: mpsc::UnboundedReceiver<u64>,
    ) -> io::Result<()> {
        let ended = self.send_all(writer, outgoing, to_return).await;
        if let Err(error) = &ended {
            let why = format!("send: {error}");
            self.stats.borrow_mut().lost(self.tunnel, &why);
        }
        ended
    }

    async fn send_all(
        &self,
        mut writer: OwnedWriteHalf,
        outgoing: &mut Outgoing,
        to_return: mpsc::UnboundedReceiver<u64>,
    ) -> io::Result<()> {
        let size = self.plan.sending.size();
        let mut finish = self.finish.clone();
        match self.plan.sending {
            Sending::Nothing => drop(finish.wait_for(|is_over| *is_over).await),
            Sending::Every(period, _) => self.send_every(&mut writer, outgoing, period).await?,
            Sending::Full => {
                while !*finish.borrow_and_update() {
                    writer.write_all(outgoing.frame(size, now())).await?;
                }
            }
            Sending::AFew => {
                for _ in 0..3 {
                    writer.write_all(outgoing.frame(size, now())).await?;
                }
            }
            Sending::Returns => send_back(&mut writer, outgoing, to_return, size).await?,
        }
        writer.shutdown().await
    }

    async fn send_every(
        &self,
        writer: &mut OwnedWriteHalf,
        outgoing: &mut Outgoing,
        period: Duration,
    ) -> io::Result<()> {
        let size = self.plan.sending.size();
        let mut finish = self.finish.clone();
        // The tunnels take turns within a period.
        let turn = period * (self.tunnel.wrapping_mul(2_654_435_761) >> 16) / 65_536;
        let mut ticks = interval_at(Instant::now() + turn, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = finish.wait_for(|is_over| *is_over) => return Ok(()),
                _ = ticks.tick() => writer.write_all(outgoing.frame(size, now())).await?,
            }
        }
    }
}

async fn send_back(
    writer: &mut OwnedWriteHalf,
    outgoing: &mut Outgoing,
    mut to_return: mpsc::UnboundedReceiver<u64>,
    size: usize,
) -> io::Result<()> {
    while let Some(sent) = to_return.recv().await {
        writer.write_all(outgoing.frame(size, sent)).await?;
    }
    Ok(())
}
