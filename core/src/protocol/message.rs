//! A message as RocketMQ stores it and sends it to consumers: the *record*, and the names and bits around it.
//!
//! Not the frame or the headers of remoting, and not the log that records lie in. Everything here is pure: bytes in,
//! values out. The layout (big-endian; `b` and `s` are 8 bytes for IPv4 hosts, 20 for IPv6):
//!
//! ```text
//!  0  i32 total size          40      i64 born time            76+x    i64 prepared transaction offset
//!  4  u32 magic (V1, V2)      48      b   born host: ip, port   84+x    i32 body size, body
//!  8  i32 body CRC            48+b    i64 store time            ..      u8 (V1) or i16 (V2) topic size, topic
//! 12  i32 queue id            56+b    s   store host            ..      i16 properties size, properties
//! 16  i32 flag                56+b+s  i32 reconsume times
//! 20  i64 queue offset
//! 28  i64 physical offset
//! 36  i32 sys flag
//! ```
//!
//! Invariants: what [`encode`] writes, [`RecordView::parse`] reads; `parse` accepts a record only if the size computed
//! from its parts equals the size it names; no input panics.
//! Copied from `store/MessageExtEncoder.java` and `common/message/MessageDecoder.java`.

use bytes::Bytes;

use super::properties;
use crate::runtime::WallMillis;
use crate::types::address::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Magic of a record whose topic size takes one byte.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of a record whose topic size takes two bytes: used only for topics longer than [`TOPIC_SIZE_V1_MAX`].
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Magic of the filler at the end of a commit log file.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;

/// Bytes of a V1 record with IPv4 hosts, an empty body, topic and properties.
pub const RECORD_FIXED_SIZE: usize = 91;
/// Bytes that a blank record writes: size and magic. Also the room that must stay free behind a record.
pub const BLANK_SIZE: usize = 8;
/// Longest topic in bytes of a V1 record: its size is a signed byte in Java.
pub const TOPIC_SIZE_V1_MAX: usize = 127;
/// Longest topic in bytes at all (`%RETRY%` and `%DLQ%` topics), as `TopicValidator.java` has it.
pub const TOPIC_SIZE_MAX: usize = 255;
/// Longest properties in bytes: their size is a signed 16-bit number. Longer ones are refused.
pub const PROPERTIES_SIZE_MAX: usize = 32_767;

/// Byte position of the physical offset within a record.
pub const PHYSICAL_OFFSET_AT: usize = 28;
/// Bytes from which [`store_time`] can read: the fixed part up to the store time behind an IPv6 born host.
pub const STORE_TIME_PREFIX_SIZE: usize = 76;

const CRC_MASK: u32 = 0x7FFF_FFFF;

/// Bits of the sys flag. Source: `common/sysflag/MessageSysFlag.java`.
pub mod sys_flag {
    pub const COMPRESSED: i32 = 0x1;
    pub const MULTI_TAGS: i32 = 0x2;
    /// Two bits: one of `NOT_TRANSACTION`, `PREPARED`, `COMMIT`, `ROLLBACK`.
    pub const TRANSACTION_MASK: i32 = 0xC;
    pub const NOT_TRANSACTION: i32 = 0x0;
    pub const PREPARED: i32 = 0x4;
    pub const COMMIT: i32 = 0x8;
    pub const ROLLBACK: i32 = 0xC;
    pub const BORN_HOST_V6: i32 = 0x10;
    pub const STORE_HOST_V6: i32 = 0x20;
    pub const NEED_UNWRAP: i32 = 0x40;
    /// One record that holds several messages (topics with a batch consume queue only).
    pub const INNER_BATCH: i32 = 0x80;
    /// Codec of a compressed body: 0 is zlib too (clients older than 5.0).
    pub const COMPRESSION_MASK: i32 = 0x700;
    pub const COMPRESSION_LZ4: i32 = 0x100;
    pub const COMPRESSION_ZSTD: i32 = 0x200;
    pub const COMPRESSION_ZLIB: i32 = 0x300;

