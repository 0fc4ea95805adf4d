//! Passes descriptors from one process to another through the queue of a Unix socket (unix(7),
//! `SCM_RIGHTS`), with their description in sealed memory (memfd_create(2)). Knows nothing of what
//! it carries, and never waits.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair, sockopt,
};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// The most descriptors of one message: the kernel's `SCM_MAX_FD` is 253.
pub const DESCRIPTORS_MAX: usize = 252;

/// One message of a queue.
#[derive(Debug)]
pub struct Received {
    /// Its only byte.
    pub kind: u8,
    /// Its descriptors.
    pub descriptors: Vec<OwnedFd>,
    /// Whether descriptors are missing, because none was free.
    pub is_cut: bool,
}

/// Creates a queue: the reading end and the writing end. What is in the queue outlives the process
/// that wrote it, as long as any process has the reading end open.
///
/// # Errors
/// EMFILE, ENFILE or ENOBUFS.
pub fn queue() -> io::Result<(UnixDatagram, UnixDatagram)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (reader, writer) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    // The kernel grants `net.core.wmem_max`, which is room for 139,000 descriptors by default.
    let _kernels_own = sockopt::set_socket_send_buffer_size(&writer, SEND_BYTES);
    Ok((reader.into(), writer.into()))
}

/// Creates a stream with room for as many messages of one byte as [`queue`] has, in the direction of its second end.
///
/// # Errors
/// EMFILE, ENFILE or ENOBUFS.
pub fn stream() -> io::Result<(UnixStream, UnixStream)> {
    let (own, other) = UnixStream::pair()?;
    let _kernels_own = sockopt::set_socket_send_buffer_size(&own, SEND_BYTES);
    Ok((own, other))
}

/// Sends one message with at most [`DESCRIPTORS_MAX`] descriptors. They stay open here too.
///
/// # Errors
/// `WouldBlock` when the queue is full, ETOOMANYREFS when more descriptors are on their way than
/// the process may open, ECONNREFUSED when nobody has the reading end.
pub fn send(writer: impl AsFd, kind: u8, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_bytes(writer, &[kind], descriptors)
}

/// Like [`send`], with these bytes.
///
/// # Errors
/// As [`send`].
pub fn send_bytes(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(
            &socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Waits for a message and takes it: at most [`MESSAGE_BYTES`] of it, and its descriptors.
///
/// # Errors
/// The errors of recvmsg(2).
pub fn receive_bytes(socket: &UnixDatagram) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    bytes.truncate(received.bytes);
    Ok((bytes, descriptors_of(&mut control)))
}

fn descriptors_of(control: &mut RecvAncillaryBuffer<'_>) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    descriptors
}

/// Copies the message at `place` (0 is the first) and leaves it in the queue; its descriptors are
/// opened here once more. Returns None after the last one.
///
/// # Errors
/// EMFILE and the errors of recvmsg(2).
pub fn peek(reader: &UnixDatagram, place: usize) -> io::Result<Option<Received>> {
    // Each message has one byte, so the offset in bytes is the place (socket(7), `SO_PEEK_OFF`).
    super::options::peek_from(reader, i32::try_from(place).unwrap_or(i32::MAX))?;
    receive(reader, RecvFlags::PEEK)
}

/// The byte of the message at `place`, which stays in the queue. Returns None after the last one.
///
/// # Errors
/// The errors of recvmsg(2).
pub fn kind_at(reader: &UnixDatagram, place: usize) -> io::Result<Option<u8>> {
    super::options::peek_from(reader, i32::try_from(place).unwrap_or(i32::MAX))?;
    first_byte(reader, RecvFlags::PEEK)
}

/// Makes room for this many descriptors. In a process with threads the kernel waits some milliseconds
/// at each growth of its table, so call it before the second one.
pub fn expect_descriptors(number: usize) {
    let Ok(any) = memfd_create("", MemfdFlags::CLOEXEC) else {
        return;
    };
    let last = i32::try_from(number).unwrap_or(i32::MAX);
    // Beyond the limit there is no room to make.
    let _grown = rustix::io::fcntl_dupfd_cloexec(&any, last);
}

/// Takes the first message and drops its descriptors. Returns None when the queue is empty.
///
/// # Errors
/// The errors of recvmsg(2).
pub fn drop_first(reader: &UnixDatagram) -> io::Result<Option<()>> {
    Ok(first_byte(reader, RecvFlags::empty())?.map(|_| ()))
}

fn first_byte(reader: &UnixDatagram, flags: RecvFlags) -> io::Result<Option<u8>> {
    let mut bytes = [0; 1];
    let flags = flags | RecvFlags::DONTWAIT;
    let received = rustix::io::retry_on_intr(|| rustix::net::recv(reader, &mut bytes[..], flags));
    let [byte] = bytes;
    match received {
        // A message has one byte; nothing comes from a queue whose writer has gone.
        Ok((_, 0)) | Err(rustix::io::Errno::AGAIN) => Ok(None),
        Ok(_) => Ok(Some(byte)),
        Err(error) => Err(error.into()),
    }
}

/// Takes one byte and its descriptors from a stream, and waits for it as long as the stream's timeout allows. Returns None at
/// the end of the stream.
///
/// # Errors
/// `WouldBlock` after the timeout, and the errors of recvmsg(2).
pub fn take(stream: impl AsFd) -> io::Result<Option<Received>> {
    rustix::io::retry_on_intr(|| receive_one(&stream, RecvFlags::empty())).map_err(Into::into)
}

fn receive(reader: &UnixDatagram, flags: RecvFlags) -> io::Result<Option<Received>> {
    match receive_one(reader, flags | RecvFlags::DONTWAIT) {
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        received => Ok(received?),
    }
}

fn receive_one(reader: impl AsFd, flags: RecvFlags) -> rustix::io::Result<Option<Received>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        reader,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        flags | RecvFlags::CMSG_CLOEXEC,
    )?;
    let is_cut = received.flags.contains(ReturnFlags::CTRUNC);
    // At the end of a queue whose writer has gone.
    if received.bytes == 0 {
        return Ok(None);
    }
    let [kind] = byte;
    Ok(Some(Received {
        kind,
        descriptors: descriptors_of(&mut control),
        is_cut,
    }))
}

