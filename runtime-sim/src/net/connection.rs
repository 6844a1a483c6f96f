//! One connection: two ends, each with a sender, a receiver, and what its kernel still knows.
//!
//! Sequence positions count the handshake's end, each data byte, and the end of stream. Segments keep their borders
//! when they are sent again, so a receiver meets each either whole or not at all.

mod closing;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::task::Waker;

use bytes::Bytes;
use orrery_core::runtime::NetErrorKind;

use super::link::Packet;
use super::{BACKLOG_COUNT_MAX, ConnectionId, End, Net, NetEvent, Payload, WINDOW_SIZE};
use crate::events::{Event, EventKey};
use crate::random::Draw;
use crate::state::Core;

pub(super) struct Connection {
    /// Names the connection independently of what else happened: (from, to, n-th between them).
    identity: Draw,
    pub(super) ends: [Side; 2],
    pub(super) server_address: SocketAddr,
}

impl Connection {
    /// Names the next packet of `end` that is no segment.
    fn control_identity(&mut self, end: End) -> Draw {
        let side = &mut self.ends[end as usize];
        side.control_count += 1;
        self.identity.with(2).with(end as u64).with(side.control_count)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Not known yet: the SYN has not been received or not been answered.
    Opening,
    Established,
    /// Closed in order: still acknowledges the peer's FIN.
    Closed,
    /// Unknown: packets are answered by RST if the host is up.
    Gone,
}

struct Unacknowledged {
    sequence: u64,
    payload: Payload,
    /// Later than now if the sender stands still until then.
    sent_at: u64,
    attempts: u64,
    arrival: Option<EventKey>,
}

#[derive(Clone, Copy)]
struct Acknowledgement {
    /// When the sender learns it.
    at: u64,
    /// Everything below was received.
    upto: u64,
    /// Everything below may be sent.
    window_end: u64,
}

pub(super) struct Side {
    pub(super) node: usize,
    pub(super) address: SocketAddr,
    pub(super) kernel: Kernel,
    pub(super) error: Option<NetErrorKind>,
    /// The process holds a reading half, or will once it accepts.
    reader_open: bool,
    writer_open: bool,

    unacknowledged: VecDeque<Unacknowledged>,
    next_sequence: u64,
    acknowledged: u64,
    window_end: u64,
    fin_queued: bool,
    acknowledgements: VecDeque<Acknowledgement>,
    retransmit: Option<EventKey>,
    retransmit_after: u64,
    /// Last time the peer was known to answer.
    progress_at: u64,
    recovering: bool,
    last_arrival: u64,
    /// Packets sent that are no segments: acknowledgements, resets, probes.
    control_count: u64,

    expected: u64,
    early: BTreeMap<u64, Payload>,
    inbox: VecDeque<Bytes>,
    inbox_size: u64,
    advertised_end: u64,
    end_of_stream: bool,

    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Side {
    fn new(node: usize, address: SocketAddr) -> Side {
        Side {
            node,
            address,
            kernel: Kernel::Opening,
            error: None,
            reader_open: true,
            writer_open: true,
            unacknowledged: VecDeque::new(),
            next_sequence: 0,
            acknowledged: 0,
            window_end: WINDOW_SIZE,
            fin_queued: false,
            acknowledgements: VecDeque::new(),
            retransmit: None,
            retransmit_after: 0,
            progress_at: 0,
            recovering: false,
            last_arrival: 0,
            control_count: 0,
            expected: 0,
            early: BTreeMap::new(),
            inbox: VecDeque::new(),
            inbox_size: 0,
            advertised_end: WINDOW_SIZE,
            end_of_stream: false,
            reader: None,
            writer: None,
        }
    }

    fn held_by_process(&self) -> bool {
        self.reader_open || self.writer_open
    }

    fn wake_all(&mut self, core: &mut Core) {
        core.wakers.extend(self.reader.take());
        core.wakers.extend(self.writer.take());
    }

    fn receive_window_end(&self) -> u64 {
        self.expected - self.inbox_size + WINDOW_SIZE
    }

    /// Takes in the acknowledgements that count by now.
    fn absorb(&mut self, now: u64, retransmit_after: u64) -> bool {
        let before = self.acknowledged;
        while let Some(&acknowledgement) = self.acknowledgements.front()
            && acknowledgement.at <= now
        {
            self.acknowledgements.pop_front();
            self.acknowledged = self.acknowledged.max(acknowledgement.upto);
            self.window_end = self.window_end.max(acknowledgement.window_end);
            self.progress_at = self.progress_at.max(acknowledgement.at);
        }
        while let Some(segment) = self.unacknowledged.front()
            && segment.sequence < self.acknowledged
        {
            self.unacknowledged.pop_front();
        }
        let progressed = self.acknowledged > before;
        if progressed {
            self.retransmit_after = retransmit_after;
        }
        progressed
    }

    /// Everything the process wrote has arrived, and it will write no more.
    fn is_drained(&self) -> bool {
        self.fin_queued && self.unacknowledged.is_empty()
    }
}

/// What a reader finds.
pub(super) enum Inbox {
    Bytes(usize),
    End,
    Failed(NetErrorKind),
    Empty,
}

/// Opening.
impl Net {
    pub(super) fn connect(&mut self, core: &mut Core, from: usize, address: SocketAddr) -> ConnectionId {
        let to = self.host_of(from, address.ip());
        let ip = if address.ip().is_loopback() {
            address.ip()
        } else {
            core.hosts[from].ip.into()
        };
        let local = SocketAddr::new(ip, self.next_port(from));
        let pair = (from, to.unwrap_or(usize::MAX));
        let nth = self.pair_counts.entry(pair).or_default();
        *nth += 1;
        let identity = Draw::new(core.seed, "connection")
            .with(core.hosts[pair.0].identity)
            .with(core.hosts.get(pair.1).map_or(0, |host| host.identity))
            .with(*nth);
        self.connection_count += 1;
        let id = self.connection_count;
        let connection = Connection {
            identity,
            ends: [Side::new(from, local), Side::new(pair.1, address)],
            server_address: address,
        };
        self.connections.insert(id, connection);
        core.trace(from, "connect", &[id, pair.1 as u64, u64::from(address.port())], &[]);
        self.send_syn(core, id, 0);
        id
    }

