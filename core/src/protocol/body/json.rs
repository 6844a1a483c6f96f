//! The JSON dialect of bodies: what fastjson reads and writes with default features.
//!
//! Two things are not JSON: integer keys without quotes (`{0:"10.0.0.1:10911"}`) and objects as keys
//! (`{{"brokerName":"b","queueId":0,"topic":"T"}:5}`). Reading tries standard JSON first; if that does not fit, one pass
//! quotes such keys and drops members that are null, and reads again. Writing puts [`QueueMap`] keys as bare objects, which
//! every fastjson reads (quoted ones are refused since fastjson2), integer keys in quotes, no white space.
//!
//! Limits: nesting of 128; the rewritten text is at most three times as long as the body, which the frame limits.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

use crate::types::MessageQueue;

/// Bytes that are not the body a request needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("body: {0}")]
    Json(String),
    #[error("body has unbalanced or too deep nesting at byte {0}")]
    Nesting(usize),
    #[error("compressed body: {0}")]
    Compressed(&'static str),
    #[error("body grows beyond {size_max} bytes when inflated")]
    TooLong { size_max: usize },
}

/// Reads a body.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        Err(_) => {
            let standard = standardise(body)?;
            serde_json::from_slice(&standard).map_err(|error| BodyError::Json(error.to_string()))
        }
    }
}

/// Writes a body.
pub fn write<T: Serialize>(value: &T) -> Bytes {
    let mut out = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Dialect::default());
    value
        .serialize(&mut serializer)
        .expect("bodies hold no maps with other keys than texts, integers and queues, and memory takes every byte");
    Bytes::from(out)
}

/// A map from queues, whose keys travel as bare objects.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueMap<V>(pub BTreeMap<MessageQueue, V>);

impl<V> Default for QueueMap<V> {
    fn default() -> Self {
        QueueMap(BTreeMap::new())
    }
}

impl<V> FromIterator<(MessageQueue, V)> for QueueMap<V> {
    fn from_iter<I: IntoIterator<Item = (MessageQueue, V)>>(entries: I) -> Self {
        QueueMap(entries.into_iter().collect())
    }
}

/// Begins a key that is written bare. A control character, so that no name of a topic, group or property begins with it.
const BARE: char = '\u{1}';

impl<V: Serialize> Serialize for QueueMap<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (queue, value) in &self.0 {
            let key = serde_json::to_string(queue).map_err(serde::ser::Error::custom)?;
            map.serialize_entry(&format!("{BARE}{key}"), value)?;
        }
        map.end()
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for QueueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = QueueMap<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map whose keys are queues")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<QueueMap<V>, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    let queue = serde_json::from_str(&key).map_err(serde::de::Error::custom)?;
                    entries.insert(queue, map.next_value()?);
                }
                Ok(QueueMap(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// A member that is written as an empty map and not read: static topics, which are not supported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmptyMap;

impl Serialize for EmptyMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_map(Some(0))?.end()
    }
}

impl<'de> Deserialize<'de> for EmptyMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| EmptyMap)
    }
}

/// Writes keys that begin with [`BARE`] without quotes and escapes.
#[derive(Default)]
struct Dialect {
    key: KeyState,
}

#[derive(Default, PartialEq)]
enum KeyState {
    #[default]
    Outside,
    /// In a key whose first character is still to come; its quote is not written yet.
    Begun,
    Quoted,
    Bare,
}

impl Dialect {
    fn quote_if_begun<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.key == KeyState::Begun {
            self.key = KeyState::Quoted;
            writer.write_all(b"\"")?;
        }
        Ok(())
    }
}

