//! The load generator: threads that keep requests in flight on plain sockets, as many as replies allow or at a fixed rate.
//!
//! Not tokio: its timer has a grain of 1 ms, and what the generator spends the broker lacks, since both share a machine. A thread
//! serves all its connections with `poll`; a lone request in flight needs one `write` and one blocking `read`.
//!
//! Latency is counted from the intended send time: the schedule's at a fixed rate, the moment of composing otherwise. It ends when
//! the reply's bytes are read. With a rate a thread sleeps at least [`PACE`], so that much of the latency may be the generator's.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc;

use super::reply::Reply;
use super::report::Part;
use super::run::{Phase, Run};
use super::schedule::Schedule;
use super::template::OPAQUE_BASE;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// How old counts may get before they are added to the run's, and how often a quiet thread looks for the end.
const ADD_INTERVAL: Duration = Duration::from_millis(100);
/// How long replies may take after the last request.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest sleep until an intended time: waking for each message would cost more processor time than sending it.
const PACE: Duration = Duration::from_micros(20);
/// Bytes offered to one read.
const INBOX_BYTES: usize = 512 * 1024;

/// What a connection asks for, and what it makes of replies.
pub(super) trait Work: Send + 'static {
    /// Messages that a request asks for in advance, and counts for when it succeeds; 0: the reply tells.
    fn messages_per_request(&self) -> u64;
    /// Appends the request of a slot; its opaque is given.
    fn compose(&mut self, slot: usize, opaque: i32, wall_millis: i64, out: &mut Vec<u8>);
    /// An error ends the connection.
    fn take(&mut self, slot: usize, reply: &Reply<'_>) -> anyhow::Result<Taken>;
    /// Whether a slot has nothing more to ask for.
    fn is_done(&self, _slot: usize) -> bool {
        false
    }
}

pub(super) enum Taken {
    Done { messages: u64, bytes: u64 },
    Refused(i32),
}

/// How the load is spread.
pub(super) struct Shape {
    pub(super) threads: usize,
    /// Requests a second over all connections; `None`: as many as replies allow.
    pub(super) rate: Option<f64>,
}

/// One connection to be.
pub(super) struct LaneSpec<W> {
    pub(super) address: SocketAddr,
    pub(super) depth: usize,
    pub(super) work: W,
}

/// Starts the threads; the future completes when all have ended.
pub(super) fn start<W: Work>(
    lanes: Vec<LaneSpec<W>>,
    shape: &Shape,
    run: &Arc<Run>,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<W>> {
    let threads = shape.threads.clamp(1, lanes.len().max(1));
    let (count, now) = (lanes.len(), Instant::now());
    let mut groups: Vec<Vec<Lane<W>>> = (0..threads).map(|_| Vec::new()).collect();
    for (index, spec) in lanes.into_iter().enumerate() {
        groups[index % threads].push(Lane {
            address: spec.address,
            stream: None,
            retry_at: now,
            inbox: Inbox::default(),
            out: Vec::new(),
            out_at: 0,
            slots: vec![Slot::idle(now); spec.depth],
            free: (0..spec.depth as u32).rev().collect(),
            schedule: shape.rate.map(|rate| Schedule::new(rate, index, count, now)),
            work: spec.work,
        });
    }
    let (alive, mut ended) = mpsc::channel::<()>(1);
    for (index, lanes) in groups.into_iter().enumerate() {
        let (run, alive) = (Arc::clone(run), alive.clone());
        thread::Builder::new()
            .name(format!("bench-load-{index}"))
            .spawn(move || {
                Generator {
                    lanes,
                    run: &run,
                    measured: false,
                    part: Part::default(),
                }
                .drive();
                drop(alive);
            })
            .context("a thread for the load")?;
    }
    drop(alive);
    Ok(async move { while ended.recv().await.is_some() {} })
}

#[derive(Clone, Copy)]
struct Slot {
    intended: Instant,
    busy: bool,
    measured: bool,
}

impl Slot {
    fn idle(now: Instant) -> Slot {
        Slot {
            intended: now,
            busy: false,
            measured: false,
        }
    }
}

/// One connection and its requests in flight. The opaque of a request is its slot.
struct Lane<W> {
    address: SocketAddr,
    stream: Option<TcpStream>,
    retry_at: Instant,
    inbox: Inbox,
    out: Vec<u8>,
    out_at: usize,
    slots: Vec<Slot>,
    free: Vec<u32>,
    schedule: Option<Schedule>,
    work: W,
}

/// One thread.
struct Generator<'a, W> {
    lanes: Vec<Lane<W>>,
    run: &'a Run,
    measured: bool,
    part: Part,
}

