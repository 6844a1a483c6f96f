//! Simulated TCP. Nothing here is a task: packets are events of the world, state is plain data.
//!
//! | what | how it behaves |
//! |---|---|
//! | connecting | SYN, repeated after 1, 2, 4 … s; answered only by a powered host: SYN-ACK, or RST if nothing listens |
//! | a segment | up to [`SEGMENT_SIZE_MAX`] payload bytes, one fate: latency and jitter of its link, bandwidth queue, loss, cut at sending or at arrival |
//! | loss | retransmission after 200 ms, doubling; after success the rest of the flight follows at once |
//! | order | a receiver hands out bytes in sequence, whatever happened to the segments |
//! | window | [`WINDOW_SIZE`] bytes sent and not yet read; then the writer waits |
//! | silence | nothing acknowledged for [`NetSettings::user_timeout`]: the connection fails with a time-out |
//! | half-close | FIN is in sequence; the other direction goes on |
//! | closing | both halves dropped: FIN if nothing unread is left, else RST; later data is answered by RST |
//! | killed process | its kernel closes every socket as above |
//! | power loss | silence; after the reboot, packets of unknown connections are answered by RST |
//!
//! Acknowledgements are decided when the segment arrives and noted at the sender with the time at which they count,
//! so that the normal case costs one event per segment. Simplifications: no congestion window, no fast retransmit, no
//! `TIME_WAIT`.

mod connection;
mod endpoint;
mod link;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use orrery_core::types::Map;

pub use endpoint::{SimListener, SimReader, SimStream, SimWriter};
pub use link::LinkProfile;

use crate::state::Core;
use connection::Connection;
use link::Links;

/// Bytes a sender may have on the way or unread at the receiver; beyond, its writes wait.
pub const WINDOW_SIZE: u64 = 256 << 10;

/// Payload bytes of one segment: a batch as network cards offload it, one event however long.
pub const SEGMENT_SIZE_MAX: usize = 64 << 10;

/// Established connections waiting to be accepted; SYNs beyond are dropped, as Linux does at `somaxconn`.
pub const BACKLOG_COUNT_MAX: usize = 4096;

/// Settings of all hosts' TCP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NetSettings {
    /// A connection without an answer for this long fails. Default 30 s (Linux: about 15 min unless set).
    pub user_timeout: Duration,
    /// First retransmission after this; then doubled each time. Default 200 ms.
    pub retransmit_after: Duration,
    /// First repetition of a SYN after this; then doubled each time. Default 1 s.
    pub syn_retry_after: Duration,
}

impl Default for NetSettings {
    fn default() -> Self {
        NetSettings {
            user_timeout: Duration::from_secs(30),
            retransmit_after: Duration::from_millis(200),
            syn_retry_after: Duration::from_secs(1),
        }
    }
}

pub(crate) type ConnectionId = u64;

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The one that connected.
    Client = 0,
    /// The one that listened.
    Server = 1,
}

