//! What faults really did, as opposed to what was intended: a partition nobody noticed is no test.

use std::ops::{Add, Sub};

macro_rules! effects {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of actual damage. Subtract two snapshots to learn what happened between them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Effects { $($(#[$doc])* pub $name: u64,)* }

        impl Effects {
            /// Names and values of all counters, for a fault log.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        impl Add for Effects {
            type Output = Effects;
            fn add(self, other: Effects) -> Effects { Effects { $($name: self.$name + other.$name,)* } }
        }

        impl Sub for Effects {
            type Output = Effects;
            fn sub(self, other: Effects) -> Effects { Effects { $($name: self.$name - other.$name,)* } }
        }
    };
}

effects! {
    /// Packets that met a cut link. Counted at the sender.
    packets_cut,
    /// Payload bytes in those packets.
    bytes_cut,
    /// Packets lost by chance. Counted at the sender.
    packets_lost,
    /// Segments sent again after a retransmission time-out.
    packets_retransmitted,
    /// Connections that a living process saw reset.
    connections_reset,
    /// Connections given up because the peer was silent for the user time-out.
    connections_timed_out,
    /// Connection attempts refused.
    connects_refused,
    /// Connection attempts that ran into their time-out.
    connects_timed_out,
    /// Unsynced writes lost whole at a power loss.
    writes_lost,
    /// Unsynced writes of which a power loss kept some sectors.
    writes_torn,
    /// Unsynced writes that a power loss happened to keep.
    writes_kept,
    /// Bytes of unsynced writes that are gone.
    bytes_lost,
    /// Unsynced creations, removals and renames undone by a power loss.
    names_lost,
    /// Syncs answered with an error.
    syncs_failed,
    /// Syncs answered with success although nothing was written.
    syncs_lied,
    /// Reads answered with an error.
    reads_failed,
    /// Writes answered with an error.
    writes_failed,
    /// Writes of which a part arrived before they failed.
    writes_short,
    /// Writes that the device is to put elsewhere.
    writes_misdirected,
    /// Writes, allocations and creations refused because the disk is full.
    refused_full,
    /// Times a node stood still for its disk.
    stalls,
    /// For how long, in microseconds.
    stalled_us,
    /// Bits flipped.
    bits_rotted,
    /// Tasks of a node alive when it was killed or lost power (0 or 1 per event): a fault that hit a process.
    processes_ended,
    /// Pauses begun while a process ran.
    pauses,
    /// Changes of a node's clock.
    clock_changes,
}

impl Effects {
    pub fn is_zero(&self) -> bool {
        *self == Effects::default()
    }
}
