//! Replies as a load generator needs them: code, opaque and body, without building a command.
//!
//! A JSON header is searched for two keys; whatever does not look as expected goes through the protocol's own decoder, which
//! is also the slow twin in the tests.

use anyhow::Context;
use bytes::BytesMut;
use orrery_core::protocol::Command;
use orrery_core::protocol::frame::{self, Limits};

/// Bytes of one reply: 16 MiB, as RocketMQ's `com.rocketmq.remoting.frameMaxLength`. A longer one ends the connection.
pub(super) const FRAME_BYTES_MAX: usize = 16 << 20;

pub(super) struct Reply<'a> {
    pub(super) code: i32,
    pub(super) opaque: i32,
    pub(super) body: &'a [u8],
    frame: &'a [u8],
}

impl<'a> Reply<'a> {
    /// Bytes of the frame that begins here, its length field included; `None` until that field is there.
    pub(super) fn frame_bytes(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
        let Some(length) = bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        anyhow::ensure!(
            (4..=FRAME_BYTES_MAX).contains(&length),
            "a frame of {length} bytes: the server speaks another protocol"
        );
        Ok(Some(4 + length))
    }

    /// Reads a whole frame.
    pub(super) fn read(frame: &'a [u8]) -> anyhow::Result<Reply<'a>> {
        let word = u32::from_be_bytes(*frame.get(4..).and_then(|rest| rest.first_chunk()).context("a header")?);
        let (is_json, header_bytes) = (word >> 24 == 0, (word & 0xFF_FFFF) as usize);
        let header = frame.get(8..8 + header_bytes).context("a header that fits")?;
        let body = &frame[8 + header_bytes..];
        let known = is_json
            .then(|| Some((integer(header, b"\"code\":")?, integer(header, b"\"opaque\":")?)))
            .flatten();
        if let Some((code, opaque)) = known {
            return Ok(Reply {
                code,
                opaque,
                body,
                frame,
            });
        }
        let command = decode(frame)?;
        Ok(Reply {
            code: command.code,
            opaque: command.opaque,
            body,
            frame,
        })
    }

    /// All of it, the slow way.
    pub(super) fn command(&self) -> anyhow::Result<Command> {
        decode(self.frame)
    }
}

fn decode(frame: &[u8]) -> anyhow::Result<Command> {
    frame::decode(&mut BytesMut::from(frame), &Limits::default())?.context("a whole frame")
}

/// The integer behind a key. Inside a JSON string the key's own quotes would be escaped, so what is found is a key.
fn integer(header: &[u8], key: &[u8]) -> Option<i32> {
    let first = key[1];
    let mut at = 0;
    loop {
        // The second character is rarer than a quote.
        at += header.get(at + 1..)?.iter().position(|byte| *byte == first)?;
        if header[at..].starts_with(key) {
            break;
        }
        at += 1;
    }
    let mut digits = &header[at + key.len()..];
    while let [b' ', rest @ ..] = digits {
        digits = rest;
    }
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    let mut number: Option<i32> = None;
    for byte in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        number = Some(
            number
                .unwrap_or(0)
                .checked_mul(10)?
                .checked_add(i32::from(byte - b'0'))?,
        );
    }
    number.map(|number| if negative { -number } else { number })
}

/// What a pull's body holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) count: u64,
    /// Queue offset of the first and the last record.
    pub(super) first_offset: i64,
    pub(super) last_offset: i64,
    /// Times of the first record.
    pub(super) born_millis: i64,
    pub(super) store_millis: i64,
}

