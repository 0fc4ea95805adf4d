//! The files of the machine that configure the resolver, and the servers that they name. Blocks on
//! the file system; never logs, and never fails because of a file.

use std::time::Duration;

use super::exchange::Exchange;
use super::hosts::HostsFile;
use super::resolv_conf::ResolvConf;
use super::system::{Followed, Notice, SystemFile};

/// The machine's resolver files.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) resolv_conf: Followed<ResolvConf>,
    pub(super) hosts: Followed<HostsFile>,
    /// Notices that were not reported yet.
    pub(super) notices: Vec<Notice>,
}

/// The result of one check of the machine's files.
#[derive(Debug, Default)]
pub struct Looked {
    /// Notices to report, each once.
    pub notices: Vec<Notice>,
    /// A file changed since the last check; the next check reads it if it stays the same.
    pub is_settling: bool,
}

impl Files {
    pub(super) fn start() -> Self {
        let mut notices = Vec::new();
        let resolv_conf = Followed::start(SystemFile::ResolvConf.path(), &mut notices);
        let hosts = Followed::start(SystemFile::Hosts.path(), &mut notices);
        Self {
            resolv_conf,
            hosts,
            notices,
        }
    }

    pub(super) fn look_now(mut self) -> Self {
        self.resolv_conf.look_now(&mut self.notices);
        self.hosts.look_now(&mut self.notices);
        self
    }

    pub(super) fn exchange(&self, limit: Duration) -> Exchange {
        let said = self.resolv_conf.value();
        Exchange::new(said.servers(), said, limit)
    }
}
