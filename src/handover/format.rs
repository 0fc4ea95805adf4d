//! The description of a parcel as text: a head, one line for each tunnel, one line for each buffer
//! with bytes. The head names the format, so that a daemon refuses what it does not understand.
//! Reads any bytes without a panic, and trusts no number in them.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::parallel::in_parallel;
use super::state::{Change, Line, SideState, TunnelState};

/// The first line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`]. Changes only if an older daemon must not read it.
    pub version: u32,
    /// The version of the daemon that wrote it.
    #[serde(default)]
    pub daemon: String,
    /// When the tunnels were frozen, on the clock of [`crate::sys::parcel::monotonic`].
    pub frozen_ns: u64,
    /// The number of tunnels.
    pub tunnels: usize,
    /// The number of descriptors.
    pub descriptors: usize,
    /// The egress addresses of the tunnels.
    #[serde(default)]
    pub egress: Vec<IpAddr>,
    /// What users owe for bytes that have moved.
    #[serde(default)]
    pub debts: Vec<Debt>,
    /// Failed log-ins.
    #[serde(default)]
    pub lockout: LockoutState,
    /// What this completes; None: it is complete without another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// The request of the next daemon that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u32>,
}

/// How a description completes one that was sent ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// The number of changed tunnels, of which each has a line.
    pub changed: usize,
    /// The tunnels that have ended, by the places of their lines in the description that was sent ahead.
    pub ended: Vec<usize>,
}

/// A user's debt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// The user.
    pub user: String,
    /// How long after the freeze all moved bytes are paid for at the user's pace.
    pub due_us: u64,
}

/// The table of failed log-ins, by keyed hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockoutState {
    /// The key of the hashes, in hexadecimal digits.
    #[serde(default)]
    pub key: String,
    /// The entries.
    #[serde(default)]
    pub entries: Vec<FailuresState>,
}

/// Failures under one hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailuresState {
    /// The hash of the name, client or site.
    pub of: u64,
    /// Different secrets.
    pub secrets: u32,
    /// All failures.
    pub tries: u32,
    /// Whether it is locked.
    pub locked: bool,
    /// Since the first failure, or the one that locked.
    pub since_ms: u64,
    /// Hashes of the last secrets.
    #[serde(default)]
    pub last: Vec<u64>,
}

/// A line after those of the tunnels.
#[derive(Serialize, Deserialize)]
struct HeldLine<'a> {
    /// The place of the tunnel's line; 0 is the first.
    held: usize,
    /// Where the bytes come from.
    from: SideState,
    /// Base64, which needs no escapes, so that it is never copied.
    bytes: &'a str,
}

/// What of a tunnel's line is needed even if the rest is not understood.
#[derive(Deserialize)]
struct Least {
    descriptors: usize,
}

/// A tunnel and the bytes of its buffers, from the client and from the upstream.
#[derive(Clone, Debug)]
pub struct Described<S = TunnelState> {
    /// Its state; Err: its line is not understood, with the reason.
    pub state: Result<Box<S>, String>,
    /// The number of its descriptors.
    pub descriptors: usize,
    /// Bytes of the client that the upstream has not taken yet.
    pub up: Zeroizing<Vec<u8>>,
    /// Bytes of the upstream that the client has not taken yet.
    pub down: Zeroizing<Vec<u8>>,
}

/// A whole description.
#[derive(Clone, Debug)]
pub struct Description<S = TunnelState> {
    /// The head.
    pub head: Head,
    /// The tunnels in the order of their descriptors.
    pub tunnels: Vec<Described<S>>,
}

/// Why a description is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The first line is missing or no head.
    #[error("its head is not understood: {0}")]
    Head(String),
    /// Another format, or a version that this daemon does not know.
    #[error("it has the format {0} {1}, and this daemon reads {FORMAT} {VERSION}")]
    Version(String, u32),
    /// Lines of tunnels are missing.
    #[error("it has {0} of {1} tunnels")]
    Cut(usize, usize),
    /// A description alone where changes are expected, or changes alone where a description is.
    #[error("it is one part of two, and the other one is expected")]
    Part,
    /// The line of a change.
    #[error("a change is not understood: {0}")]
    Change(String),
}

impl Head {
    /// The time since the freeze.
    #[must_use]
    pub fn since(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_nanos(self.frozen_ns))
    }

    /// The number of lines of tunnels that follow.
    fn lines(&self) -> usize {
        self.since
            .as_ref()
            .map_or(self.tunnels, |since| since.changed)
    }
}

/// Writes one value as one line.
pub fn append(value: &impl Serialize, lines: &mut Vec<u8>) {
    // Serialising fails only for maps whose keys are not strings, and there is none.
    let _never_fails = serde_json::to_writer(&mut *lines, value);
    lines.push(b'\n');
}