impl<W: Work> Generator<'_, W> {
    fn drive(mut self) {
        // The kernel would add up to 50 µs to each sleep.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let lone = self.lanes.len() == 1 && self.lanes[0].slots.len() == 1 && self.lanes[0].schedule.is_none();
        let mut now = Instant::now();
        let (mut added, mut spent, mut drain_until) = (now, false, None);
        loop {
            let phase = self.run.phase();
            if !self.measured && phase >= Phase::Measured {
                self.measured = true;
                self.part.clear();
                for schedule in self.lanes.iter_mut().filter_map(|lane| lane.schedule.as_mut()) {
                    schedule.restart(now);
                }
            }
            if phase == Phase::Ending && !spent {
                self.count_unsent(now);
            }
            if phase == Phase::Ending || self.lanes.iter().all(Lane::is_done) {
                spent = true;
            }
            let wall = wall_millis();
            for index in 0..self.lanes.len() {
                let lane = &mut self.lanes[index];
                let sent = lane.connect(now, lone).and_then(|()| {
                    if !spent {
                        spent = !lane.fill(self.run, self.measured, now, wall);
                    }
                    lane.flush()
                });
                if let Err(error) = sent {
                    self.lose(index, now, &error);
                }
            }
            if spent {
                let until = *drain_until.get_or_insert(now + DRAIN_TIMEOUT);
                if now > until || self.lanes.iter().all(Lane::is_idle) {
                    break;
                }
            }
            now = if lone {
                self.receive_lone()
            } else {
                self.receive(now, spent)
            };
            if self.part.is_large() || now - added > ADD_INTERVAL {
                self.run.add(&mut self.part);
                added = now;
            }
        }
        self.part.unknown += self.lanes.iter().map(Lane::in_flight_measured).sum::<u64>();
        self.run.add(&mut self.part);
    }

    /// Requests that were intended and never sent, because no slot was free or no connection there, have waited until now at least.
    fn count_unsent(&mut self, now: Instant) {
        for lane in self
            .lanes
            .iter_mut()
            .filter(|lane| lane.free.is_empty() || lane.stream.is_none())
        {
            while let Some(intended) = lane.schedule.as_mut().and_then(|schedule| schedule.take(now)) {
                self.part.latency(now.duration_since(intended));
                if self.part.is_large() {
                    self.run.add(&mut self.part);
                }
            }
        }
    }

    /// Blocks for the only reply there can be.
    fn receive_lone(&mut self) -> Instant {
        let lane = &mut self.lanes[0];
        let read = match lane.stream.as_ref() {
            Some(stream) => lane.inbox.read(stream),
            None => {
                thread::sleep(ADD_INTERVAL);
                Ok(())
            }
        };
        let now = Instant::now();
        self.take(0, read, now);
        now
    }

    /// Waits until a connection is readable, or writable where bytes wait, or the next request is due.
    fn receive(&mut self, now: Instant, spent: bool) -> Instant {
        let due = self.lanes.iter().filter(|_| !spent).filter_map(|lane| {
            let can_send = lane.stream.is_some() && !lane.free.is_empty();
            lane.schedule.as_ref().filter(|_| can_send).map(Schedule::next)
        });
        let sleep = due.min().map_or(ADD_INTERVAL, |due| {
            due.saturating_duration_since(now).clamp(PACE, ADD_INTERVAL)
        });
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: sleep.as_nanos() as _,
        };
        let mut which = Vec::with_capacity(self.lanes.len());
        let mut polled = Vec::with_capacity(self.lanes.len());
        for (index, lane) in self.lanes.iter().enumerate() {
            if let Some(stream) = &lane.stream {
                let writing = lane.out_at < lane.out.len();
                let flags = if writing {
                    PollFlags::IN | PollFlags::OUT
                } else {
                    PollFlags::IN
                };
                which.push(index);
                polled.push(PollFd::new(stream, flags));
            }
        }
        if let Err(error) = poll(&mut polled, Some(&timeout)) {
            log::debug!("poll: {error}");
        }
        let readable: Vec<bool> = polled
            .iter()
            .map(|polled| {
                polled
                    .revents()
                    .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            })
            .collect();
        let mut now = Instant::now();
        for (index, _) in which.into_iter().zip(readable).filter(|(_, readable)| *readable) {
            let lane = &mut self.lanes[index];
            let read = lane.stream.as_ref().map_or(Ok(()), |stream| lane.inbox.read(stream));
            now = Instant::now();
            self.take(index, read, now);
        }
        now
    }

    fn take(&mut self, index: usize, read: anyhow::Result<()>, now: Instant) {
        let taken = read.and_then(|()| self.lanes[index].take_replies(self.run, self.measured, now, &mut self.part));
        if let Err(error) = taken {
            self.lose(index, now, &error);
        }
    }

    fn lose(&mut self, index: usize, now: Instant, error: &anyhow::Error) {
        let lane = &mut self.lanes[index];
        log::warn!("{}: {error:#}", lane.address);
        self.part.unknown += lane.in_flight_measured();
        lane.reset(now);
    }
}