    fn send_syn(&mut self, core: &mut Core, id: ConnectionId, attempt: u32) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let client = &connection.ends[0];
        if client.kernel != Kernel::Opening {
            return;
        }
        let (from, to) = (client.node, connection.ends[1].node);
        let at = core.local_now(from);
        let retry_after = (self.settings.syn_retry_after.as_nanos() as u64) << attempt.min(6);
        core.events.push(
            at + retry_after,
            Event::Net(NetEvent::SynRetry {
                id,
                attempt: attempt + 1,
            }),
        );
        if to == usize::MAX {
            return; // nobody has that address
        }
        let identity = connection.identity.with(1).with(u64::from(attempt));
        if let Some(arrival) = self.links.send(core, &packet(from, to, 0, at, identity)) {
            core.events.push(arrival, Event::Net(NetEvent::Syn(id)));
        }
    }

    fn receive_syn(&mut self, core: &mut Core, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (from, to) = (connection.ends[0].node, connection.ends[1].node);
        let address = connection.server_address;
        if self.links.swallows(core, from, to, 0) || !core.hosts[to].powered {
            return;
        }
        let listener = self.listeners.get(&(to, address.port()));
        let matches = |bound: &SocketAddr| bound.ip().is_unspecified() || bound.ip() == address.ip();
        let Some(listener) = listener.filter(|listener| matches(&listener.address)) else {
            core.trace(to, "refuse", &[id], &[]);
            self.send_reset(core, id, End::Server);
            return;
        };
        if listener.backlog.len() >= BACKLOG_COUNT_MAX {
            return;
        }
        let identity = connection.control_identity(End::Server);
        let at = core.now;
        if let Some(arrival) = self.links.send(core, &packet(to, from, 0, at, identity)) {
            core.events.push(arrival, Event::Net(NetEvent::SynAck(id)));
        }
    }

    fn receive_syn_ack(&mut self, core: &mut Core, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (client, server) = (connection.ends[0].node, connection.ends[1].node);
        if connection.ends[0].kernel != Kernel::Opening || self.links.swallows(core, server, client, 0) {
            return;
        }
        connection.ends[0].kernel = Kernel::Established;
        connection.ends[0].wake_all(core);
        self.queue_segment(core, id, End::Client, Payload::Open);
    }

    /// The handshake's last packet has arrived: hand the connection to the listener, if it still exists.
    fn establish(&mut self, core: &mut Core, id: ConnectionId) -> bool {
        let connection = self.connections.get_mut(&id).expect("caller has looked it up");
        let server = &mut connection.ends[1];
        let Some(listener) = self.listeners.get_mut(&(server.node, server.address.port())) else {
            server.kernel = Kernel::Gone;
            return false;
        };
        server.kernel = Kernel::Established;
        listener.backlog.push_back(id);
        core.wakers.append(&mut listener.waiting);
        true
    }