/// Writes the bytes of a buffer as one line, for the tunnel in this place.
pub fn append_held(tunnel: usize, from: SideState, bytes: &[u8], lines: &mut Vec<u8>) {
    let bytes = Zeroizing::new(STANDARD_NO_PAD.encode(bytes));
    let line = HeldLine {
        held: tunnel,
        from,
        bytes: &bytes,
    };
    append(&line, lines);
}

/// Reads the head alone.
///
/// # Errors
/// As [`read`].
pub fn read_head(bytes: &[u8]) -> Result<Head, FormatError> {
    let line = lines(bytes).next();
    let head = serde_json::from_slice::<Head>(line.unwrap_or_default())
        .map_err(|error| FormatError::Head(error.to_string()))?;
    if head.format != FORMAT || head.version != VERSION {
        return Err(FormatError::Version(head.format, head.version));
    }
    Ok(head)
}

/// Reads a whole description. A tunnel's line that is not understood fails for that tunnel only.
///
/// # Errors
/// The head is not understood, or tunnels are missing.
pub fn read(bytes: &[u8]) -> Result<Description, FormatError> {
    let description = read_as(bytes)?;
    match description.head.since {
        None => Ok(description),
        Some(_) => Err(FormatError::Part),
    }
}

/// Reads what has changed since a description was sent ahead.
///
/// # Errors
/// The head or a change is not understood, or changes are missing.
pub fn read_changes(bytes: &[u8]) -> Result<Description<Change>, FormatError> {
    let changes = read_as::<Change>(bytes)?;
    if changes.head.since.is_none() {
        return Err(FormatError::Part);
    }
    let mut reasons = changes
        .tunnels
        .iter()
        .filter_map(|one| one.state.as_ref().err());
    match reasons.next() {
        Some(reason) => Err(FormatError::Change(reason.clone())),
        None => Ok(changes),
    }
}

fn read_as<S: Line>(bytes: &[u8]) -> Result<Description<S>, FormatError> {
    let head = read_head(bytes)?;
    let expected = head.lines();
    let mut lines = lines(bytes).skip(1);
    let of_tunnels = lines.by_ref().take(expected);
    let of_tunnels: Vec<&[u8]> = of_tunnels.take_while(|line| !line.is_empty()).collect();
    let tunnels = in_parallel(&of_tunnels, |line| read_tunnel(line)).into_iter();
    let mut tunnels: Vec<Described<S>> = tunnels.map_while(|tunnel| tunnel).collect();
    if tunnels.len() != expected {
        return Err(FormatError::Cut(tunnels.len(), expected));
    }
    for line in lines.filter(|line| !line.is_empty()) {
        // A kind of line that a newer daemon writes.
        let Ok(held) = serde_json::from_slice::<HeldLine>(line) else {
            continue;
        };
        let (Some(tunnel), Ok(bytes)) = (
            tunnels.get_mut(held.held),
            STANDARD_NO_PAD.decode(held.bytes.as_bytes()),
        ) else {
            continue;
        };
        match held.from {
            SideState::Client => tunnel.up = bytes.into(),
            SideState::Upstream => tunnel.down = bytes.into(),
        }
    }
    Ok(Description { head, tunnels })
}

/// The lines after those of the tunnels, which have payload. All, if the head is not understood.
pub(super) fn held_part(bytes: &mut [u8]) -> &mut [u8] {
    let tunnels = read_head(bytes).map_or(0, |head| head.lines().saturating_add(1));
    let begin = match tunnels.checked_sub(1) {
        None => 0,
        Some(last) => memchr::memchr_iter(b'\n', bytes)
            .nth(last)
            .unwrap_or(bytes.len()),
    };
    bytes.get_mut(begin..).unwrap_or_default()
}

/// The lines, without their line feeds.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut left = Some(bytes);
    std::iter::from_fn(move || {
        let rest = left.take()?;
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let (line, rest) = rest.split_at_checked(end)?;
        left = rest.get(1..);
        Some(line)
    })
}

/// None if it is no line of a tunnel at all.
fn read_tunnel<S: Line>(line: &[u8]) -> Option<Described<S>> {
    // Looks at the encoding once, and not once for each of its texts.
    let state = match std::str::from_utf8(line) {
        Ok(line) => serde_json::from_str(line),
        Err(_) => serde_json::from_slice(line),
    };
    let state = state.map_err(|error: serde_json::Error| error.to_string());
    let state: Result<Box<S>, _> = state.map(Box::new);
    let descriptors = match &state {
        Ok(state) => state.descriptors(),
        Err(_) => serde_json::from_slice::<Least>(line).ok()?.descriptors,
    };
    Some(Described {
        state,
        descriptors,
        up: Zeroizing::default(),
        down: Zeroizing::default(),
    })
}

/// The name of the format.
pub const FORMAT: &str = "sealway-handover";
/// The version of the format.
pub const VERSION: u32 = 1;
/// The most bytes of a description: 60,000 tunnels of 2 KiB, and their buffers.
pub const DESCRIPTION_BYTES_MAX: u64 = 512 << 20;
