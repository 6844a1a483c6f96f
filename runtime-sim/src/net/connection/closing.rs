//! How a connection ends: halves dropped, closed in order, reset; and when nothing is left of it.

use orrery_core::runtime::NetErrorKind;

use super::{Kernel, Side, packet};
use crate::events::Event;
use crate::net::{ConnectionId, End, Net, NetEvent, Payload};
use crate::state::Core;

impl Net {
    pub(in crate::net) fn drop_reader(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let Some(side) = self.side(id, end) else { return };
        side.reader_open = false;
        side.reader = None;
        if !side.writer_open {
            self.close_socket(core, id, end);
        }
    }

    pub(in crate::net) fn drop_writer(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let Some(side) = self.side(id, end) else { return };
        side.writer_open = false;
        side.writer = None;
        if side.reader_open {
            self.close_writer(core, id, end);
        } else {
            self.close_socket(core, id, end);
        }
    }

    /// The process has ended during a stall: what it would have sent afterwards never leaves.
    pub(in crate::net) fn unsend(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let now = core.now;
        let Some(side) = self.side(id, end) else { return };
        while let Some(segment) = side
            .unacknowledged
            .pop_back_if(|segment| segment.sent_at > now && segment.attempts == 1)
        {
            side.next_sequence = segment.sequence;
            side.fin_queued &= !matches!(segment.payload, Payload::Fin);
            if let Some(key) = segment.arrival {
                core.events.cancel(key);
            }
        }
    }

    /// The process is gone: its kernel closes the socket.
    pub(in crate::net) fn close_both(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let Some(side) = self.side(id, end) else { return };
        let was_held = side.held_by_process();
        side.reader_open = false;
        side.writer_open = false;
        side.reader = None;
        side.writer = None;
        match side.kernel {
            Kernel::Opening if end == End::Client => self.abandon(core, id),
            _ if was_held => self.close_socket(core, id, end),
            _ => {}
        }
    }

    /// Nobody holds the socket any more.
    pub(super) fn close_socket(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let Some(side) = self.side(id, end) else { return };
        if side.kernel != Kernel::Established {
            return self.remove_if_over(id);
        }
        if side.inbox.is_empty() {
            self.close_writer(core, id, end);
        } else {
            self.abort(core, id, end);
        }
    }

    /// Sends a reset and forgets the connection.
    pub(in crate::net) fn abort(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        self.send_reset(core, id, end);
        self.forget(core, id, end);
    }

    pub(super) fn send_reset(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (from, to) = (
            connection.ends[end as usize].node,
            connection.ends[end.other() as usize].node,
        );
        let identity = connection.control_identity(end);
        let at = core.now;
        if let Some(arrival) = self.links.send(core, &packet(from, to, 0, at, identity)) {
            core.events
                .push(arrival, Event::Net(NetEvent::Reset { id, to: end.other() }));
        }
    }

    pub(super) fn receive_reset(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let from = connection.ends[end.other() as usize].node;
        let side = &connection.ends[end as usize];
        let node = side.node;
        if self.links.swallows(core, from, node, 0) || !core.hosts[node].powered {
            return;
        }
        core.trace(node, "reset", &[id], &[]);
        match side.kernel {
            Kernel::Opening if end == End::Client => {
                core.effects(node).connects_refused += 1;
                self.fail(core, id, end, NetErrorKind::Refused);
            }
            Kernel::Established => {
                if side.held_by_process() {
                    core.effects(node).connections_reset += 1;
                }
                self.fail(core, id, end, NetErrorKind::Reset);
            }
            _ => {}
        }
    }

    /// The connection is over at this end; whoever uses it learns why.
    pub(super) fn fail(&mut self, core: &mut Core, id: ConnectionId, end: End, error: NetErrorKind) {
        let Some(side) = self.side(id, end) else { return };
        side.error = Some(error);
        side.wake_all(core);
        self.forget(core, id, end);
    }

    /// The process lets go of a connection without a word.
    pub(in crate::net) fn release(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        if let Some(side) = self.side(id, end) {
            side.reader_open = false;
            side.writer_open = false;
            self.forget(core, id, end);
        }
    }

    /// This end's kernel knows the connection no longer.
    pub(super) fn forget(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        let Some(side) = self.side(id, end) else { return };
        side.kernel = Kernel::Gone;
        side.unacknowledged.clear();
        side.acknowledgements.clear();
        side.early.clear();
        if let Some(key) = side.retransmit.take() {
            core.events.cancel(key);
        }
        self.remove_if_over(id);
    }

    /// Closed in order, and everything has been acknowledged.
    pub(super) fn finish(&mut self, core: &mut Core, id: ConnectionId, end: End) {
        self.forget(core, id, end);
        if let Some(side) = self.side(id, end) {
            side.kernel = Kernel::Closed;
        }
        self.remove_if_over(id);
    }

    /// Removes a connection that no process holds and no kernel cares for.
    pub(super) fn remove_if_over(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let over = |side: &Side| matches!(side.kernel, Kernel::Gone | Kernel::Closed) && !side.held_by_process();
        let [client, server] = &connection.ends;
        if over(client) && (over(server) || server.kernel == Kernel::Opening) {
            self.connections.remove(&id);
        }
    }
}