    /// The transaction bits alone.
    pub fn transaction(flags: i32) -> i32 {
        flags & TRANSACTION_MASK
    }

    /// Whether a record with these flags has a place in a consume queue: plain and committed ones do.
    pub fn is_queued(flags: i32) -> bool {
        matches!(transaction(flags), NOT_TRANSACTION | COMMIT)
    }
}

/// Java's `String.hashCode`: over UTF-16 code units, wrapping.
pub fn java_hash(text: &str) -> i32 {
    java_hash_on(0, text)
}

/// The hash of a text that goes on with `text`, from the hash of what comes before.
pub fn java_hash_on(hash: i32, text: &str) -> i32 {
    const POWERS: [i32; 4] = [31 * 31 * 31 * 31, 31 * 31 * 31, 31 * 31, 31];
    if !text.is_ascii() {
        let units = text.encode_utf16();
        return units.fold(hash, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    }
    // Four at a time: the multiplications do not wait for each other.
    let (fours, rest) = text.as_bytes().as_chunks::<4>();
    let hash = fours.iter().fold(hash, |hash, [first, second, third, fourth]| {
        let ahead = POWERS[1] * i32::from(*first) + POWERS[2] * i32::from(*second) + POWERS[3] * i32::from(*third);
        hash.wrapping_mul(POWERS[0]).wrapping_add(ahead + i32::from(*fourth))
    });
    rest.iter()
        .fold(hash, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(*byte)))
}

/// The consume queue's code of a tag: its Java hash sign-extended; 0 without a tag.
pub fn tags_code(tag: Option<&str>) -> i64 {
    match tag {
        Some(tag) if !tag.is_empty() => i64::from(java_hash(tag)),
        _ => 0,
    }
}

/// CRC of a body as a record stores it: CRC-32 (zlib) without its highest bit.
pub fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body) & CRC_MASK
}

/// A message that has no place in the log yet.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    pub topic: &'a str,
    pub queue_id: i32,
    /// The application's flag, opaque.
    pub flag: i32,
    /// See [`sys_flag`]; the two host bits follow the hosts and need not be set.
    pub sys_flag: i32,
    pub born_time: WallMillis,
    pub born_host: SocketAddr,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: i64,
    pub body: &'a [u8],
    /// The properties string of [`properties`].
    pub properties: &'a str,
}

impl<'a> Draft<'a> {
    /// A message without properties or a history, born and stored on this host, at no time in particular.
    pub fn new(topic: &'a str, queue_id: i32, body: &'a [u8]) -> Draft<'a> {
        let host = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Draft {
            topic,
            queue_id,
            flag: 0,
            sys_flag: 0,
            born_time: WallMillis(0),
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body,
            properties: "",
        }
    }
}

/// Where a record lies and when it was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    pub queue_offset: i64,
    pub physical_offset: u64,
    pub store_time: WallMillis,
}

/// Size in bytes of the record that [`encode`] writes for this draft.
pub fn encoded_size(draft: &Draft<'_>) -> usize {
    let topic_size_bytes = if draft.topic.len() > TOPIC_SIZE_V1_MAX { 1 } else { 0 };
    RECORD_FIXED_SIZE
        + topic_size_bytes
        + host_growth(draft.born_host)
        + host_growth(draft.store_host)
        + draft.body.len()
        + draft.topic.len()
        + draft.properties.len()
}

/// Why a draft cannot become a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    #[error("topic has {size} bytes, allowed are 1 to {TOPIC_SIZE_MAX}")]
    TopicSize { size: usize },
    #[error("topic cannot be the name of a folder")]
    TopicName,
    #[error("properties have {size} bytes, allowed are {PROPERTIES_SIZE_MAX}")]
    PropertiesSize { size: usize },
    #[error("body has {size} bytes, more than a record can name")]
    BodySize { size: usize },
}

