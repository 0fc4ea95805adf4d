//! The descriptor store of systemd, played by the test: it keeps what a daemon stores, passes it to
//! the next daemon, and outlives both (sd_pid_notify_with_fds(3), sd_listen_fds(3)).

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use command_fds::{CommandFdExt, FdMapping};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;
use tokio::process::Command;

/// A service manager of one daemon after the other.
pub struct Manager {
    directory: TempDir,
    state: Arc<Mutex<State>>,
    /// How many descriptors it keeps.
    room: usize,
}

#[derive(Default)]
struct State {
    stored: Vec<(String, OwnedFd)>,
    told: Vec<String>,
}

impl Manager {
    pub fn start() -> Manager {
        Manager::starting(usize::MAX)
    }

    /// One that keeps so many descriptors, as with `FileDescriptorStoreMax=`, and drops the others without a word.
    pub fn with_room(room: usize) -> Manager {
        Manager::starting(room)
    }

    /// One that keeps no descriptors, as with `FileDescriptorStoreMax=0`.
    pub fn without_store() -> Manager {
        Manager::starting(0)
    }

    fn starting(room: usize) -> Manager {
        let directory = tempfile::tempdir().expect("tempdir");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("bind");
        let state = Arc::<Mutex<State>>::default();
        let kept = Arc::clone(&state);
        // Ends with the process of the test.
        std::thread::spawn(move || {
            while let Some((text, descriptors)) = receive(&socket) {
                kept.lock().unwrap().take(&text, descriptors, room);
            }
        });
        Manager {
            directory,
            state,
            room,
        }
    }

    /// Gives the command what the service manager gives a daemon.
    pub fn prepare(&self, command: &mut Command) {
        let state = self.state.lock().unwrap();
        let names: Vec<&str> = state.stored.iter().map(|(name, _)| name.as_str()).collect();
        command
            .env("NOTIFY_SOCKET", self.directory.path().join("notify"))
            .env("STATE_DIRECTORY", self.directory.path())
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        let mappings = state
            .stored
            .iter()
            .zip(3..)
            .map(|((_, fd), child_fd)| FdMapping {
                parent_fd: fd.try_clone().expect("dup"),
                child_fd,
            });
        command
            .fd_mappings(mappings.collect())
            .expect("no collision");
    }

    /// How many descriptors it keeps under this name.
    pub fn stored(&self, name: &str) -> usize {
        let state = self.state.lock().unwrap();
        state
            .stored
            .iter()
            .filter(|(known, _)| known == name)
            .count()
    }

    /// Makes it keep this under this name.
    pub fn keep(&self, name: &str, descriptor: OwnedFd) {
        let mut state = self.state.lock().unwrap();
        state.stored.push((name.to_owned(), descriptor));
    }

    /// A stream that it keeps under this name, as the next daemon gets it.
    pub fn stream(&self, name: &str) -> UnixStream {
        let state = self.state.lock().unwrap();
        let mut stored = state.stored.iter();
        let (_, stream) = stored.find(|(known, _)| known == name).expect("stored");
        stream.try_clone().expect("dup").into()
    }

    /// Drops everything, as systemd does when the service has stopped.
    pub fn forget_all(&self) {
        self.state.lock().unwrap().stored.clear();
    }

    /// Drops what it keeps under this name.
    pub fn forget(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.stored.retain(|(known, _)| known != name);
    }

    /// Whether it was told this line.
    pub fn was_told(&self, line: &str) -> bool {
        self.state
            .lock()
            .unwrap()
            .told
            .iter()
            .any(|told| told == line)
    }

    /// The list of handed-over tunnels.
    pub fn list(&self) -> PathBuf {
        self.directory.path().join("handover.parked")
    }

    /// Whether it keeps descriptors.
    pub fn keeps(&self) -> bool {
        self.room > 0
    }
}

impl State {
    fn take(&mut self, text: &str, mut descriptors: Vec<OwnedFd>, room: usize) {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let name = value("FDNAME=").unwrap_or_default().to_owned();
        self.told.extend(text.lines().map(str::to_owned));
        if value("FDSTOREREMOVE=").is_some() {
            self.stored.retain(|(known, _)| *known != name);
        } else if value("FDSTORE=").is_some() && self.stored.len() < room {
            let is_kept_after_the_hang_up = value("FDPOLL=") == Some("0");
            assert_eq!(is_kept_after_the_hang_up, name != "sealway-claim");
            self.stored
                .extend(descriptors.drain(..).map(|fd| (name.clone(), fd)));
        }
        // A barrier's descriptor is closed.
    }
}

fn receive(socket: &UnixDatagram) -> Option<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; 4_096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    );
    let received = received.ok()?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let text = String::from_utf8_lossy(&bytes[..received.bytes]).into_owned();
    Some((text, descriptors))
}
