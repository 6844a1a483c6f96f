//! Searching bytes eight at a time: the texts of headers and properties are too short for a call to pay, and too long for a
//! step per byte. Pure.

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Position of the first `wanted`.
#[inline]
pub(super) fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    let pattern = LOW * u64::from(wanted);
    first(bytes, |word| zeros(word ^ pattern), |byte| byte == wanted)
}

/// Position of the first byte that is one of the two.
#[inline]
pub(super) fn find_either(bytes: &[u8], one: u8, other: u8) -> Option<usize> {
    let (first_pattern, other_pattern) = (LOW * u64::from(one), LOW * u64::from(other));
    first(
        bytes,
        |word| zeros(word ^ first_pattern) | zeros(word ^ other_pattern),
        |byte| byte == one || byte == other,
    )
}

/// Position of the first byte that a JSON string cannot hold as it is: a control character, a quote or a backslash.
#[inline]
pub(super) fn find_escaped(bytes: &[u8]) -> Option<usize> {
    const QUOTES: u64 = LOW * b'"' as u64;
    const BACKSLASHES: u64 = LOW * b'\\' as u64;
    first(
        bytes,
        |word| (word.wrapping_sub(LOW * 0x20) & !word & HIGH) | zeros(word ^ QUOTES) | zeros(word ^ BACKSLASHES),
        |byte| byte < 0x20 || byte == b'"' || byte == b'\\',
    )
}

/// The highest bit of each byte that is zero. Bytes above the first zero may be marked wrongly.
#[inline]
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(LOW) & !word & HIGH
}

#[inline]
fn first(bytes: &[u8], marks: impl Fn(u64) -> u64, is_wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let marked = marks(u64::from_le_bytes(*word));
        if marked != 0 {
            return Some(index * 8 + marked.trailing_zeros() as usize / 8);
        }
    }
    let position = rest.iter().position(|byte| is_wanted(*byte))?;
    Some(words.len() * 8 + position)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn words_find_what_single_steps_find(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b'\\'), 0x1Eu8..0x22], 0..40),
            one: u8,
            other: u8,
        ) {
            let stepwise = |is_wanted: &dyn Fn(u8) -> bool| bytes.iter().position(|byte| is_wanted(*byte));
            prop_assert_eq!(find(&bytes, one), stepwise(&|byte| byte == one));
            prop_assert_eq!(find_either(&bytes, one, other), stepwise(&|byte| byte == one || byte == other));
            let is_escaped = |byte| byte < 0x20 || byte == b'"' || byte == b'\\';
            prop_assert_eq!(find_escaped(&bytes), stepwise(&is_escaped));
        }
    }
}
