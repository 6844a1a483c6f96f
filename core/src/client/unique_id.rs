//! UNIQ_KEY, the message id that a producer makes.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | address of the client |
//! | 2 | process number: random here |
//! | 4 | class-loader hash in Java: random here |
//! | 4 | milliseconds since the start of the month |
//! | 2 | counter |
//!
//! As text: upper-case hex, 32 characters. Tools derive a time window from the third field, so the layout stays Java's;
//! months begin in UTC. Unique as long as one client sends fewer than 65,536 messages in a millisecond.
//! (MessageClientIDSetter.java)

use std::sync::atomic::{AtomicU16, Ordering};

use crate::runtime::WallMillis;
use crate::types::address::Ipv4Addr;

const DAY_MILLIS: i64 = 86_400_000;

/// Source of message ids of one client.
#[derive(Debug)]
pub struct UniqueIds {
    prefix: [u8; 10],
    counter: AtomicU16,
}

impl UniqueIds {
    pub fn new(address: Ipv4Addr, random: u64) -> UniqueIds {
        let mut prefix = [0; 10];
        prefix[..4].copy_from_slice(&address.octets());
        prefix[4..].copy_from_slice(&random.to_be_bytes()[..6]);
        UniqueIds {
            prefix,
            counter: AtomicU16::new(0),
        }
    }

    /// A new id as text.
    pub fn next(&self, now: WallMillis) -> String {
        let mut id = [0; 16];
        id[..10].copy_from_slice(&self.prefix);
        id[10..14].copy_from_slice(&millis_of_month(now).to_be_bytes());
        id[14..].copy_from_slice(&self.counter.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let mut text = String::with_capacity(32);
        for byte in id {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Milliseconds since the start of the current month, UTC. At most 31 days, which fits.
fn millis_of_month(now: WallMillis) -> u32 {
    let days = now.0.div_euclid(DAY_MILLIS);
    let day_of_month = civil_day_of_month(days);
    let millis = (day_of_month - 1) * DAY_MILLIS + now.0.rem_euclid(DAY_MILLIS);
    u32::try_from(millis).expect("31 days of milliseconds fit into 32 bits")
}

/// Day of the month, 1 to 31, of a day counted from 1970-01-01 in the Gregorian calendar (Hinnant, "chrono-compatible
/// low-level date algorithms": years begin in March, so that the leap day is the last).
fn civil_day_of_month(days: i64) -> i64 {
    let day_of_era = (days + 719_468).rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    day_of_year - (153 * month + 2) / 5 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_32_hex_characters_and_differ() {
        let ids = UniqueIds::new(Ipv4Addr::new(10, 0, 0, 1), 0x0102_0304_0506_0708);
        let first = ids.next(WallMillis(1));
        assert_eq!(first, "0A000001010203040506000000010000");
        assert_eq!(ids.next(WallMillis(1)), "0A000001010203040506000000010001");
    }

    #[test]
    fn months_begin_where_the_calendar_says() {
        assert_eq!(millis_of_month(WallMillis(0)), 0);
        // 2024-02-29T23:59:59.999Z and the next millisecond.
        assert_eq!(millis_of_month(WallMillis(1_709_251_199_999)), 29 * 86_400_000 - 1);
        assert_eq!(millis_of_month(WallMillis(1_709_251_200_000)), 0);
        // 1969-12-31T00:00:00Z
        assert_eq!(millis_of_month(WallMillis(-86_400_000)), 30 * 86_400_000);
    }
}
