//! The commands of `orrery`, one file each.

pub(crate) mod bench;