impl Records {
    /// Steps over records by their sizes; `None` if there is none or one is cut off. A record begins with its size, and has its
    /// queue offset and times at fixed places where hosts are IPv4.
    pub(super) fn read(body: &[u8]) -> Option<Records> {
        const OFFSET_AT: usize = 20;
        const BORN_AT: usize = 40;
        const STORED_AT: usize = 56;
        let long = |record: &[u8], at: usize| Some(i64::from_be_bytes(*record.get(at..)?.first_chunk()?));
        let (mut count, mut rest, mut last) = (0, body, body);
        while !rest.is_empty() {
            let size = u32::from_be_bytes(*rest.first_chunk::<4>()?) as usize;
            if size < STORED_AT + 8 || size > rest.len() {
                return None;
            }
            (last, rest) = rest.split_at(size);
            count += 1;
        }
        Some(Records {
            count,
            first_offset: long(body, OFFSET_AT)?,
            last_offset: long(last, OFFSET_AT)?,
            born_millis: long(body, BORN_AT)?,
            store_millis: long(body, STORED_AT)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_core::protocol::frame::Outgoing;

    fn encoded(command: &Command) -> Vec<u8> {
        let mut out = Outgoing::new(Limits::default());
        frame::encode(command, Vec::new(), &mut out).unwrap();
        out.take().iter().flatten().copied().collect()
    }

    #[test]
    fn a_reply_reads_as_the_protocols_decoder_reads_it() {
        let mut request = Command::request(310);
        for (opaque, code, remark) in [
            (0, 0, ""),
            (1_000_000_063, 2, "code: \"opaque\":7, \"code\":9"),
            (-5, -1, "é"),
            (i32::MAX, 21, "broker busy"),
        ] {
            request.opaque = opaque;
            let mut reply = Command::success(&request)
                .with("opaque2", "3")
                .with("msgId", "\"code\":8")
                .with_body(vec![7; 9]);
            reply.code = code;
            reply.remark = Some(remark.into());
            let frame = encoded(&reply);
            assert_eq!(Reply::frame_bytes(&frame).unwrap(), Some(frame.len()));
            let (fast, slow) = (Reply::read(&frame).unwrap(), decode(&frame).unwrap());
            assert_eq!((fast.code, fast.opaque), (slow.code, slow.opaque), "{remark}");
            assert_eq!((fast.code, fast.opaque, fast.body), (code, opaque, &[7; 9][..]));
        }
    }

    #[test]
    fn headers_as_other_servers_write_them_are_read() {
        let header = br#"{ "opaque": 12, "extFields":{"a":"1"}, "code": -3,"flag":1,"language":"JAVA","version":475}"#;
        assert_eq!(integer(header, b"\"code\":"), Some(-3));
        assert_eq!(integer(header, b"\"opaque\":"), Some(12));
        assert_eq!(integer(header, b"\"version\":"), Some(475));
        assert_eq!(integer(header, b"\"absent\":"), None);
        assert_eq!(integer(br#"{"code":"x"}"#, b"\"code\":"), None);
        assert_eq!(integer(br#"{"code":99999999999}"#, b"\"code\":"), None);
    }

    #[test]
    fn foreign_bytes_are_refused_and_never_panic() {
        assert!(Reply::frame_bytes(b"HTTP/1.1").is_err());
        assert!(Reply::frame_bytes(&[0; 4]).is_err());
        assert_eq!(Reply::frame_bytes(&[0; 3]).unwrap(), None);
        for frame in [&b"\0\0\0\x04\0\0\0\x09"[..], b"\0\0\0\x04\x01\0\0\0"] {
            assert!(Reply::read(frame).is_err(), "{frame:?}");
        }
    }

    fn record(size: usize, offset: i64) -> Vec<u8> {
        let mut record = vec![0; size];
        record[..4].copy_from_slice(&(size as u32).to_be_bytes());
        record[20..28].copy_from_slice(&offset.to_be_bytes());
        record[40..48].copy_from_slice(&(offset * 10).to_be_bytes());
        record[56..64].copy_from_slice(&(offset * 20).to_be_bytes());
        record
    }

    #[test]
    fn records_are_counted_with_the_ends_and_times() {
        let body = [record(100, 7), record(64, 8), record(90, 9)].concat();
        let records = Records::read(&body).unwrap();
        assert_eq!((records.count, records.first_offset, records.last_offset), (3, 7, 9));
        assert_eq!((records.born_millis, records.store_millis), (70, 140));
        assert_eq!(Records::read(&body[..body.len() - 1]), None);
        assert_eq!(Records::read(&[]), None);
        assert_eq!(Records::read(&[0; 80]), None);
    }
}