    /// The connecting process has lost patience or been refused.
    pub(super) fn abandon(&mut self, core: &mut Core, id: ConnectionId) {
        match self.side(id, End::Client).map(|side| side.kernel) {
            Some(Kernel::Opening) => {
                self.connections.remove(&id);
            }
            Some(Kernel::Gone) => self.release(core, id, End::Client),
            Some(_) => self.close_both(core, id, End::Client),
            None => {}
        }
    }

    /// Nobody will accept this connection.
    pub(super) fn refuse(&mut self, core: &mut Core, id: ConnectionId) {
        self.send_reset(core, id, End::Server);
        self.release(core, id, End::Server);
    }

    pub(super) fn side(&mut self, id: ConnectionId, end: End) -> Option<&mut Side> {
        self.connections
            .get_mut(&id)
            .map(|connection| &mut connection.ends[end as usize])
    }

    pub(super) fn addresses(&self, id: ConnectionId) -> Option<[SocketAddr; 2]> {
        let connection = self.connections.get(&id)?;
        Some([connection.ends[0].address, connection.ends[1].address])
    }
}

/// Sending.
impl Net {
    /// Bytes that may be written now; registers nothing.
    pub(super) fn writable(&mut self, core: &mut Core, id: ConnectionId, end: End) -> Result<usize, NetErrorKind> {
        let retransmit_after = self.settings.retransmit_after.as_nanos() as u64;
        let now = core.now;
        let Some(side) = self.side(id, end) else {
            return Err(NetErrorKind::Reset);
        };
        if let Some(error) = side.error {
            return Err(error);
        }
        if side.kernel != Kernel::Established || side.fin_queued {
            return Err(NetErrorKind::Other);
        }
        if side.absorb(now, retransmit_after) && side.recovering {
            self.recover(core, id, end);
        }
        let side = self.side(id, end).expect("looked up above");
        Ok(side.window_end.saturating_sub(side.next_sequence) as usize)
    }

    pub(super) fn write(&mut self, core: &mut Core, id: ConnectionId, end: End, bytes: Bytes) {
        self.queue_segment(core, id, end, Payload::Data(bytes));
    }

    /// The writer waits for the window: make sure that something will wake it.
    pub(super) fn wait_writable(&mut self, core: &mut Core, id: ConnectionId, end: End, waker: &Waker) {
        let Some(side) = self.side(id, end) else { return };
        side.writer = Some(waker.clone());
        if let Some(acknowledgement) = side.acknowledgements.front() {
            let at = acknowledgement.at;
            core.events.push(at, Event::Net(NetEvent::Acknowledged { id, at: end }));
        }
        self.arm_retransmit(core, id, end);
    }

    pub(super) fn close_writer(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let Some(side) = self.side(id, end) else { return };
        if !side.fin_queued && side.kernel == Kernel::Established {
            side.fin_queued = true;
            self.queue_segment(core, id, end, Payload::Fin);
        }
    }

    fn queue_segment(&mut self, core: &mut Core, id: ConnectionId, end: End, payload: Payload) {
        let Some(side) = self.side(id, end) else { return };
        let sequence = side.next_sequence;
        if side.unacknowledged.is_empty() {
            side.progress_at = core.now;
        }
        side.next_sequence += payload.length();
        side.unacknowledged.push_back(Unacknowledged {
            sequence,
            payload,
            sent_at: core.now,
            attempts: 0,
            arrival: None,
        });
        let index = side.unacknowledged.len() - 1;
        self.transmit(core, id, end, index);
        self.arm_retransmit(core, id, end);
    }

    fn transmit(&mut self, core: &mut Core, id: ConnectionId, end: End, index: usize) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let to = connection.ends[end.other() as usize].node;
        let identity = connection.identity.with(3).with(end as u64);
        let side = &mut connection.ends[end as usize];
        let from = side.node;
        let at = core.local_now(from);
        let segment = &mut side.unacknowledged[index];
        segment.sent_at = at;
        let identity = identity.with(segment.sequence).with(segment.attempts);
        segment.attempts += 1;
        let (sequence, payload) = (segment.sequence, segment.payload.clone());
        let bytes: &[u8] = match &payload {
            Payload::Data(bytes) if segment.attempts == 1 => bytes,
            _ => &[],
        };
        core.trace(from, "send", &[id, sequence, segment.attempts, payload.length()], bytes);
        let sent = self
            .links
            .send(core, &packet(from, to, payload.data_size(), at, identity));
        if let Some(arrival) = sent {
            let side = self.side(id, end).expect("looked up above");
            let arrival = arrival.max(side.last_arrival);
            side.last_arrival = arrival;
            let event = NetEvent::Segment {
                id,
                to: end.other(),
                sequence,
                payload,
            };
            side.unacknowledged[index].arrival = Some(core.events.push(arrival, Event::Net(event)));
        }
    }

