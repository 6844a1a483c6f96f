//! `bench floor`: the least that a broker has to do, as a server of its own. It reads the same frames, writes as many bytes as a
//! broker would store, and answers every request with the same reply. What a broker reaches of it is its own doing; what the floor
//! itself reaches is the machine's.
//!
//! One thread: all requests that are there are taken, written with one `pwrite`, in `sync` mode made durable with one `fdatasync`,
//! and only then answered. Nothing is parsed but the sizes and the opaque. It is no broker: what it writes is never read.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use orrery_core::protocol::Command;
use orrery_core::protocol::frame::{self, Limits, Outgoing};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FallocateFlags, fallocate};

use super::reply::Reply;
use super::template::{OPAQUE_BASE, decimal};

/// Bytes of a file in `async` mode: as the commit log's default.
const FILE_BYTES: u64 = 1 << 30;
/// Files kept in `async` mode; beyond them the oldest is written again.
const FILE_COUNT_MAX: u64 = 8;
/// Bytes of the one file in `sync` mode, filled with zeros before the first request: a sync then converts no extents.
const SYNC_FILE_BYTES: u64 = 64 << 20;
/// What a stored record has beside its body: 91 bytes of RocketMQ's fields, topic and properties.
const RECORD_OVERHEAD: usize = 180;
const INBOX_BYTES: usize = 256 * 1024;
/// Replies that a connection does not take; beyond them it is closed.
const OUT_BYTES_MAX: usize = 16 << 20;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "IP:PORT")]
    listen: SocketAddr,
    #[arg(long, value_enum, default_value = "async")]
    mode: Mode,
    /// Folder for what it writes; created if absent, its files are removed at the start
    #[arg(long, default_value = "orrery-floor", value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// Writes nothing: the round trip
    Echo,
    /// Writes every request into preallocated files
    Async,
    /// ... and syncs each group before it is answered
    Sync,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Mode::Echo => "echo",
            Mode::Async => "async",
            Mode::Sync => "sync",
        }
    }
}

/// Serves until the process is ended. Blocks.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let log = match arguments.mode {
        Mode::Echo => None,
        mode => Some(Log::create(&arguments.dir, mode == Mode::Sync)?),
    };
    let listener = TcpListener::bind(arguments.listen).with_context(|| format!("listen on {}", arguments.listen))?;
    listener.set_nonblocking(true)?;
    println!("floor server ({}) on {}", arguments.mode.name(), listener.local_addr()?);
    let mut floor = Floor {
        listener,
        peers: Vec::new(),
        log,
        reply: FixedReply::new()?,
        group: Vec::new(),
    };
    loop {
        floor.turn()?;
    }
}

struct Floor {
    listener: TcpListener,
    peers: Vec<Peer>,
    log: Option<Log>,
    reply: FixedReply,
    group: Vec<u8>,
}

impl Floor {
    fn turn(&mut self) -> anyhow::Result<()> {
        let mut polled = Vec::with_capacity(self.peers.len() + 1);
        for peer in &self.peers {
            let writing = !peer.out.is_empty();
            polled.push(PollFd::new(
                &peer.stream,
                if writing {
                    PollFlags::IN | PollFlags::OUT
                } else {
                    PollFlags::IN
                },
            ));
        }
        polled.push(PollFd::new(&self.listener, PollFlags::IN));
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            polled => polled?,
        };
        let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        for (peer, _) in self.peers.iter_mut().zip(&ready).filter(|(_, ready)| **ready) {
            let stored = self.log.is_some().then_some(&mut self.group);
            peer.is_open = peer.take_requests(&self.reply, stored).is_ok();
        }
        if let Some(log) = self.log.as_mut().filter(|_| !self.group.is_empty()) {
            log.append(&self.group)?;
            self.group.clear();
        }
        for peer in &mut self.peers {
            peer.is_open = peer.is_open && peer.flush().is_ok();
        }
        self.peers.retain(|peer| peer.is_open);
        if ready.last() == Some(&true) {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("take a connection"),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            self.peers.push(Peer {
                stream,
                inbox: vec![0; INBOX_BYTES],
                end: 0,
                out: Vec::new(),
                is_open: true,
            });
        }
        Ok(())
    }
}

struct Peer {
    stream: TcpStream,
    inbox: Vec<u8>,
    end: usize,
    out: Vec<u8>,
    is_open: bool,
}

