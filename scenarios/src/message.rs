//! Bodies that say who they are: a reader needs nothing but the bytes to tell which message it got, and whether it is whole.
//!
//! ```text
//! "client-1-42|" filler … | CRC-32 of everything before, big endian
//! uid             letters   4 bytes
//! ```
//! (Little endian would make the CRC of every whole body the same constant.)

use orrery_checker::history::Content;
use orrery_runtime_sim::Draw;

/// Smallest body: a long uid, its end mark and the checksum.
pub const SIZE_MIN: usize = 40;

/// The body of message `uid`, of about `size` bytes.
pub fn body(uid: &str, size: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(size.max(SIZE_MIN));
    body.extend_from_slice(uid.as_bytes());
    body.push(b'|');
    let filler = Draw::new(0, uid);
    let filler_size = size.max(SIZE_MIN) - 4;
    for index in body.len()..filler_size {
        // Letters that repeat a little, so that compression has something to do.
        let letter = filler.with(index as u64 / 3).below(26) as u8;
        body.push(b'a' + letter);
    }
    let crc = crc32(&body);
    body.extend_from_slice(&crc.to_be_bytes());
    body
}

/// The uid in a body, if the body is whole.
pub fn uid(body: &[u8]) -> Option<&str> {
    let (text, crc) = body.split_last_chunk::<4>()?;
    if u32::from_be_bytes(*crc) != crc32(text) {
        return None;
    }
    let end = text.iter().position(|&byte| byte == b'|')?;
    std::str::from_utf8(&text[..end]).ok()
}

/// What a history says about a message.
pub fn content(body: &[u8], tag: Option<&str>, keys: Option<&str>) -> Content {
    Content {
        crc: crc32(body),
        size: body.len() as u32,
        tag: tag.map(str::to_owned),
        keys: keys.map(str::to_owned),
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_its_message_and_notices_damage() {
        for size in [0, SIZE_MIN, 100, 5_000] {
            let mut bytes = body("client-1-42", size);
            assert_eq!(uid(&bytes), Some("client-1-42"));
            assert_eq!(bytes.len(), size.max(SIZE_MIN));
            bytes[20] ^= 1;
            assert_eq!(uid(&bytes), None);
        }
        assert_ne!(
            content(&body("a", 50), None, None).crc,
            content(&body("b", 50), None, None).crc
        );
        assert_eq!(uid(b""), None);
        assert_eq!(uid(b"abc"), None);
    }
}