/// Checks the limits of the format (the broker's own limits are tighter).
pub fn check(draft: &Draft<'_>) -> Result<(), DraftError> {
    if draft.topic.is_empty() || draft.topic.len() > TOPIC_SIZE_MAX {
        return Err(DraftError::TopicSize {
            size: draft.topic.len(),
        });
    }
    if draft.properties.len() > PROPERTIES_SIZE_MAX {
        return Err(DraftError::PropertiesSize {
            size: draft.properties.len(),
        });
    }
    if draft.body.len() > (i32::MAX as usize) / 2 {
        return Err(DraftError::BodySize { size: draft.body.len() });
    }
    Ok(())
}

/// Appends the record to `out`. The draft has passed [`check`]; `crc` is [`body_crc`] of its body.
pub fn encode(draft: &Draft<'_>, crc: u32, place: &Placement, out: &mut Vec<u8>) {
    let size = encoded_size(draft);
    let start = out.len();
    let version_2 = draft.topic.len() > TOPIC_SIZE_V1_MAX;
    out.reserve(size);
    put_u32(out, size as u32);
    put_u32(out, if version_2 { MAGIC_V2 } else { MAGIC_V1 });
    put_u32(out, crc & CRC_MASK);
    put_i32(out, draft.queue_id);
    put_i32(out, draft.flag);
    put_i64(out, place.queue_offset);
    put_i64(out, place.physical_offset as i64);
    put_i32(out, sys_flag_with_hosts(draft));
    put_i64(out, draft.born_time.0);
    put_host(out, draft.born_host);
    put_i64(out, place.store_time.0);
    put_host(out, draft.store_host);
    put_i32(out, draft.reconsume_times);
    put_i64(out, draft.prepared_transaction_offset);
    put_u32(out, draft.body.len() as u32);
    out.extend_from_slice(draft.body);
    if version_2 {
        out.extend_from_slice(&(draft.topic.len() as u16).to_be_bytes());
    } else {
        out.push(draft.topic.len() as u8);
    }
    out.extend_from_slice(draft.topic.as_bytes());
    out.extend_from_slice(&(draft.properties.len() as u16).to_be_bytes());
    out.extend_from_slice(draft.properties.as_bytes());
    assert_eq!(out.len() - start, size, "encoded size and written size differ");
}

/// Appends the head of a blank record that fills `size` bytes up to the end of a file.
pub fn encode_blank(size: u32, out: &mut Vec<u8>) {
    put_u32(out, size);
    put_u32(out, MAGIC_BLANK);
}

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("{available} bytes cannot hold a record")]
    Short { available: usize },
    #[error("size {size} is impossible here, {available} bytes are left")]
    Size { size: i32, available: usize },
    #[error("magic {0:#010x} is unknown")]
    Magic(u32),
    #[error("parts of the record add up to {computed} bytes, it names {named}")]
    Length { computed: usize, named: usize },
    #[error("topic is not UTF-8")]
    Topic,
    #[error("body has CRC {computed:#010x}, the record names {stored:#010x}")]
    Crc { stored: u32, computed: u32 },
    #[error("record says that it lies at {stored}, it lies at {actual}")]
    Position { stored: u64, actual: u64 },
}