impl End {
    fn other(self) -> End {
        match self {
            End::Client => End::Server,
            End::Server => End::Client,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Payload {
    /// Completes the handshake: one position in sequence.
    Open,
    Data(Bytes),
    /// End of stream: one position in sequence.
    Fin,
}

impl Payload {
    fn length(&self) -> u64 {
        match self {
            Payload::Open | Payload::Fin => 1,
            Payload::Data(bytes) => bytes.len() as u64,
        }
    }

    fn data_size(&self) -> usize {
        match self {
            Payload::Open | Payload::Fin => 0,
            Payload::Data(bytes) => bytes.len(),
        }
    }
}

/// Something that arrives, or a timer of a connection.
pub(crate) enum NetEvent {
    Syn(ConnectionId),
    SynAck(ConnectionId),
    SynRetry {
        id: ConnectionId,
        attempt: u32,
    },
    Segment {
        id: ConnectionId,
        to: End,
        sequence: u64,
        payload: Payload,
    },
    Reset {
        id: ConnectionId,
        to: End,
    },
    /// An acknowledgement counts now at this end.
    Acknowledged {
        id: ConnectionId,
        at: End,
    },
    Retransmit {
        id: ConnectionId,
        at: End,
    },
}

struct ListenerState {
    id: u64,
    address: SocketAddr,
    backlog: VecDeque<ConnectionId>,
    waiting: Vec<Waker>,
}

/// All networks of a world.
#[derive(Default)]
pub(crate) struct Net {
    settings: NetSettings,
    links: Links,
    connections: Map<ConnectionId, Connection>,
    connection_count: u64,
    listeners: BTreeMap<(usize, u16), ListenerState>,
    listener_count: u64,
    names: BTreeMap<String, Vec<Ipv4Addr>>,
    by_ip: BTreeMap<Ipv4Addr, usize>,
    /// Next ephemeral port of each node.
    ports: Vec<u16>,
    /// Connections ever opened from one node to another: the stable part of a connection's identity.
    pair_counts: BTreeMap<(usize, usize), u64>,
}

impl Net {
    pub(crate) fn set_settings(&mut self, settings: NetSettings) {
        self.settings = settings;
    }

    pub(crate) fn add_host(&mut self, node: usize, ip: Ipv4Addr, name: &str) {
        debug_assert_eq!(node, self.ports.len());
        self.ports.push(FIRST_EPHEMERAL_PORT);
        self.by_ip.insert(ip, node);
        self.names.insert(name.to_owned(), vec![ip]);
    }

    pub(crate) fn set_name(&mut self, name: &str, ips: &[Ipv4Addr]) {
        self.names.insert(name.to_owned(), ips.to_vec());
    }

    pub(crate) fn resolve(&self, host: &str) -> Vec<Ipv4Addr> {
        if let Ok(ip) = host.parse() {
            return vec![ip];
        }
        if host == "localhost" {
            return vec![Ipv4Addr::LOCALHOST];
        }
        self.names.get(host).cloned().unwrap_or_default()
    }

    pub(crate) fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        self.links.set_cut(from, to, cut);
    }

    pub(crate) fn heal_all(&mut self) {
        self.links.heal_all();
    }

    pub(crate) fn set_link(&mut self, from: usize, to: usize, profile: LinkProfile) {
        self.links.set(from, to, profile);
    }

    pub(crate) fn set_default_link(&mut self, profile: LinkProfile) {
        self.links.set_default(profile);
    }

    pub(crate) fn profile(&self, from: usize, to: usize) -> LinkProfile {
        self.links.profile(from, to)
    }

    /// The node that answers for `ip` when asked by `from`.
    fn host_of(&self, from: usize, ip: IpAddr) -> Option<usize> {
        match ip {
            IpAddr::V4(ip) if ip.is_loopback() || ip.is_unspecified() => Some(from),
            IpAddr::V4(ip) => self.by_ip.get(&ip).copied(),
            IpAddr::V6(ip) => (ip.is_loopback() || ip.is_unspecified()).then_some(from),
        }
    }

    fn next_port(&mut self, node: usize) -> u16 {
        let port = self.ports[node];
        self.ports[node] = if port == LAST_EPHEMERAL_PORT {
            FIRST_EPHEMERAL_PORT
        } else {
            port + 1
        };
        port
    }

    /// The process on `node` is gone, its kernel is not.
    pub(crate) fn close_process(&mut self, core: &mut Core, node: usize) {
        for listener in self.take_listeners(node) {
            for id in listener.backlog {
                self.refuse(core, id);
            }
        }
        for (id, end) in self.ends_of(node) {
            self.unsend(core, id, end);
            self.close_both(core, id, end);
        }
    }

    /// The kernel on `node` is gone.
    pub(crate) fn power_loss(&mut self, core: &mut Core, node: usize) {
        self.take_listeners(node);
        for (id, end) in self.ends_of(node) {
            self.unsend(core, id, end);
            self.release(core, id, end);
        }
    }

    fn take_listeners(&mut self, node: usize) -> Vec<ListenerState> {
        let ports: Vec<_> = self
            .listeners
            .range((node, 0)..=(node, u16::MAX))
            .map(|(&key, _)| key)
            .collect();
        ports.iter().filter_map(|key| self.listeners.remove(key)).collect()
    }

    /// In the order in which they were opened.
    fn ends_of(&self, node: usize) -> Vec<(ConnectionId, End)> {
        let mut ends = Vec::new();
        for (&id, connection) in &self.connections {
            for end in [End::Client, End::Server] {
                if connection.ends[end as usize].node == node {
                    ends.push((id, end));
                }
            }
        }
        ends.sort_by_key(|&(id, end)| (id, end as u8));
        ends
    }
}

const FIRST_EPHEMERAL_PORT: u16 = 32_768;
const LAST_EPHEMERAL_PORT: u16 = 60_999;