    fn arm_retransmit(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let first = self.settings.retransmit_after.as_nanos() as u64;
        let Some(side) = self.side(id, end) else { return };
        if side.retransmit.is_some() {
            return;
        }
        if side.retransmit_after == 0 {
            side.retransmit_after = first;
        }
        let base = side.unacknowledged.front().map_or(core.now, |segment| segment.sent_at);
        let at = base + side.retransmit_after;
        side.retransmit = Some(core.events.push(at, Event::Net(NetEvent::Retransmit { id, at: end })));
    }

    fn retransmit(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let first = self.settings.retransmit_after.as_nanos() as u64;
        let user_timeout = self.settings.user_timeout.as_nanos() as u64;
        let now = core.now;
        let Some(side) = self.side(id, end) else { return };
        side.retransmit = None;
        if side.kernel != Kernel::Established {
            return;
        }
        if side.absorb(now, first) && side.recovering {
            self.recover(core, id, end);
        }
        let side = self.side(id, end).expect("looked up above");
        if side.is_drained() && !side.held_by_process() {
            return self.finish(core, id, end);
        }
        let waits = side.writer.is_some();
        if side.unacknowledged.is_empty() && !waits {
            return;
        }
        if now >= side.progress_at + user_timeout {
            return self.fail_by_silence(core, id, end);
        }
        let due = side
            .unacknowledged
            .front()
            .map_or(now, |segment| segment.sent_at + side.retransmit_after);
        if due <= now {
            let limit = side.progress_at + user_timeout - now;
            side.retransmit_after = (side.retransmit_after * 2).min(limit.max(1_000_000));
            if side.unacknowledged.is_empty() {
                self.probe(core, id, end);
            } else {
                side.recovering = true;
                let node = side.node;
                core.effects(node).packets_retransmitted += 1;
                self.transmit(core, id, end, 0);
            }
        }
        self.arm_retransmit(core, id, end);
    }

    /// The lost segment got through: send the rest of the flight again.
    fn recover(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let Some(side) = self.side(id, end) else { return };
        side.recovering = false;
        let (count, node) = (side.unacknowledged.len(), side.node);
        core.effects(node).packets_retransmitted += count as u64;
        for index in 0..count {
            self.transmit(core, id, end, index);
        }
    }

    /// Asks a receiver whose window is closed whether it has opened: its update may have been lost.
    fn probe(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (from, to) = (
            connection.ends[end as usize].node,
            connection.ends[end.other() as usize].node,
        );
        let identity = connection.control_identity(end);
        let at = core.now;
        let arrival = self.links.send(core, &packet(from, to, 0, at, identity));
        if arrival.is_none() || !core.hosts[to].powered {
            return;
        }
        match self.connections[&id].ends[end.other() as usize].kernel {
            Kernel::Established | Kernel::Closed => self.acknowledge(core, id, end.other()),
            Kernel::Opening => {}
            Kernel::Gone => self.send_reset(core, id, end.other()),
        }
    }

    fn fail_by_silence(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let Some(side) = self.side(id, end) else { return };
        let (node, held) = (side.node, side.held_by_process());
        core.trace(node, "silence", &[id], &[]);
        if held {
            core.effects(node).connections_timed_out += 1;
        }
        self.fail(core, id, end, NetErrorKind::TimedOut);
    }

    fn learn_acknowledgement(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let retransmit_after = self.settings.retransmit_after.as_nanos() as u64;
        let now = core.now;
        let Some(side) = self.side(id, end) else { return };
        if side.kernel != Kernel::Established {
            return;
        }
        if side.absorb(now, retransmit_after) && side.recovering {
            self.recover(core, id, end);
        }
        let side = self.side(id, end).expect("looked up above");
        if side.window_end > side.next_sequence {
            core.wakers.extend(side.writer.take());
        }
        if (side.writer.is_some() || side.recovering)
            && let Some(next) = side.acknowledgements.front()
        {
            let at = next.at;
            core.events.push(at, Event::Net(NetEvent::Acknowledged { id, at: end }));
        }
    }
}