/// A record seen in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// The whole record.
    pub bytes: &'a [u8],
    pub magic: u32,
    pub body_crc: u32,
    pub queue_id: i32,
    pub flag: i32,
    pub queue_offset: i64,
    pub physical_offset: u64,
    pub sys_flag: i32,
    pub born_time: WallMillis,
    pub born_host: SocketAddr,
    pub store_time: WallMillis,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: i64,
    pub body: &'a [u8],
    pub topic: &'a str,
    /// Raw properties: usually UTF-8, but a record of another broker may hold anything.
    pub properties: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Reads the record at the start of `bytes`; more may follow it. Checks framing, not the body's CRC.
    pub fn parse(bytes: &'a [u8]) -> Result<RecordView<'a>, RecordError> {
        let available = bytes.len();
        if available < RECORD_FIXED_SIZE {
            return Err(RecordError::Short { available });
        }
        let named = i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let size = usize::try_from(named).unwrap_or(0);
        let mut cursor = Cursor { bytes, at: 4 };
        let magic = cursor.u32().unwrap_or(0);
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(RecordError::Magic(magic));
        }
        if size < RECORD_FIXED_SIZE || size > available {
            return Err(RecordError::Size { size: named, available });
        }
        let bytes = &bytes[..size];
        let mut cursor = Cursor { bytes, at: 8 };
        let record = read_parts(&mut cursor, magic).ok_or(RecordError::Length {
            computed: cursor.at,
            named: size,
        })?;
        if cursor.at != size {
            return Err(RecordError::Length {
                computed: cursor.at,
                named: size,
            });
        }
        record
    }

    /// [`parse`](RecordView::parse), then the body's CRC.
    pub fn parse_checked(bytes: &'a [u8]) -> Result<RecordView<'a>, RecordError> {
        let record = RecordView::parse(bytes)?;
        record.check_crc()?;
        Ok(record)
    }

    pub fn check_crc(&self) -> Result<(), RecordError> {
        let computed = body_crc(self.body);
        if computed == self.body_crc {
            Ok(())
        } else {
            Err(RecordError::Crc {
                stored: self.body_crc,
                computed,
            })
        }
    }

    pub fn check_position(&self, actual: u64) -> Result<(), RecordError> {
        if self.physical_offset == actual {
            Ok(())
        } else {
            Err(RecordError::Position {
                stored: self.physical_offset,
                actual,
            })
        }
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Value of a property, `None` if it is absent, empty or not UTF-8.
    pub fn property(&self, name: &str) -> Option<&'a str> {
        properties::get(self.properties, name)
    }

    pub fn tags(&self) -> Option<&'a str> {
        self.property(properties::TAGS)
    }

    /// The properties as text; `None` if they are not UTF-8.
    pub fn properties_text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.properties).ok()
    }

    /// The same message without its place, to be stored again.
    pub fn draft(&self) -> Option<Draft<'a>> {
        Some(Draft {
            topic: self.topic,
            queue_id: self.queue_id,
            flag: self.flag,
            sys_flag: self.sys_flag,
            born_time: self.born_time,
            born_host: self.born_host,
            store_host: self.store_host,
            reconsume_times: self.reconsume_times,
            prepared_transaction_offset: self.prepared_transaction_offset,
            body: self.body,
            properties: self.properties_text()?,
        })
    }

    /// The server's message id of this record.
    pub fn offset_message_id(&self) -> String {
        offset_message_id(self.store_host, self.physical_offset)
    }
}

/// Reads everything behind size and magic; `None` if the bytes end too early, the inner error for a topic that is no text.
fn read_parts<'a>(cursor: &mut Cursor<'a>, magic: u32) -> Option<Result<RecordView<'a>, RecordError>> {
    let body_crc = cursor.u32()?;
    let queue_id = cursor.i32()?;
    let flag = cursor.i32()?;
    let queue_offset = cursor.i64()?;
    let physical_offset = cursor.i64()? as u64;
    let sys_flag = cursor.i32()?;
    let born_time = WallMillis(cursor.i64()?);
    let born_host = cursor.host(sys_flag & sys_flag::BORN_HOST_V6 != 0)?;
    let store_time = WallMillis(cursor.i64()?);
    let store_host = cursor.host(sys_flag & sys_flag::STORE_HOST_V6 != 0)?;
    let reconsume_times = cursor.i32()?;
    let prepared_transaction_offset = cursor.i64()?;
    let body_size = usize::try_from(cursor.i32()?).ok()?;
    let body = cursor.take(body_size)?;
    let topic_size = match magic {
        MAGIC_V1 => usize::from(cursor.take(1)?[0]),
        _ => usize::try_from(cursor.i16()?).ok()?,
    };
    let topic = cursor.take(topic_size)?;
    let properties_size = usize::try_from(cursor.i16()?).ok()?;
    let properties = cursor.take(properties_size)?;
    let Ok(topic) = std::str::from_utf8(topic) else {
        return Some(Err(RecordError::Topic));
    };
    Some(Ok(RecordView {
        bytes: cursor.bytes,
        magic,
        body_crc,
        queue_id,
        flag,
        queue_offset,
        physical_offset,
        sys_flag,
        born_time,
        born_host,
        store_time,
        store_host,
        reconsume_times,
        prepared_transaction_offset,
        body,
        topic,
        properties,
    }))
}

