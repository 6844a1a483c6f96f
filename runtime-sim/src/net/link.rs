//! One direction between two nodes: how long a packet takes, and whether it arrives.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::random::Draw;
use crate::state::Core;

/// Bytes of headers, counted against bandwidth.
const HEADER_SIZE: u64 = 60;

/// Within one machine.
const LOOPBACK_LATENCY_NS: u64 = 20_000;

/// Behaviour of one direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkProfile {
    pub latency: Duration,
    /// Added to the latency, uniform from zero to this.
    pub jitter: Duration,
    /// Probability that a packet (a segment of up to 64 KiB, or an acknowledgement) is lost.
    pub loss: f64,
    /// Packets queue behind each other at this rate; `None`: no limit.
    pub bytes_per_second: Option<u64>,
}

impl Default for LinkProfile {
    /// A switched local network.
    fn default() -> Self {
        LinkProfile {
            latency: Duration::from_micros(250),
            jitter: Duration::from_micros(500),
            loss: 0.0,
            bytes_per_second: Some(125_000_000),
        }
    }
}

#[derive(Default)]
struct Link {
    profile: Option<LinkProfile>,
    cut: bool,
    /// The wire is busy until then.
    free_at: u64,
}

#[derive(Default)]
pub(super) struct Links {
    links: BTreeMap<(usize, usize), Link>,
    default: LinkProfile,
}

/// A packet about to be sent.
pub(super) struct Packet {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) data_size: usize,
    /// When it leaves: later than now if its sender stands still until then.
    pub(super) at: u64,
    /// Who it is, for its draws.
    pub(super) identity: Draw,
}

impl Links {
    pub(super) fn set(&mut self, from: usize, to: usize, profile: LinkProfile) {
        self.links.entry((from, to)).or_default().profile = Some(profile);
    }

    pub(super) fn set_default(&mut self, profile: LinkProfile) {
        self.default = profile;
    }

    pub(super) fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        self.links.entry((from, to)).or_default().cut = cut;
    }

    pub(super) fn heal_all(&mut self) {
        for link in self.links.values_mut() {
            link.cut = false;
        }
    }

    pub(super) fn profile(&self, from: usize, to: usize) -> LinkProfile {
        let link = self.links.get(&(from, to));
        link.and_then(|link| link.profile).unwrap_or(self.default)
    }

    /// True if a packet that is on the link now is lost; counts it.
    pub(super) fn swallows(&self, core: &mut Core, from: usize, to: usize, data_size: usize) -> bool {
        let cut = from != to && self.links.get(&(from, to)).is_some_and(|link| link.cut);
        if cut {
            let effects = core.effects(from);
            effects.packets_cut += 1;
            effects.bytes_cut += data_size as u64;
        }
        cut
    }

    /// When the packet arrives, or `None` if it never does.
    pub(super) fn send(&mut self, core: &mut Core, packet: &Packet) -> Option<u64> {
        let &Packet {
            from,
            to,
            data_size,
            at,
            identity,
        } = packet;
        if from == to {
            return Some(at + LOOPBACK_LATENCY_NS);
        }
        if self.swallows(core, from, to, data_size) {
            return None;
        }
        let link = self.links.entry((from, to)).or_default();
        let profile = link.profile.unwrap_or(self.default);
        if identity.with(1).happens(profile.loss) {
            core.effects(from).packets_lost += 1;
            return None;
        }
        let mut leaves_at = at;
        if let Some(rate) = profile.bytes_per_second {
            let size = data_size as u64 + HEADER_SIZE;
            leaves_at = at.max(link.free_at) + size * 1_000_000_000 / rate.max(1);
            link.free_at = leaves_at;
        }
        let jitter = identity.with(2).between(Duration::ZERO, profile.jitter);
        Some(leaves_at + (profile.latency + jitter).as_nanos() as u64)
    }
}