/// Receiving.
impl Net {
    fn receive(&mut self, core: &mut Core, id: ConnectionId, end: End, sequence: u64, payload: Payload) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let from = connection.ends[end.other() as usize].node;
        let side = &connection.ends[end as usize];
        let node = side.node;
        if self.links.swallows(core, from, node, payload.data_size()) || !core.hosts[node].powered {
            return;
        }
        if side.kernel == Kernel::Opening && !self.establish(core, id) {
            return self.send_reset(core, id, end);
        }
        core.trace(node, "receive", &[id, sequence, payload.length()], &[]);
        let side = self.side(id, end).expect("looked up above");
        match side.kernel {
            Kernel::Gone => return self.send_reset(core, id, end),
            Kernel::Closed if payload.data_size() > 0 => return self.send_reset(core, id, end),
            _ => {}
        }
        if !side.held_by_process() && payload.data_size() > 0 {
            return self.abort(core, id, end); // nobody will ever read this
        }
        if sequence > side.expected {
            side.early.insert(sequence, payload);
        } else if sequence == side.expected {
            side.take_in(payload);
            while let Some(payload) = side.early.remove(&side.expected) {
                side.take_in(payload);
            }
            core.wakers.extend(side.reader.take());
        }
        self.acknowledge(core, id, end);
        self.remove_if_over(id);
    }

    /// Tells the peer what has been received and how much more may come.
    fn acknowledge(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let to = connection.ends[end.other() as usize].node;
        let identity = connection.control_identity(end);
        let side = &mut connection.ends[end as usize];
        let (from, upto, window_end) = (side.node, side.expected, side.receive_window_end());
        side.advertised_end = window_end;
        let at = core.now;
        let Some(arrival) = self.links.send(core, &packet(from, to, 0, at, identity)) else {
            return;
        };
        let peer = self.side(id, end.other()).expect("looked up above");
        let at = arrival.max(peer.acknowledgements.back().map_or(0, |last| last.at));
        peer.acknowledgements
            .push_back(Acknowledgement { at, upto, window_end });
        if peer.writer.is_some() || peer.recovering {
            let event = NetEvent::Acknowledged { id, at: end.other() };
            core.events.push(at, Event::Net(event));
        }
    }

    /// Appends what has arrived to `buffer`.
    pub(super) fn read(
        &mut self,
        core: &mut Core,
        id: ConnectionId,
        end: End,
        buffer: &mut bytes::BytesMut,
        limit: usize,
    ) -> Inbox {
        let Some(side) = self.side(id, end) else {
            return Inbox::Failed(NetErrorKind::Reset);
        };
        let mut taken = 0;
        while taken < limit
            && let Some(chunk) = side.inbox.front_mut()
        {
            let size = chunk.len().min(limit - taken);
            buffer.extend_from_slice(&chunk.split_to(size));
            if chunk.is_empty() {
                side.inbox.pop_front();
            }
            taken += size;
        }
        if taken > 0 {
            side.inbox_size -= taken as u64;
            if side.kernel == Kernel::Established && side.receive_window_end() - side.advertised_end >= WINDOW_SIZE / 4
            {
                self.acknowledge(core, id, end);
            }
            return Inbox::Bytes(taken);
        }
        match side.error {
            Some(error) => Inbox::Failed(error),
            None if side.end_of_stream => Inbox::End,
            None => Inbox::Empty,
        }
    }
}

impl Side {
    fn take_in(&mut self, payload: Payload) {
        self.expected += payload.length();
        match payload {
            Payload::Open => {}
            Payload::Data(bytes) => {
                self.inbox_size += bytes.len() as u64;
                self.inbox.push_back(bytes);
            }
            Payload::Fin => self.end_of_stream = true,
        }
    }
}

impl Net {
    pub(crate) fn carry_out(&mut self, core: &mut Core, event: NetEvent) {
        match event {
            NetEvent::Syn(id) => self.receive_syn(core, id),
            NetEvent::SynAck(id) => self.receive_syn_ack(core, id),
            NetEvent::SynRetry { id, attempt } => self.send_syn(core, id, attempt),
            NetEvent::Segment {
                id,
                to,
                sequence,
                payload,
            } => self.receive(core, id, to, sequence, payload),
            NetEvent::Reset { id, to } => self.receive_reset(core, id, to),
            NetEvent::Acknowledged { id, at } => self.learn_acknowledgement(core, id, at),
            NetEvent::Retransmit { id, at } => self.retransmit(core, id, at),
        }
    }
}

fn packet(from: usize, to: usize, data_size: usize, at: u64, identity: Draw) -> Packet {
    Packet {
        from,
        to,
        data_size,
        at,
        identity,
    }
}