impl<W: Work> Lane<W> {
    fn connect(&mut self, now: Instant, blocking: bool) -> anyhow::Result<()> {
        if self.stream.is_some() || now < self.retry_at {
            return Ok(());
        }
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        if blocking {
            stream.set_read_timeout(Some(ADD_INTERVAL))?;
        } else {
            stream.set_nonblocking(true)?;
        }
        self.stream = Some(stream);
        Ok(())
    }

    fn reset(&mut self, now: Instant) {
        self.stream = None;
        self.retry_at = now + RECONNECT_PAUSE;
        self.inbox = Inbox::default();
        self.out.clear();
        self.out_at = 0;
        self.slots.fill(Slot::idle(now));
        self.free = (0..self.slots.len() as u32).rev().collect();
    }

    fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| !slot.busy)
    }

    fn is_done(&self) -> bool {
        (0..self.slots.len()).all(|slot| self.work.is_done(slot))
    }

    fn in_flight_measured(&self) -> u64 {
        self.slots.iter().filter(|slot| slot.busy && slot.measured).count() as u64
    }

    /// Composes a request for each free slot that is due; false once no more may be asked for.
    fn fill(&mut self, run: &Run, measured: bool, now: Instant, wall: i64) -> bool {
        if self.stream.is_none() {
            return true;
        }
        while let Some(slot) = self.free.last().copied() {
            let wanted = self.work.messages_per_request();
            let intended = match &mut self.schedule {
                None => now,
                Some(schedule) => match schedule.take(now) {
                    Some(intended) => intended,
                    None => break,
                },
            };
            if measured && wanted > 0 && run.take(wanted) == 0 {
                return false;
            }
            self.free.pop();
            self.slots[slot as usize] = Slot {
                intended,
                busy: true,
                measured,
            };
            let opaque = OPAQUE_BASE + slot as i32;
            self.work.compose(slot as usize, opaque, wall, &mut self.out);
        }
        true
    }

    /// Writes as much as the socket takes now.
    fn flush(&mut self) -> anyhow::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.out_at < self.out.len() {
            match stream.write(&self.out[self.out_at..]) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(count) => self.out_at += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("write"),
            }
        }
        self.out.clear();
        self.out_at = 0;
        Ok(())
    }

    fn take_replies(&mut self, run: &Run, measured: bool, now: Instant, part: &mut Part) -> anyhow::Result<()> {
        while let Some(frame) = self.inbox.frame()? {
            let reply = Reply::read(frame)?;
            let index = usize::try_from(reply.opaque.wrapping_sub(OPAQUE_BASE)).unwrap_or(usize::MAX);
            let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.busy) else {
                continue;
            };
            let taken = self.work.take(index, &reply)?;
            slot.busy = false;
            if !self.work.is_done(index) {
                self.free.push(index as u32);
            }
            if !measured || !slot.measured {
                continue;
            }
            part.requests += 1;
            part.latency(now.saturating_duration_since(slot.intended));
            match taken {
                Taken::Refused(code) => *part.refused.entry(code).or_default() += 1,
                Taken::Done { messages, bytes } => {
                    part.bytes += bytes;
                    part.messages += match self.work.messages_per_request() {
                        0 => run.take(messages),
                        _ => messages,
                    };
                    if self.work.messages_per_request() == 0 && run.is_spent() {
                        run.end();
                    }
                }
            }
        }
        Ok(())
    }
}

/// Bytes read and not yet taken.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// One read. A time-out of a blocking socket, or nothing there, is not an error.
    fn read(&mut self, mut stream: &TcpStream) -> anyhow::Result<()> {
        if self.bytes.is_empty() {
            self.bytes.resize(INBOX_BYTES, 0);
        }
        match stream.read(&mut self.bytes[self.end..]) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(count) => self.end += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("read"),
        }
        Ok(())
    }

    /// The next whole frame. Without one, makes room for what is missing.
    fn frame(&mut self) -> anyhow::Result<Option<&[u8]>> {
        let here = self.end - self.start;
        let size = Reply::frame_bytes(&self.bytes[self.start..self.end])?;
        if let Some(size) = size.filter(|size| *size <= here) {
            let start = self.start;
            self.start += size;
            return Ok(Some(&self.bytes[start..start + size]));
        }
        if here == 0 {
            (self.start, self.end) = (0, 0);
        } else if self.bytes.len() - self.start < size.unwrap_or(0).max(INBOX_BYTES / 2) {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, here);
            if self.bytes.len() < size.unwrap_or(0) {
                self.bytes.resize(size.unwrap_or(0), 0);
            }
        }
        Ok(None)
    }
}

