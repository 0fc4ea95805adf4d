//! The warm sockets of one source and one upstream: which one a tunnel gets, which are unusable, how many to open. Never
//! opens one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::demand::{PERIOD, Recent};
use super::socket::SocketState;
use super::{Closed, Key, WarmSocket};
use crate::authority::Host;
use crate::outcome::CloseReason;

/// The sockets of one key, the oldest first.
#[derive(Debug)]
pub(super) struct KeyPool {
    pub(super) key: Key,
    /// The name of the last tunnel over it.
    pub(super) host: Host,
    pub(super) idle: VecDeque<WarmSocket>,
    /// Sockets that a worker opens now.
    pub(super) opening: usize,
    pub(super) recent: Recent,
    /// How long a connect takes.
    pub(super) rtt: Duration,
    /// How many sockets may be opened before the next tunnel.
    pub(super) credit: usize,
    /// The end of the pause after a failed connect.
    pub(super) paused_until: Option<Instant>,
}

impl KeyPool {
    pub(super) fn new(key: Key, host: &Host) -> Self {
        Self {
            key,
            host: host.clone(),
            idle: VecDeque::new(),
            opening: 0,
            recent: Recent::default(),
            rtt: Duration::ZERO,
            credit: 0,
            paused_until: None,
        }
    }

    /// Whether it has sockets or a recent tunnel.
    pub(super) fn is_used(&self, now: Instant) -> bool {
        let last = self.recent.last();
        let is_recent = last.is_some_and(|at| now.saturating_duration_since(at) < PERIOD);
        is_recent || self.opening > 0 || !self.idle.is_empty()
    }

    /// The oldest socket that a tunnel may use.
    pub(super) fn take(&mut self, now: Instant, closed: &mut Closed) -> Option<WarmSocket> {
        let mut at = 0;
        while let Some(warm) = self.idle.get(at) {
            match warm.state(now) {
                SocketState::Usable => return self.idle.remove(at),
                SocketState::Connecting => at += 1,
                SocketState::Unusable(reason) => self.close(at, reason, now, closed),
            }
        }
        None
    }

    /// Closes unusable sockets. Checks all of them if `is_whole`, otherwise only the expired ones.
    pub(super) fn check(&mut self, is_whole: bool, now: Instant, closed: &mut Closed) {
        let mut at = 0;
        while let Some(warm) = self.idle.get(at) {
            if !is_whole && now < warm.expires() {
                return;
            }
            match warm.state(now) {
                SocketState::Unusable(reason) => self.close(at, reason, now, closed),
                SocketState::Usable | SocketState::Connecting => at += 1,
            }
        }
    }

    fn close(&mut self, at: usize, reason: CloseReason, now: Instant, closed: &mut Closed) {
        self.idle.remove(at);
        closed.add(reason, 1);
        if reason == CloseReason::Failed {
            self.paused_until = Some(now + PAUSE);
        }
    }

    /// How many sockets to open.
    pub(super) fn missing(&self, most: usize, now: Instant) -> usize {
        if self.credit == 0 || self.paused_until.is_some_and(|until| now < until) {
            return 0;
        }
        let wanted = self.recent.sockets(self.rtt, now).min(most);
        let missing = wanted.saturating_sub(self.idle.len() + self.opening);
        missing.min(self.credit)
    }
}

/// After a failed connect, or without a permit. Tunnels still dial.
pub(super) const PAUSE: Duration = Duration::from_secs(8);
