//! Tunnels whose user has exceeded its bytes a second. They wait without a timer and without being
//! polled until the user may move more; those of one user in their order of arrival. Never moves a
//! byte.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::authority::UserId;
use crate::limits::account::Account;

/// The waiting tunnels of one thread, by key.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queues: HashMap<UserId, Queue>,
    resumes_at: Option<Instant>,
}

#[derive(Debug)]
struct Queue {
    account: Arc<Account>,
    tunnels: VecDeque<usize>,
}

impl Waiting {
    /// Adds a tunnel after the waiting tunnels of its user.
    pub(super) fn add(&mut self, account: &Arc<Account>, tunnel: usize) {
        let queue = || Queue {
            account: Arc::clone(account),
            tunnels: VecDeque::new(),
        };
        self.queues
            .entry(account.user().clone())
            .or_insert_with(queue)
            .tunnels
            .push_back(tunnel);
        let at = account.resumes_at();
        self.resumes_at = Some(self.resumes_at.map_or(at, |before| before.min(at)));
    }

    /// When the next tunnel may continue.
    pub(super) fn resumes_at(&self) -> Option<Instant> {
        self.resumes_at
    }

    /// Recalculates when a tunnel may continue, because a reload may have changed the bytes a
    /// second.
    pub(super) fn reckon(&mut self) {
        self.resumes_at = self
            .queues
            .values()
            .map(|queue| queue.account.resumes_at())
            .min();
    }

    /// Who may go on now: the first of each user that may move bytes again. The next one comes when that one has had
    /// its turn. Tunnels for which `waits` is false have ended meanwhile and are forgotten.
    pub(super) fn due(&mut self, now: Instant, waits: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut due = Vec::new();
        if self.resumes_at.is_none_or(|at| at > now) {
            return due;
        }
        self.queues.retain(|_, queue| {
            if queue.account.resumes_at() <= now {
                while let Some(tunnel) = queue.tunnels.pop_front() {
                    if waits(tunnel) {
                        due.push(tunnel);
                        break;
                    }
                }
            }
            !queue.tunnels.is_empty()
        });
        self.reckon();
        due
    }
}