impl Formatter for Dialect {
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        CompactFormatter.begin_object_key(writer, first)?;
        self.key = KeyState::Begun;
        Ok(())
    }

    fn end_object_key<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.key = KeyState::Outside;
        Ok(())
    }

    fn begin_string<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.key == KeyState::Outside {
            writer.write_all(b"\"")?;
        }
        Ok(())
    }

    fn end_string<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.quote_if_begun(writer)?;
        if self.key != KeyState::Bare {
            writer.write_all(b"\"")?;
        }
        Ok(())
    }

    // Integers as keys come between `begin_string` and `end_string` too; ours have 32 or 64 bits.
    fn write_i32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i32) -> io::Result<()> {
        self.quote_if_begun(writer)?;
        CompactFormatter.write_i32(writer, value)
    }

    fn write_i64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i64) -> io::Result<()> {
        self.quote_if_begun(writer)?;
        CompactFormatter.write_i64(writer, value)
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if !fragment.is_empty() {
            self.quote_if_begun(writer)?;
        }
        writer.write_all(fragment.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        if self.key == KeyState::Begun && matches!(escape, CharEscape::AsciiControl(1)) {
            self.key = KeyState::Bare;
            return Ok(());
        }
        self.quote_if_begun(writer)?;
        if self.key != KeyState::Bare {
            return CompactFormatter.write_char_escape(writer, escape);
        }
        // The key is JSON itself, so that it holds no control characters.
        match escape {
            CharEscape::Quote => writer.write_all(b"\""),
            CharEscape::ReverseSolidus => writer.write_all(b"\\"),
            other => CompactFormatter.write_char_escape(writer, other),
        }
    }
}

const DEPTH_MAX: usize = 128;

/// What is open at a place in the text.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Array,
    /// An object; `member` is where its current member begins in the output.
    Object {
        member: usize,
        expects_key: bool,
    },
}

