//! Send requests made once and patched per message: opaque, born time and unique key have a fixed place and width.
//!
//! What goes out is what a Java producer sends: SEND_MESSAGE_V2 with UNIQ_KEY and WAIT among the properties.

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use orrery_core::protocol::Command;
use orrery_core::protocol::code::request;
use orrery_core::protocol::frame::{self, Limits, Outgoing};

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
    key_at: usize,
}

impl Template {
    pub(super) fn new(message: &Message<'_>, queue_id: u16) -> anyhow::Result<Template> {
        let mut properties = format!("UNIQ_KEY\u{1}{KEY}\u{2}WAIT\u{1}true\u{2}");
        for (name, value) in message.properties {
            properties.push_str(&format!("{name}\u{1}{value}\u{2}"));
        }
        let mut command = Command::request(request::SEND_MESSAGE_V2)
            .with("a", "benchmark_producer")
            .with("b", message.topic)
            .with("c", DEFAULT_TOPIC)
            .with("d", &DEFAULT_QUEUE_COUNT.to_string())
            .with("e", &queue_id.to_string())
            .with("f", "0")
            .with("g", BORN)
            .with("h", "0")
            .with("i", &properties)
            .with("j", "0")
            .with("k", "false")
            .with("m", "false")
            .with_body(Bytes::copy_from_slice(message.body));
        if !message.broker_name.is_empty() {
            command = command.with("n", message.broker_name);
        }
        command.opaque = OPAQUE_BASE;
        let mut out = Outgoing::new(Limits::default());
        frame::encode(&command, Vec::new(), &mut out)?;
        let frame = out.take().iter().flatten().copied().collect::<Vec<u8>>();
        let header = &frame[..frame.len() - message.body.len()];
        let place = |text: &str| {
            let found = header.windows(text.len()).position(|window| window == text.as_bytes());
            found.with_context(|| format!("{text} stands in the header"))
        };
        Ok(Template {
            opaque_at: place(&OPAQUE_BASE.to_string())?,
            born_at: place(BORN)?,
            key_at: place(KEY)?,
            body_size: message.body.len(),
            frame,
        })
    }

    pub(super) fn body_size(&self) -> usize {
        self.body_size
    }

    /// Appends one request to `out`.
    pub(super) fn append(&self, opaque: i32, born_millis: i64, key: u128, out: &mut BytesMut) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let frame = &mut out[start..];
        decimal(opaque.unsigned_abs().into(), &mut frame[self.opaque_at..][..10]);
        decimal(born_millis.unsigned_abs(), &mut frame[self.born_at..][..13]);
        hexadecimal(key, &mut frame[self.key_at..][..KEY.len()]);
    }
}

fn decimal(mut number: u64, digits: &mut [u8]) {
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

    #[test]
    fn a_patched_frame_decodes_to_what_was_asked_for() {
        let message = Message {
            topic: "T",
            broker_name: "broker-a",
            body: b"1000000000 and 1000000000000",
            properties: &[("TAGS", "tag1")],
        };
        let template = Template::new(&message, 3).unwrap();
        let mut buffer = BytesMut::new();
        template.append(1_000_000_063, 1_795_565_286_007, 0xAB, &mut buffer);
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
}
