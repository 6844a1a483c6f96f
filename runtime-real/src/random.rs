//! Random bits straight from the operating system, fetched 256 bytes at a time per thread.

use std::cell::RefCell;

const WORD_COUNT: usize = 32;

struct Pool {
    words: [u64; WORD_COUNT],
    left: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { words: [0; WORD_COUNT], left: 0 }) };
}

pub(crate) fn next_u64() -> u64 {
    POOL.with_borrow_mut(|pool| {
        if pool.left == 0 {
            refill(&mut pool.words);
            pool.left = WORD_COUNT;
        }
        pool.left -= 1;
        std::mem::take(&mut pool.words[pool.left])
    })
}

fn refill(words: &mut [u64; WORD_COUNT]) {
    let mut bytes = [0_u8; WORD_COUNT * 8];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the operating system has no randomness: {error}"),
        }
    }
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_differ_within_and_across_refills() {
        let words: std::collections::BTreeSet<u64> = (0..WORD_COUNT * 4).map(|_| next_u64()).collect();
        assert_eq!(words.len(), WORD_COUNT * 4);
    }
}
