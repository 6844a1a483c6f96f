//! Send requests made once and patched per message: opaque, born time and unique key have a fixed place and width.
//!
//! What goes out is what a Java producer sends: SEND_MESSAGE_V2 with UNIQ_KEY and WAIT among the properties.

use anyhow::Context;
use bytes::Bytes;
use orrery_core::protocol::Command;
use orrery_core::protocol::code::request;
use orrery_core::protocol::frame::{self, Limits, Outgoing};
use orrery_core::protocol::message::{self, BatchMessage};

use super::target::{DEFAULT_QUEUE_COUNT, DEFAULT_TOPIC};

/// Opaques start here, so that each has ten digits.
pub(super) const OPAQUE_BASE: i32 = 1_000_000_000;
/// A born time stands here in the template: thirteen digits, as until the year 2286.
const BORN: &str = "2999999999999";
/// A unique key stands here in the template.
const KEY: &str = "UNIQKEYUNIQKEYUNIQKEYUNIQKEY1234";

/// What all messages of a run have in common.
pub(super) struct Message<'a> {
    pub(super) topic: &'a str,
    pub(super) broker_name: &'a str,
    pub(super) body: &'a [u8],
    /// Properties beside UNIQ_KEY and WAIT.
    pub(super) properties: &'a [(&'a str, &'a str)],
}

pub(super) struct Template {
    frame: Vec<u8>,
    body_size: usize,
    opaque_at: usize,
    born_at: usize,
    key_places: Vec<usize>,
}

impl Template {
    /// A send of one message.
    pub(super) fn new(message: &Message<'_>, queue_id: u16) -> anyhow::Result<Template> {
        let properties = properties(message, true);
        let command = send(request::SEND_MESSAGE_V2, message, queue_id, &properties, "false");
        Template::of(command.with_body(Bytes::copy_from_slice(message.body)), 1)
    }

    /// A send of `count` messages at once, as a Java producer's `send(Collection)`.
    pub(super) fn batch(message: &Message<'_>, queue_id: u16, count: u16) -> anyhow::Result<Template> {
        let inner = properties(message, true);
        let mut body = Vec::new();
        for _ in 0..count {
            let one = BatchMessage {
                flag: 0,
                body: message.body,
                properties: &inner,
            };
            message::encode_batch_message(&one, &mut body);
        }
        let outer = properties(message, false);
        let command = send(request::SEND_BATCH_MESSAGE, message, queue_id, &outer, "true");
        let mut template = Template::of(command.with_body(Bytes::from(body)), count)?;
        template.body_size = message.body.len() * usize::from(count);
        Ok(template)
    }

    fn of(mut command: Command, count: u16) -> anyhow::Result<Template> {
        command.opaque = OPAQUE_BASE;
        let body_size = command.body.len();
        let mut out = Outgoing::new(Limits::default());
        frame::encode(&command, Vec::new(), &mut out)?;
        let frame = out.take().iter().flatten().copied().collect::<Vec<u8>>();
        let header = &frame[..frame.len() - body_size];
        let place = |text: &str| {
            let found = header.windows(text.len()).position(|window| window == text.as_bytes());
            found.with_context(|| format!("{text} stands in the header"))
        };
        // The key of a single message stands in the header, those of a batch in its body.
        let keys_from = if count == 1 { 0 } else { header.len() };
        let mut key_places = Vec::new();
        let mut at = keys_from;
        while key_places.len() < usize::from(count) {
            let found = frame[at..]
                .windows(KEY.len())
                .position(|window| window == KEY.as_bytes());
            at += found.context("the unique keys stand in the frame")?;
            key_places.push(at);
            at += KEY.len();
        }
        Ok(Template {
            opaque_at: place(&OPAQUE_BASE.to_string())?,
            born_at: place(BORN)?,
            key_places,
            body_size,
            frame,
        })
    }

    pub(super) fn message_count(&self) -> u64 {
        self.key_places.len() as u64
    }

    pub(super) fn body_size(&self) -> usize {
        self.body_size
    }