/// Store time of the record at the start of `prefix`, of which [`STORE_TIME_PREFIX_SIZE`] bytes are enough.
pub fn store_time(prefix: &[u8]) -> Option<WallMillis> {
    let mut cursor = Cursor { bytes: prefix, at: 4 };
    let magic = cursor.u32()?;
    if magic != MAGIC_V1 && magic != MAGIC_V2 {
        return None;
    }
    cursor.at = 36;
    let flags = cursor.i32()?;
    cursor.at = 48 + if flags & sys_flag::BORN_HOST_V6 != 0 { 20 } else { 8 };
    cursor.i64().map(WallMillis)
}

/// The records of a pull reply (or of a stretch of log) one by one, as slices that share its memory.
pub fn records(body: &Bytes) -> impl Iterator<Item = Result<Bytes, RecordError>> + use<> {
    let mut rest = body.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match RecordView::parse(&rest).map(|record| record.size()) {
            Ok(size) => Some(Ok(rest.split_to(size))),
            Err(error) => {
                rest.clear();
                Some(Err(error))
            }
        }
    })
}

/// One message of a batch send (request 320).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMessage<'a> {
    pub flag: i32,
    pub body: &'a [u8],
    pub properties: &'a str,
}

/// Why a batch body cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("batch message at byte {at} is cut off or names sizes that do not fit")]
    Framing { at: usize },
    #[error("properties of the batch message at byte {at} are not UTF-8")]
    Properties { at: usize },
}

/// The messages of a batch body: each `i32 size, i32 0, i32 0, i32 flag, i32 body size, body, i16 properties size, properties`.
/// Ends after the first error. Source: `common/message/MessageDecoder.java` `decodeMessage`.
pub fn batch(body: &[u8]) -> impl Iterator<Item = Result<BatchMessage<'_>, BatchError>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= body.len() {
            return None;
        }
        let start = at;
        let mut cursor = Cursor { bytes: body, at };
        let message = read_batch_message(&mut cursor);
        at = if message.is_some() { cursor.at } else { body.len() };
        Some(match message {
            None => Err(BatchError::Framing { at: start }),
            Some((flag, body_of_message, raw)) => match std::str::from_utf8(raw) {
                Ok(properties) => Ok(BatchMessage {
                    flag,
                    body: body_of_message,
                    properties,
                }),
                Err(_) => {
                    at = body.len();
                    Err(BatchError::Properties { at: start })
                }
            },
        })
    })
}

fn read_batch_message<'a>(cursor: &mut Cursor<'a>) -> Option<(i32, &'a [u8], &'a [u8])> {
    let start = cursor.at;
    let size = usize::try_from(cursor.i32()?).ok()?;
    cursor.take(8)?;
    let flag = cursor.i32()?;
    let body_size = usize::try_from(cursor.i32()?).ok()?;
    let body = cursor.take(body_size)?;
    let properties_size = usize::try_from(cursor.i16()?).ok()?;
    let properties = cursor.take(properties_size)?;
    (cursor.at - start == size).then_some((flag, body, properties))
}

/// Appends one message to a batch body. Its properties are at most [`PROPERTIES_SIZE_MAX`] bytes long.
pub fn encode_batch_message(message: &BatchMessage<'_>, out: &mut Vec<u8>) {
    assert!(
        message.properties.len() <= PROPERTIES_SIZE_MAX,
        "properties of a batch message are too long"
    );
    let size = 22 + message.body.len() + message.properties.len();
    put_u32(out, size as u32);
    put_u32(out, 0);
    put_u32(out, 0);
    put_i32(out, message.flag);
    put_u32(out, message.body.len() as u32);
    out.extend_from_slice(message.body);
    out.extend_from_slice(&(message.properties.len() as u16).to_be_bytes());
    out.extend_from_slice(message.properties.as_bytes());
}

