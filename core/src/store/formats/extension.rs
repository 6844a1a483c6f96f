//! A unit of a consume queue's extension file, and the address by which a queue entry names it.
//!
//! ```text
//!  0 i16 size of the unit, this field included: 20 + bitmap
//!  2 i64 tags code
//! 10 i64 store time
//! 18 i16 length of the bitmap
//! 20     bitmap: which SQL92 subscriptions the message matches (a Bloom filter)
//! ```
//!
//! Units lie one behind the other; -1 in place of a size ends a file, whose last 4 bytes are never used. An entry whose
//! tags code is at or below -2147483649 holds the unit's position in the queue's extension files, plus `i64::MIN`.
//! Source: `store/ConsumeQueueExt.java`.

use super::{i16_at, i64_at};

/// Bytes of a unit without a bitmap.
pub const UNIT_SIZE_MIN: usize = 20;
/// Largest address. Tags codes are 32-bit hashes and lie above it.
const ADDRESS_MAX: i64 = i32::MIN as i64 - 1;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionUnit {
    pub tags_code: i64,
    pub store_time: i64,
    /// At most 32,747 bytes.
    pub bitmap: Vec<u8>,
}

/// Whether an entry's tags code is an address.
pub fn is_address(tags_code: i64) -> bool {
    tags_code <= ADDRESS_MAX
}

/// The position that an address means; `None` if it is a tags code.
pub fn position(tags_code: i64) -> Option<u64> {
    is_address(tags_code).then(|| tags_code.wrapping_sub(i64::MIN) as u64)
}

/// The address of a position; `None` beyond the largest.
pub fn address(position: u64) -> Option<i64> {
    let address = i64::try_from(position).ok()?.wrapping_add(i64::MIN);
    is_address(address).then_some(address)
}

impl ExtensionUnit {
    /// The unit at the start of `bytes` and its size; `None` if there is none.
    pub fn decode(bytes: &[u8]) -> Option<(ExtensionUnit, usize)> {
        let size = usize::try_from(i16_at(bytes, 0)?).ok()?;
        let bitmap_size = usize::try_from(i16_at(bytes, 18)?).ok()?;
        if size != UNIT_SIZE_MIN + bitmap_size {
            return None;
        }
        let unit = ExtensionUnit {
            tags_code: i64_at(bytes, 2)?,
            store_time: i64_at(bytes, 10)?,
            bitmap: bytes.get(UNIT_SIZE_MIN..size)?.to_vec(),
        };
        Some((unit, size))
    }

    /// `None` if the bitmap is too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let size = i16::try_from(UNIT_SIZE_MIN + self.bitmap.len()).ok()?;
        let mut bytes = Vec::with_capacity(UNIT_SIZE_MIN + self.bitmap.len());
        bytes.extend_from_slice(&size.to_be_bytes());
        bytes.extend_from_slice(&self.tags_code.to_be_bytes());
        bytes.extend_from_slice(&self.store_time.to_be_bytes());
        bytes.extend_from_slice(&(self.bitmap.len() as i16).to_be_bytes());
        bytes.extend_from_slice(&self.bitmap);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hashes_are_no_addresses_and_the_first_address_is_position_zero() {
        for code in [0, 1, -1, i64::from(i32::MIN), i64::from(i32::MAX)] {
            assert_eq!(position(code), None);
        }
        assert_eq!(position(i64::MIN), Some(0));
        assert_eq!(position(ADDRESS_MAX), Some((ADDRESS_MAX as u64) ^ (1 << 63)));
        assert_eq!(address(u64::MAX), None);
        assert_eq!(address(i64::MAX as u64), None);
    }

    #[test]
    fn the_mark_at_a_files_end_is_no_unit() {
        assert_eq!(ExtensionUnit::decode(&[0xff; 64]), None);
        assert_eq!(ExtensionUnit::decode(&[0; 64]), None);
    }

    proptest! {
        #[test]
        fn units_round_trip(tags_code: i64, store_time: i64, bitmap in prop::collection::vec(any::<u8>(), 0..200)) {
            let unit = ExtensionUnit { tags_code, store_time, bitmap };
            let mut bytes = unit.encode().unwrap();
            let size = bytes.len();
            bytes.extend_from_slice(&[7; 9]);
            prop_assert_eq!(ExtensionUnit::decode(&bytes), Some((unit, size)));
        }

        #[test]
        fn addresses_round_trip(at in 0..1u64 << 62) {
            prop_assert_eq!(position(address(at).unwrap()), Some(at));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), code: i64, at: u64) {
            let _ = ExtensionUnit::decode(&bytes);
            let _ = (position(code), address(at));
        }
    }
}
