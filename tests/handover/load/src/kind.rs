//! The kinds of tunnels, and what each end of one does.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::frame::LONGEST;

/// How often a stream sends, and how much: 10 KB/s.
const STREAM_PERIOD: Duration = Duration::from_millis(20);
const STREAM_SIZE: usize = 200;
const PING_SIZE: usize = 64;

/// How much bulk there is.
#[derive(Args)]
pub(crate) struct Bulk {
    /// The bytes that each bulk tunnel moves in a second; twenty of them leave the processors of most machines some time.
    #[arg(long, default_value_t = 10_000_000)]
    bulk_rate: u32,
}

impl Bulk {
    /// How often such a tunnel sends the longest frame.
    pub(crate) fn period(&self) -> Duration {
        Duration::from_secs(1) * u32::try_from(LONGEST).unwrap_or(u32::MAX) / self.bulk_rate.max(1)
    }
}

/// What a tunnel is used for. The number is what the upstream reads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub(crate) enum Kind {
    /// The client sends a small frame now and then, and the upstream returns it.
    Idle = 0,
    /// Both ends send a small frame every 20 ms.
    Stream = 1,
    /// The upstream sends so many bytes a second.
    BulkDown = 2,
    /// The client sends so many bytes a second.
    BulkUp = 3,
    /// The upstream sends as fast as it can, and the client reads nothing before the end.
    StalledDown = 4,
    /// The client sends as fast as it can, and the upstream reads nothing before the end.
    StalledUp = 5,
    /// The client ends its side at once, and the upstream streams on.
    HalfUp = 6,
    /// The upstream ends its side at once, and the client streams on.
    HalfDown = 7,
    /// The upstream sends as fast as it can, to a user whose rate the proxy limits.
    PacedDown = 8,
    /// That user sends as fast as it can.
    PacedUp = 9,
    /// One frame and its return, then both ends close.
    Newcomer = 10,
}

impl Kind {
    /// The kind with this number.
    pub(crate) fn of(number: u8) -> Option<Kind> {
        let mut all = Kind::value_variants().iter();
        all.find(|kind| **kind as u8 == number).copied()
    }

    /// Whether the tunnel belongs to the user whose rate is limited.
    pub(crate) fn is_paced(self) -> bool {
        matches!(self, Kind::PacedDown | Kind::PacedUp)
    }

    /// Whether the time that a frame carries says how long the proxy held it. Bulk waits in the kernel's buffers.
    pub(crate) fn is_timed(self) -> bool {
        matches!(
            self,
            Kind::Idle | Kind::Stream | Kind::HalfUp | Kind::HalfDown | Kind::Newcomer
        )
    }

    /// What the client does, with a frame of an idle tunnel in each `ping` and a longest one of bulk in each `bulk`.
    pub(crate) fn client(self, ping: Duration, bulk: Duration) -> Plan {
        let sending = match self {
            Kind::Idle | Kind::Newcomer => Sending::Every(ping, PING_SIZE),
            Kind::Stream | Kind::HalfDown => Sending::Every(STREAM_PERIOD, STREAM_SIZE),
            Kind::BulkUp => Sending::Every(bulk, LONGEST),
            Kind::StalledUp | Kind::PacedUp => Sending::Full,
            Kind::BulkDown | Kind::StalledDown | Kind::PacedDown => Sending::Nothing,
            Kind::HalfUp => Sending::AFew,
        };
        Plan {
            sending,
            hears: !matches!(self, Kind::BulkUp | Kind::StalledUp | Kind::PacedUp),
            reads_late: self == Kind::StalledDown,
            peer_ends_early: self == Kind::HalfDown,
        }
    }

    /// What the upstream does, with a longest frame of bulk in each `bulk`.
    pub(crate) fn upstream(self, bulk: Duration) -> Plan {
        let sending = match self {
            Kind::Idle | Kind::Newcomer => Sending::Returns,
            Kind::Stream | Kind::HalfUp => Sending::Every(STREAM_PERIOD, STREAM_SIZE),
            Kind::BulkDown => Sending::Every(bulk, LONGEST),
            Kind::StalledDown | Kind::PacedDown => Sending::Full,
            Kind::BulkUp | Kind::StalledUp | Kind::PacedUp => Sending::Nothing,
            Kind::HalfDown => Sending::AFew,
        };
        Plan {
            sending,
            hears: !matches!(self, Kind::BulkDown | Kind::StalledDown | Kind::PacedDown),
            reads_late: self == Kind::StalledUp,
            peer_ends_early: matches!(self, Kind::HalfUp | Kind::Newcomer),
        }
    }
}

/// What one end of a tunnel does.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) sending: Sending,
    /// The peer sends something before the end of the run.
    pub(crate) hears: bool,
    /// Reads nothing before the end of the run.
    pub(crate) reads_late: bool,
    /// The peer ends its side before the end of the run.
    pub(crate) peer_ends_early: bool,
}

/// What an end sends.
#[derive(Clone, Copy)]
pub(crate) enum Sending {
    Nothing,
    /// A frame of this size in each period.
    Every(Duration, usize),
    /// Frames of the longest size, without a pause.
    Full,
    /// Three small frames, and then the end of its side.
    AFew,
    /// Each received frame goes back with the time that it carries.
    Returns,
}

impl Sending {
    /// The size of the frames.
    pub(crate) fn size(self) -> usize {
        match self {
            Sending::Every(_, size) => size,
            Sending::Full => LONGEST,
            Sending::Nothing | Sending::AFew | Sending::Returns => PING_SIZE,
        }
    }
}