/// Rewrites a body as standard JSON: keys quoted, null members dropped. Other errors are left for the JSON reader.
fn standardise(body: &[u8]) -> Result<Vec<u8>, BodyError> {
    let mut out = Vec::with_capacity(body.len() + body.len() / 8);
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = body.get(at) {
        let expects_key = matches!(open.last(), Some(Open::Object { expects_key: true, .. }));
        match byte {
            b'"' => {
                let end = end_of_string(body, at);
                out.extend_from_slice(&body[at..end]);
                at = end;
                continue;
            }
            b'{' if expects_key => {
                let end = end_of_object(body, at)?;
                put_quoted(&body[at..end], &mut out);
                at = end;
                continue;
            }
            b'-' | b'0'..=b'9' if expects_key => {
                let end = at
                    + body[at..]
                        .iter()
                        .take_while(|byte| matches!(byte, b'-' | b'0'..=b'9'))
                        .count();
                put_quoted(&body[at..end], &mut out);
                at = end;
                continue;
            }
            b'{' | b'[' => {
                if open.len() == DEPTH_MAX {
                    return Err(BodyError::Nesting(at));
                }
                out.push(byte);
                let member = out.len();
                let object = Open::Object {
                    member,
                    expects_key: true,
                };
                open.push(if byte == b'{' { object } else { Open::Array });
            }
            b'}' | b']' => {
                if open.pop().is_none() {
                    return Err(BodyError::Nesting(at));
                }
                // A null member dropped before may have left its comma.
                if byte == b'}' && out.last() == Some(&b',') {
                    out.pop();
                }
                out.push(byte);
            }
            b':' => {
                if let Some(Open::Object { expects_key, .. }) = open.last_mut() {
                    *expects_key = false;
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                if let Some(Open::Object { member, expects_key }) = open.last_mut() {
                    // Nothing since the last comma or brace: a null member was dropped.
                    if *member + 1 == out.len() {
                        out.pop();
                    }
                    *member = out.len();
                    *expects_key = true;
                }
            }
            b'n' if body[at..].starts_with(b"null") => {
                match open.last() {
                    Some(Open::Object {
                        member,
                        expects_key: false,
                    }) => out.truncate(*member),
                    _ => out.extend_from_slice(b"null"),
                }
                at += 4;
                continue;
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            other => out.push(other),
        }
        at += 1;
    }
    Ok(out)
}

/// Index after the string that begins at `start`.
fn end_of_string(body: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = body.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    body.len()
}

/// Index after the object that begins at `start`.
fn end_of_object(body: &[u8], start: usize) -> Result<usize, BodyError> {
    let mut depth = 0;
    let mut at = start;
    while let Some(byte) = body.get(at) {
        match byte {
            b'"' => {
                at = end_of_string(body, at);
                continue;
            }
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Ok(at);
        }
    }
    Err(BodyError::Nesting(start))
}

fn put_quoted(key: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in key {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            // White space between the tokens of an object; inside its strings it would be escaped.
            b'\t' | b'\r' | b'\n' => {}
            other => out.push(*other),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(topic: &str, queue_id: i32) -> MessageQueue {
        MessageQueue {
            topic: topic.into(),
            broker_name: "b".into(),
            queue_id,
        }
    }

    fn standard(body: &str) -> String {
        String::from_utf8(standardise(body.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn bare_keys_are_quoted_and_null_members_dropped() {
        assert_eq!(standard(r#"{0:"a",-1:{2:[3]}}"#), r#"{"0":"a","-1":{"2":[3]}}"#);
        assert_eq!(
            standard(r#"{{"t":"x\"}"}:1, {"t":{}}:2}"#),
            r#"{"{\"t\":\"x\\\"}\"}":1,"{\"t\":{}}":2}"#
        );
        assert_eq!(standard(r#"{"a":null,"b":1,"c":null}"#), r#"{"b":1}"#);
        assert_eq!(standard(r#"{"a":null}"#), "{}");
        assert_eq!(
            standard(r#"{"a":1,"b":null,"c":null,"d":[null,{"e":null,"f":2}]}"#),
            r#"{"a":1,"d":[null,{"f":2}]}"#
        );
    }

    #[test]
    fn queue_keys_are_written_bare_and_read_back() {
        let map: QueueMap<i64> = [(queue("T", 0), 7), (queue("a \"quoted\\ ü", 1), 8)]
            .into_iter()
            .collect();
        let body = write(&map);
        let expected = concat!(
            r#"{{"brokerName":"b","queueId":0,"topic":"T"}:7,"#,
            r#"{"brokerName":"b","queueId":1,"topic":"a \"quoted\\ ü"}:8}"#
        );
        assert_eq!(body, expected);
        assert_eq!(read::<QueueMap<i64>>(&body).unwrap(), map);
    }

    #[test]
    fn other_keys_are_quoted_and_escaped() {
        let map: BTreeMap<&str, i32> = [("", 1), ("a\"b", 2), ("{", 3), ("x\u{1}", 4)].into_iter().collect();
        assert_eq!(write(&map), r#"{"":1,"a\"b":2,"x\u0001":4,"{":3}"#);
        let map: BTreeMap<i64, &str> = [(-3, "a"), (0, "b")].into_iter().collect();
        assert_eq!(write(&map), r#"{"-3":"a","0":"b"}"#);
    }

    #[test]
    fn hostile_nesting_is_an_error() {
        let deep = "{\"a\":".repeat(100_000);
        assert!(read::<QueueMap<i64>>(deep.as_bytes()).is_err());
        let keys = "{".repeat(100_000);
        assert!(read::<QueueMap<i64>>(keys.as_bytes()).is_err());
        assert!(read::<QueueMap<i64>>(b"}").is_err());
        assert!(read::<QueueMap<i64>>(b"").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics_nor_grows(text in "[\\[\\]{}:,\"\\\\0-9nul a-]{0,60}") {
            if let Ok(standard) = standardise(text.as_bytes()) {
                prop_assert!(standard.len() <= 3 * text.len() + 2);
            }
            let _ = read::<QueueMap<i64>>(text.as_bytes());
        }

        #[test]
        fn standard_json_without_nulls_keeps_its_meaning(text in "\\{\"a\":(1|\"[a-z\\\\\\\\]{0,4}\"|\\[(true|2\\.5),\\{\\}\\])(,\"b\": ?\\{\"0\":-1\\})?\\}") {
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&standard(&text)).unwrap(), value);
            }
        }
    }
}
