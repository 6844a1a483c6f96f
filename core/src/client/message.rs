//! Messages as an application sees them: [`Message`] to send, [`MessageView`] received.
//!
//! A received message is a set of slices of the pull reply it came in: cheap to clone, and holding one holds that reply
//! (at most 256 KiB from the official broker). The wire layouts are in `protocol::message`.

use std::io::Read;

use bytes::Bytes;

use crate::protocol::message::{RecordError, RecordView, offset_message_id, sys_flag};
use crate::protocol::{Text, properties};
use crate::runtime::WallMillis;
use crate::types::address::SocketAddr;

/// Topic of messages that a group asks to see again, before the group's name.
pub const RETRY_TOPIC_PREFIX: &str = "%RETRY%";
/// Topic of messages that a group has given up, before the group's name.
pub const DEAD_LETTER_TOPIC_PREFIX: &str = "%DLQ%";

/// A compressed body that inflates to more is handed over compressed. Bytes; bounds what a hostile message can make us allocate.
pub const INFLATED_SIZE_MAX: usize = 64 << 20;

/// The retry topic of a group.
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_TOPIC_PREFIX}{group}")
}

/// The dead-letter topic of a group.
pub fn dead_letter_topic(group: &str) -> String {
    format!("{DEAD_LETTER_TOPIC_PREFIX}{group}")
}

/// A message to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub body: Bytes,
    /// The application's own number; brokers pass it through.
    pub flag: i32,
    /// Names and values as set; checked when the message is sent.
    pub properties: Vec<(String, String)>,
}

impl Message {
    pub fn new(topic: impl Into<String>, body: impl Into<Bytes>) -> Message {
        Message {
            topic: topic.into(),
            body: body.into(),
            flag: 0,
            properties: Vec::new(),
        }
    }

    pub fn with_tag(self, tag: impl Into<String>) -> Message {
        self.with_property(properties::TAGS, tag)
    }

    /// Keys for look-ups, separated by blanks.
    pub fn with_keys(self, keys: impl Into<String>) -> Message {
        self.with_property(properties::KEYS, keys)
    }

    /// Delivery after the broker's delay of that level, 1 (1 s) to 18 (2 h).
    pub fn with_delay_level(self, level: u8) -> Message {
        self.with_property(properties::DELAY, level.to_string())
    }

    /// The last value of a name counts.
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Message {
        self.properties.push((name.into(), value.into()));
        self
    }

    pub fn property(&self, name: &str) -> Option<&str> {
        let found = self.properties.iter().rev().find(|pair| pair.0 == name)?;
        Some(&found.1)
    }
}

/// Why a message cannot be sent as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("topic `{0}` is empty, too long or holds characters outside of [%a-zA-Z0-9_|-]")]
    Topic(String),
    #[error("property `{name}` has an empty part or holds a separator (0x01, 0x02)")]
    Property { name: String },
    #[error("properties of {size_bytes} bytes exceed {max}", max = crate::protocol::message::PROPERTIES_SIZE_MAX)]
    PropertiesSize { size_bytes: usize },
    #[error("body is empty")]
    EmptyBody,
    #[error("body of {size_bytes} bytes exceeds {max}")]
    BodySize { size_bytes: usize, max: usize },
    #[error("a batch needs messages of one topic, without delay, not for a retry topic")]
    Batch,
}

/// A message received.
#[derive(Clone, Debug)]
pub struct MessageView {
    /// The topic it was sent to; for a message that comes again, not the retry topic it was parked in.
    pub topic: Text,
    /// Queue and offset where it lies now.
    pub queue_id: i32,
    pub queue_offset: i64,
    /// Position in the broker's log; with `store_host` it names the stored message.
    pub physical_offset: u64,
    pub body: Bytes,
    /// The properties string, see [`properties`].
    pub properties: Text,
    pub flag: i32,
    pub sys_flag: i32,
    pub born_time: WallMillis,
    pub born_host: SocketAddr,
    pub store_time: WallMillis,
    pub store_host: SocketAddr,
    /// Earlier deliveries to this group that did not succeed.
    pub reconsume_times: i32,
    /// Size of the stored record in bytes.
    pub stored_size: u32,
}