/// Stores these parts in memory that nobody can change any more. Only processes that get the descriptor,
/// and those that may read this process's memory, can read it.
///
/// # Errors
/// EMFILE, ENFILE or ENOMEM.
pub fn seal<'p>(parts: impl Iterator<Item = &'p [u8]>) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("sealway-handover", flags | MemfdFlags::NOEXEC_SEAL)
        // Before Linux 6.3.
        .or_else(|_| memfd_create("sealway-handover", flags))?;
    let mut file = File::from(memory);
    for part in parts {
        file.write_all(part)?;
    }
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// Reads sealed memory of at most `most` bytes.
///
/// # Errors
/// `InvalidData` if it is not sealed or larger.
pub fn unseal(memory: OwnedFd, most: u64) -> io::Result<Vec<u8>> {
    let (file, len) = sealed(memory, most)?;
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads the first line of sealed memory of at most `most` bytes.
///
/// # Errors
/// As [`unseal`].
pub fn unseal_line(memory: OwnedFd, most: u64) -> io::Result<Vec<u8>> {
    let (file, _) = sealed(memory, most)?;
    let mut line = Vec::new();
    BufReader::new(file.take(most)).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn sealed(memory: OwnedFd, most: u64) -> io::Result<(File, u64)> {
    let mut file = File::from(memory);
    if !fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not sealed",
        ));
    }
    let len = file.metadata()?.len();
    if len > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is too large",
        ));
    }
    // The writer's position is at the end.
    file.rewind()?;
    Ok((file, len))
}

/// The number of bytes in a pipe (ioctl(2), `FIONREAD`).
///
/// # Errors
/// ENOTTY for something else.
pub fn bytes_in(pipe: impl AsFd) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(pipe)?)
}

/// The time of the clock that all processes of this machine share since its boot (clock_gettime(2),
/// `CLOCK_MONOTONIC`).
#[must_use]
pub fn monotonic() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
    Duration::new(
        u64::try_from(tv_sec).unwrap_or(0),
        u32::try_from(tv_nsec).unwrap_or(0),
    )
}

/// Waits until every other process has closed the writing end of a pipe, at most for `patience`.
///
/// # Errors
/// EMFILE or ENFILE.
pub fn wait_for_end(reader: impl AsFd, patience: Duration) -> bool {
    let mut watched = [PollFd::new(&reader, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    };
    poll(&mut watched, Some(&patience)).is_ok_and(|ready| ready > 0)
}

/// The most bytes of a message that is taken whole.
pub const MESSAGE_BYTES: usize = 8_192;
/// Room for 1,000 messages, if the kernel grants it.
const SEND_BYTES: usize = 1 << 20;
const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::GROW)
    .union(SealFlags::SHRINK);