pub(super) fn wall_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::report::Counts;
    use super::*;
    use std::net::TcpListener;

    /// Frames of any size, cut anywhere, come out whole and in order.
    #[test]
    fn an_inbox_gives_back_the_frames_that_went_in() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (reader, _) = listener.accept().unwrap();
        let sizes: Vec<usize> = (0..200)
            .map(|index| 4 + (index * 7919) % 30_000)
            .chain([2 << 20, 5, 4])
            .collect();
        let expected = sizes.clone();
        let sender = thread::spawn(move || {
            for (index, size) in sizes.into_iter().enumerate() {
                let mut frame = (size as u32).to_be_bytes().to_vec();
                frame.resize(4 + size, index as u8);
                for part in frame.chunks(70_001) {
                    writer.write_all(part).unwrap();
                }
            }
        });
        let (mut inbox, mut found) = (Inbox::default(), Vec::new());
        while found.len() < expected.len() {
            inbox.read(&reader).unwrap();
            while let Some(frame) = inbox.frame().unwrap() {
                assert!(frame[4..].iter().all(|byte| *byte == found.len() as u8));
                found.push(frame.len() - 4);
            }
        }
        assert_eq!(found, expected);
        sender.join().unwrap();
    }

    #[test]
    fn an_inbox_refuses_what_is_no_frame() {
        let mut inbox = Inbox {
            bytes: b"HTTP/1.1 400".to_vec(),
            start: 0,
            end: 12,
        };
        assert!(inbox.frame().is_err());
    }

    /// Asks for nothing in particular.
    struct Pings;

    impl Work for Pings {
        fn messages_per_request(&self) -> u64 {
            1
        }

        fn compose(&mut self, _slot: usize, opaque: i32, _wall_millis: i64, out: &mut Vec<u8>) {
            out.extend_from_slice(&ping(opaque));
        }

        fn take(&mut self, _slot: usize, _reply: &Reply<'_>) -> anyhow::Result<Taken> {
            Ok(Taken::Done { messages: 1, bytes: 0 })
        }
    }

    fn ping(opaque: i32) -> Vec<u8> {
        let header = format!("{{\"code\":0,\"opaque\":{opaque}}}");
        let mut frame = (header.len() as u32 + 4).to_be_bytes().to_vec();
        frame.extend_from_slice(&(header.len() as u32).to_be_bytes());
        frame.extend_from_slice(header.as_bytes());
        frame
    }

    /// One request in flight at `rate`, against a server that answers at once but for the request of index `stalled`.
    fn counts_with_a_stall(rate: Option<f64>, stalled: u64, stall: Duration, run_for: Duration) -> Counts {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut frame = ping(OPAQUE_BASE);
            for index in 0.. {
                if stream.read_exact(&mut frame).is_err() {
                    return;
                }
                if index == stalled {
                    thread::sleep(stall);
                }
                if index > stalled && stall > run_for {
                    return;
                }
                let _ = stream.write_all(&frame);
            }
        });
        let shared = super::super::Shared::of_broker(address, "T", 1, 1, None);
        let run = Arc::new(Run::new(&shared));
        let lane = LaneSpec {
            address,
            depth: 1,
            work: Pings,
        };
        let ended = start(vec![lane], &Shape { threads: 1, rate }, &run).unwrap();
        thread::sleep(run_for);
        run.end();
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(ended);
        server.join().unwrap();
        run.take_counts()
    }

    #[test]
    fn a_stall_counts_for_every_request_that_was_intended_meanwhile() {
        let (stall, run_for) = (Duration::from_millis(200), Duration::from_millis(600));
        let open = counts_with_a_stall(Some(1000.0), 100, stall, run_for);
        assert!(
            open.percentile_us(90.0) > Some(50_000.0),
            "{:?}",
            open.percentile_us(90.0)
        );
        // A closed loop asks less meanwhile: one request of many waited.
        let closed = counts_with_a_stall(None, 100, stall, run_for);
        assert!(closed.percentile_us(100.0) > Some(150_000.0));
        assert!(closed.latencies().1 / 1_000_000 < open.latencies().1 / 1_000_000);
    }

    #[test]
    fn requests_that_a_stall_kept_from_being_sent_until_the_end_are_counted() {
        let (stall, run_for) = (Duration::from_millis(400), Duration::from_millis(300));
        let counts = counts_with_a_stall(Some(1000.0), 0, stall, run_for);
        let (count, _) = counts.latencies();
        assert!(count > 200, "{count} of some 300 intended");
        assert!(
            counts.percentile_us(50.0) > Some(100_000.0),
            "{:?}",
            counts.percentile_us(50.0)
        );
    }
}