impl Peer {
    /// Reads once, and makes a reply for each whole request.
    fn take_requests(&mut self, reply: &FixedReply, mut stored: Option<&mut Vec<u8>>) -> anyhow::Result<()> {
        match self.stream.read(&mut self.inbox[self.end..]) {
            Ok(0) => bail!("closed"),
            Ok(count) => self.end += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error.into()),
        }
        let mut start = 0;
        while let Some(size) = Reply::frame_bytes(&self.inbox[start..self.end])? {
            let Some(frame) = self.inbox[..self.end].get(start..start + size) else {
                let missing = start + size - self.inbox.len().min(start + size);
                self.inbox.resize(self.inbox.len() + missing, 0);
                break;
            };
            let request = Reply::read(frame)?;
            if let Some(stored) = stored.as_deref_mut() {
                stored.extend_from_slice(&frame[frame.len().saturating_sub(request.body.len() + RECORD_OVERHEAD)..]);
            }
            reply.append(request.opaque, &mut self.out);
            start += size;
        }
        self.inbox.copy_within(start..self.end, 0);
        self.end -= start;
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.stream.write(&self.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.out.drain(..sent);
        anyhow::ensure!(self.out.len() <= OUT_BYTES_MAX, "replies are not read");
        Ok(())
    }
}

/// The reply of a broker to a send, with the opaque of whatever was asked.
struct FixedReply {
    frame: Vec<u8>,
    opaque_at: usize,
}

impl FixedReply {
    fn new() -> anyhow::Result<FixedReply> {
        let mut request = Command::request(0);
        request.opaque = OPAQUE_BASE;
        let reply = Command::success(&request)
            .with("msgId", "7F00000100002A9F0000000000000000")
            .with("queueId", "3")
            .with("queueOffset", "1000000");
        let mut out = Outgoing::new(Limits::default());
        frame::encode(&reply, Vec::new(), &mut out)?;
        let frame: Vec<u8> = out.take().iter().flatten().copied().collect();
        let opaque = OPAQUE_BASE.to_string();
        let opaque_at = frame
            .windows(opaque.len())
            .position(|window| window == opaque.as_bytes());
        Ok(FixedReply {
            opaque_at: opaque_at.context("an opaque")?,
            frame,
        })
    }

    /// Opaques of fewer than ten digits, which only other clients send, get leading spaces.
    fn append(&self, opaque: i32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let digits = &mut out[start + self.opaque_at..][..10];
        if opaque >= OPAQUE_BASE {
            decimal(opaque.unsigned_abs().into(), digits);
        } else {
            digits.copy_from_slice(format!("{opaque:>10}").as_bytes());
        }
    }
}

/// Files that are written one after the other.
struct Log {
    dir: PathBuf,
    sync: bool,
    file: File,
    file_index: u64,
    at: u64,
}

impl Log {
    fn create(dir: &Path, sync: bool) -> anyhow::Result<Log> {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        for index in 0..FILE_COUNT_MAX {
            let _ = fs::remove_file(path(dir, index));
        }
        let file = if sync {
            zeroed(dir, SYNC_FILE_BYTES)?
        } else {
            preallocated(dir, 0)?
        };
        Ok(Log {
            dir: dir.to_owned(),
            sync,
            file,
            file_index: 0,
            at: 0,
        })
    }

    fn append(&mut self, group: &[u8]) -> anyhow::Result<()> {
        let file_bytes = if self.sync { SYNC_FILE_BYTES } else { FILE_BYTES };
        if self.at + group.len() as u64 > file_bytes {
            self.at = 0;
            if !self.sync {
                self.file_index = (self.file_index + 1) % FILE_COUNT_MAX;
                self.file = preallocated(&self.dir, self.file_index)?;
            }
        }
        self.file.write_all_at(group, self.at)?;
        self.at += group.len() as u64;
        if self.sync {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

fn path(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("floor-{index}"))
}

fn open(dir: &Path, index: u64) -> anyhow::Result<File> {
    let path = path(dir, index);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(&path);
    file.with_context(|| path.display().to_string())
}

fn preallocated(dir: &Path, index: u64) -> anyhow::Result<File> {
    let file = open(dir, index)?;
    fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES).context("preallocate 1 GiB")?;
    Ok(file)
}

/// A file whose blocks hold written zeros, on the disk.
pub(super) fn zeroed(dir: &Path, bytes: u64) -> anyhow::Result<File> {
    let file = open(dir, 0)?;
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes {
        let count = (bytes - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..count as usize], at)?;
        at += count;
    }
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_reply_carries_the_opaque_of_its_request() {
        let reply = FixedReply::new().unwrap();
        for opaque in [OPAQUE_BASE + 63, 7, 123_456_789, i32::MAX] {
            let mut out = Vec::new();
            reply.append(opaque, &mut out);
            let read = Reply::read(&out).unwrap();
            assert_eq!((read.code, read.opaque), (0, opaque));
            assert_eq!(read.command().unwrap().opaque, opaque);
        }
    }
}