    /// Appends one request to `out`; its messages' keys count up from `key`.
    pub(super) fn append(&self, opaque: i32, born_millis: i64, key: u128, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let frame = &mut out[start..];
        decimal(opaque.unsigned_abs().into(), &mut frame[self.opaque_at..][..10]);
        decimal(born_millis.unsigned_abs(), &mut frame[self.born_at..][..13]);
        for (index, at) in self.key_places.iter().enumerate() {
            hexadecimal(key + index as u128, &mut frame[*at..][..KEY.len()]);
        }
    }
}

fn properties(message: &Message<'_>, with_key: bool) -> String {
    let key = if with_key {
        format!("UNIQ_KEY\u{1}{KEY}\u{2}")
    } else {
        String::new()
    };
    let mut properties = format!("{key}WAIT\u{1}true\u{2}");
    for (name, value) in message.properties {
        properties.push_str(&format!("{name}\u{1}{value}\u{2}"));
    }
    properties
}

fn send(code: i32, message: &Message<'_>, queue_id: u16, properties: &str, is_batch: &str) -> Command {
    let command = Command::request(code)
        .with("a", "benchmark_producer")
        .with("b", message.topic)
        .with("c", DEFAULT_TOPIC)
        .with("d", &DEFAULT_QUEUE_COUNT.to_string())
        .with("e", &queue_id.to_string())
        .with("f", "0")
        .with("g", BORN)
        .with("h", "0")
        .with("i", properties)
        .with("j", "0")
        .with("k", "false")
        .with("m", is_batch);
    if message.broker_name.is_empty() {
        command
    } else {
        command.with("n", message.broker_name)
    }
}

pub(super) fn decimal(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn hexadecimal(mut number: u128, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789ABCDEF"[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    #[test]
    fn a_patched_frame_decodes_to_what_was_asked_for() {
        let message = Message {
            topic: "T",
            broker_name: "broker-a",
            body: b"1000000000 and 1000000000000",
            properties: &[("TAGS", "tag1")],
        };
        let template = Template::new(&message, 3).unwrap();
        let mut bytes = Vec::new();
        template.append(1_000_000_063, 1_795_565_286_007, 0xAB, &mut bytes);
        let mut buffer = BytesMut::from(&bytes[..]);
        let command = frame::decode(&mut buffer, &Limits::default()).unwrap().unwrap();
        assert!(buffer.is_empty());
        assert_eq!((command.code, command.opaque), (310, 1_000_000_063));
        assert_eq!(command.ext.get("e"), Some("3"));
        assert_eq!(command.ext.get("g"), Some("1795565286007"));
        let key = format!("{:032X}", 0xAB);
        let properties = format!("UNIQ_KEY\u{1}{key}\u{2}WAIT\u{1}true\u{2}TAGS\u{1}tag1\u{2}");
        assert_eq!(command.ext.get("i"), Some(properties.as_str()));
        assert_eq!(&command.body[..], message.body);
    }
    #[test]
    fn a_batch_holds_its_messages_with_a_key_each() {
        let message = Message {
            topic: "T",
            broker_name: "",
            body: b"body",
            properties: &[],
        };
        let template = Template::batch(&message, 1, 3).unwrap();
        assert_eq!((template.message_count(), template.body_size()), (3, 12));
        let mut bytes = Vec::new();
        template.append(1_000_000_000, 1_795_565_286_007, 0xFF, &mut bytes);
        let command = frame::decode(&mut BytesMut::from(&bytes[..]), &Limits::default())
            .unwrap()
            .unwrap();
        assert_eq!((command.code, command.ext.get("m")), (320, Some("true")));
        let keys: Vec<String> = message::batch(&command.body)
            .map(|message| {
                let message = message.unwrap();
                assert_eq!(message.body, b"body");
                message.properties[9..41].to_owned()
            })
            .collect();
        let expected: Vec<String> = (0xFF..0x102).map(|key| format!("{key:032X}")).collect();
        assert_eq!(keys, expected);
    }
}