impl MessageView {
    /// Reads one record, without a copy except for a compressed body. The body's CRC is checked.
    pub fn parse(record: &Bytes) -> Result<MessageView, RecordError> {
        let view = RecordView::parse_checked(record)?;
        let text = |bytes: &[u8]| {
            Text::try_from(record.slice_ref(bytes))
                .unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned().into())
        };
        let properties = text(view.properties);
        let topic = match properties::get(&*properties, properties::RETRY_TOPIC) {
            Some(origin) if view.topic.starts_with(RETRY_TOPIC_PREFIX) => properties.slice_ref(origin),
            _ => text(view.topic.as_bytes()),
        };
        let stored_body = record.slice_ref(view.body);
        let (body, sys_flag) = match inflate(&stored_body, view.sys_flag) {
            Some(inflated) => (inflated, view.sys_flag & !sys_flag::COMPRESSED),
            None => (stored_body, view.sys_flag),
        };
        Ok(MessageView {
            topic,
            queue_id: view.queue_id,
            queue_offset: view.queue_offset,
            physical_offset: view.physical_offset,
            body,
            properties,
            flag: view.flag,
            sys_flag,
            born_time: view.born_time,
            born_host: view.born_host,
            store_time: view.store_time,
            store_host: view.store_host,
            reconsume_times: view.reconsume_times,
            stored_size: u32::try_from(view.size()).unwrap_or(u32::MAX),
        })
    }

    pub fn property(&self, name: &str) -> Option<&str> {
        properties::get(&*self.properties, name)
    }

    pub fn tag(&self) -> Option<&str> {
        self.property(properties::TAGS)
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        properties::keys(&*self.properties)
    }

    /// The id that its producer gave it, else the one of its place.
    pub fn message_id(&self) -> String {
        self.property(properties::UNIQUE_KEY)
            .map_or_else(|| self.offset_message_id(), str::to_owned)
    }

    /// The id of its place: broker address and position in the log.
    pub fn offset_message_id(&self) -> String {
        offset_message_id(self.store_host, self.physical_offset)
    }

    /// True if the body could not be inflated: an algorithm other than zlib, damage, or more than [`INFLATED_SIZE_MAX`].
    pub fn is_compressed(&self) -> bool {
        self.sys_flag & sys_flag::COMPRESSED != 0
    }
}

/// The inflated body, if it is compressed with zlib and inflates within the limit.
fn inflate(body: &Bytes, flags: i32) -> Option<Bytes> {
    let is_zlib = matches!(flags & sys_flag::COMPRESSION_MASK, 0 | sys_flag::COMPRESSION_ZLIB);
    if flags & sys_flag::COMPRESSED == 0 || !is_zlib {
        return None;
    }
    let mut inflated = Vec::new();
    let mut reader = flate2::read::ZlibDecoder::new(&body[..]).take(INFLATED_SIZE_MAX as u64 + 1);
    reader.read_to_end(&mut inflated).ok()?;
    (inflated.len() <= INFLATED_SIZE_MAX).then(|| inflated.into())
}

/// zlib at Java's default level 5.
pub(super) fn deflate(body: &[u8]) -> Vec<u8> {
    let mut reader = flate2::read::ZlibEncoder::new(body, flate2::Compression::new(5));
    let mut deflated = Vec::with_capacity(body.len() / 2);
    reader.read_to_end(&mut deflated).expect("memory is readable");
    deflated
}