/// The server's message id: upper-case hex of store host (ip, 4-byte port) and physical offset; 32 characters for IPv4,
/// 56 for IPv6. Source: `common/message/MessageDecoder.java` `createMessageId`.
pub fn offset_message_id(store_host: SocketAddr, physical_offset: u64) -> String {
    let mut digits = [0; OFFSET_ID_SIZE_MAX];
    offset_id_digits(store_host, physical_offset, &mut digits).to_owned()
}

/// Digits of a server's message id with an IPv6 host.
pub(super) const OFFSET_ID_SIZE_MAX: usize = 56;

/// As [`offset_message_id`], into a buffer.
pub(super) fn offset_id_digits(
    store_host: SocketAddr,
    physical_offset: u64,
    digits: &mut [u8; OFFSET_ID_SIZE_MAX],
) -> &str {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut raw = [0; OFFSET_ID_SIZE_MAX / 2];
    let size = match store_host.ip().to_canonical() {
        IpAddr::V4(ip) => put_at(&mut raw, 0, &ip.octets()),
        IpAddr::V6(ip) => put_at(&mut raw, 0, &ip.octets()),
    };
    let size = put_at(&mut raw, size, &u32::from(store_host.port()).to_be_bytes());
    let size = put_at(&mut raw, size, &physical_offset.to_be_bytes());
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(raw) {
        *pair = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
    }
    std::str::from_utf8(&digits[..size * 2]).unwrap_or("")
}

/// Where the bytes end that were put.
fn put_at(target: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    let end = at + bytes.len();
    target[at..end].copy_from_slice(bytes);
    end
}

/// The text is not a message id of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an offset message id: 32 or 56 hexadecimal digits are expected")]
pub struct MessageIdError;

/// Store host and physical offset of a server's message id.
pub fn parse_offset_message_id(text: &str) -> Result<(SocketAddr, u64), MessageIdError> {
    let digits = text.as_bytes();
    if digits.len() != 32 && digits.len() != 56 {
        return Err(MessageIdError);
    }
    let mut raw = Vec::with_capacity(28);
    for pair in digits.chunks_exact(2) {
        let high = char::from(pair[0]).to_digit(16).ok_or(MessageIdError)?;
        let low = char::from(pair[1]).to_digit(16).ok_or(MessageIdError)?;
        raw.push((high * 16 + low) as u8);
    }
    let mut cursor = Cursor { bytes: &raw, at: 0 };
    let host = cursor.host(digits.len() == 56).ok_or(MessageIdError)?;
    let offset = cursor.i64().ok_or(MessageIdError)?;
    let offset = u64::try_from(offset).map_err(|_| MessageIdError)?;
    Ok((host, offset))
}

fn sys_flag_with_hosts(draft: &Draft<'_>) -> i32 {
    let mut flags = draft.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6);
    if host_growth(draft.born_host) > 0 {
        flags |= sys_flag::BORN_HOST_V6;
    }
    if host_growth(draft.store_host) > 0 {
        flags |= sys_flag::STORE_HOST_V6;
    }
    flags
}

/// Bytes that a host takes beyond an IPv4 one. An IPv4 address mapped into IPv6 counts as IPv4: some clients read only those.
fn host_growth(host: SocketAddr) -> usize {
    match host.ip().to_canonical() {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 12,
    }
}

fn put_host(out: &mut Vec<u8>, host: SocketAddr) {
    match host.ip().to_canonical() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    put_u32(out, u32::from(host.port()));
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(size)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// The port takes four bytes; its upper half is ignored, as Java ignores nothing that it wrote itself.
    fn host(&mut self, version_6: bool) -> Option<SocketAddr> {
        let ip = if version_6 {
            IpAddr::V6(Ipv6Addr::from(self.array::<16>()?))
        } else {
            IpAddr::V4(Ipv4Addr::from(self.array::<4>()?))
        };
        let port = self.u32()? as u16;
        Some(SocketAddr::new(ip, port))
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