/// Whether a topic or group name can exist (Validators.java, TopicValidator.java).
pub(super) fn is_name(name: &str) -> bool {
    let is_internal = name.starts_with(RETRY_TOPIC_PREFIX) || name.starts_with(DEAD_LETTER_TOPIC_PREFIX);
    let size_max = if is_internal { 255 } else { 127 };
    !name.is_empty()
        && name.len() <= size_max
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'_' | b'|' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::{Draft, Placement, body_crc, encode};
    use proptest::prelude::*;

    fn record(topic: &str, body: &[u8], sys_flag: i32, properties: &str) -> Bytes {
        let host = "127.0.0.1:10911".parse().unwrap();
        let draft = Draft {
            topic,
            queue_id: 3,
            flag: 7,
            sys_flag,
            born_time: WallMillis(1),
            born_host: host,
            store_host: host,
            reconsume_times: 2,
            prepared_transaction_offset: 0,
            body,
            properties,
        };
        let place = Placement {
            queue_offset: 42,
            physical_offset: 4711,
            store_time: WallMillis(2),
        };
        let mut out = Vec::new();
        encode(&draft, body_crc(body), &place, &mut out);
        out.into()
    }

    #[test]
    fn a_record_becomes_a_message() {
        let properties = properties::from_pairs([("TAGS", "a"), ("KEYS", "k1 k2"), ("UNIQ_KEY", "id")]);
        let message = MessageView::parse(&record("T", b"body", 0, &properties)).unwrap();
        assert_eq!(
            (&*message.topic, &message.body[..], message.queue_offset),
            ("T", &b"body"[..], 42)
        );
        assert_eq!((message.tag(), message.reconsume_times), (Some("a"), 2));
        assert_eq!(message.keys().collect::<Vec<_>>(), ["k1", "k2"]);
        assert_eq!(message.message_id(), "id");
    }

    #[test]
    fn a_retried_message_shows_the_topic_it_was_sent_to() {
        let properties = properties::from_pairs([("RETRY_TOPIC", "T")]);
        let message = MessageView::parse(&record("%RETRY%g", b"x", 0, &properties)).unwrap();
        assert_eq!(&*message.topic, "T");
        let message = MessageView::parse(&record("Other", b"x", 0, &properties)).unwrap();
        assert_eq!(&*message.topic, "Other");
    }

    #[test]
    fn a_compressed_body_is_inflated_and_says_so() {
        let body = vec![b'x'; 10_000];
        for flags in [sys_flag::COMPRESSED, sys_flag::COMPRESSED | sys_flag::COMPRESSION_ZLIB] {
            let message = MessageView::parse(&record("T", &deflate(&body), flags, "")).unwrap();
            assert_eq!(message.body, body);
            assert!(!message.is_compressed());
        }
    }

    #[test]
    fn an_unknown_or_damaged_compression_is_handed_over_as_it_is() {
        let flags = sys_flag::COMPRESSED | sys_flag::COMPRESSION_ZSTD;
        let message = MessageView::parse(&record("T", b"zstd", flags, "")).unwrap();
        assert!(message.is_compressed());
        let message = MessageView::parse(&record("T", b"garbage", sys_flag::COMPRESSED, "")).unwrap();
        assert_eq!(&message.body[..], b"garbage");
        assert!(message.is_compressed());
    }

    #[test]
    fn a_flipped_bit_in_the_body_is_noticed() {
        let mut bytes = record("T", b"body", 0, "").to_vec();
        let at = bytes.windows(4).position(|window| window == b"body").unwrap();
        bytes[at] ^= 1;
        assert!(matches!(
            MessageView::parse(&bytes.into()),
            Err(RecordError::Crc { .. })
        ));
    }

    #[test]
    fn names_follow_the_topic_validator() {
        assert!(is_name("A-b_c|d%9"));
        assert!(!is_name(""));
        assert!(!is_name("a b"));
        assert!(!is_name(&"x".repeat(128)));
        assert!(is_name(&format!("%RETRY%{}", "x".repeat(200))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes: Vec<u8>) {
            let _ = MessageView::parse(&bytes.into());
        }
    }
}
