//! The properties of a message: a string of `name 0x01 value 0x02` pairs, and the names that RocketMQ gives a meaning.
//!
//! Not a map: on the hot path one looks for one or two names in a short string, and the bytes must stay as they came.
//! Rules copied from `common/message/MessageDecoder.java` `string2messageProperties`: a pair with an empty name or value
//! is ignored, the last of equal names wins, the final 0x02 may be missing.

use super::scan;

pub const KEYS: &str = "KEYS";
pub const TAGS: &str = "TAGS";
pub const WAIT: &str = "WAIT";
pub const DELAY: &str = "DELAY";
pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
pub const REAL_TOPIC: &str = "REAL_TOPIC";
pub const REAL_QUEUE_ID: &str = "REAL_QID";
pub const TRANSACTION_PREPARED: &str = "TRAN_MSG";
pub const PRODUCER_GROUP: &str = "PGROUP";
pub const UNIQUE_KEY: &str = "UNIQ_KEY";
pub const EXTEND_UNIQUE_INFO: &str = "EXTEND_UNIQ_INFO";
pub const MAX_RECONSUME_TIMES: &str = "MAX_RECONSUME_TIMES";
pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
pub const MIN_OFFSET: &str = "MIN_OFFSET";
pub const MAX_OFFSET: &str = "MAX_OFFSET";
pub const CONSUME_START_TIME: &str = "CONSUME_START_TIME";
pub const MESSAGE_REGION: &str = "MSG_REGION";
pub const TRACE_ON: &str = "TRACE_ON";
pub const CLUSTER: &str = "CLUSTER";
pub const INSTANCE_ID: &str = "INSTANCE_ID";
pub const POP_CHECK: &str = "POP_CK";
pub const SHARDING_KEY: &str = "__SHARDINGKEY";
pub const INNER_NUM: &str = "INNER_NUM";
pub const INNER_BASE: &str = "INNER_BASE";
pub const INNER_MULTI_DISPATCH: &str = "INNER_MULTI_DISPATCH";
pub const INNER_MULTI_QUEUE_OFFSET: &str = "INNER_MULTI_QUEUE_OFFSET";
pub const TRANSACTION_ID: &str = "__transactionId__";
pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
pub const CORRELATION_ID: &str = "CORRELATION_ID";
pub const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";
pub const TIME_TO_LIVE: &str = "TTL";
pub const MESSAGE_TYPE: &str = "MSG_TYPE";
pub const DLQ_ORIGIN_TOPIC: &str = "DLQ_ORIGIN_TOPIC";
pub const DLQ_ORIGIN_MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
pub const CRC32: &str = "__CRC32#";

/// Between the keys of the `KEYS` property.
pub const KEY_SEPARATOR: char = ' ';

const NAME_END: u8 = 0x01;
const PAIR_END: u8 = 0x02;

/// The pairs in the order in which they stand, without those that are empty, incomplete or not UTF-8.
pub fn iterate<T: AsRef<[u8]> + ?Sized>(text: &T) -> impl Iterator<Item = (&str, &str)> {
    pairs(text.as_ref()).filter_map(split_pair)
}

/// Value of the last pair with this name.
pub fn get<'a, T: AsRef<[u8]> + ?Sized>(text: &'a T, name: &str) -> Option<&'a str> {
    let wanted = name.as_bytes();
    let mut found = None;
    for pair in pairs(text.as_ref()) {
        if pair.len() > wanted.len() + 1 && pair[wanted.len()] == NAME_END && pair.starts_with(wanted) {
            found = Some(&pair[wanted.len() + 1..]);
        }
    }
    found.and_then(|value| std::str::from_utf8(value).ok())
}

/// Appends a pair. An empty name or value, or one with a separator in it, could not be read back and is left out.
pub fn push(text: &mut String, name: &str, value: &str) {
    if !is_storable(name) || !is_storable(value) {
        return;
    }
    terminate(text);
    text.push_str(name);
    text.push(char::from(NAME_END));
    text.push_str(value);
    text.push(char::from(PAIR_END));
}

/// The string with `name` set to `value`: earlier pairs of that name are gone, others stay as they were.
pub fn set(text: &str, name: &str, value: &str) -> String {
    let mut out = remove(text, name);
    push(&mut out, name, value);
    out
}

/// The string without the pairs of that name.
pub fn remove(text: &str, name: &str) -> String {
    remove_all(text, &[name])
}

/// The string without the pairs of any of these names.
pub fn remove_all(text: &str, names: &[&str]) -> String {
    let mut out = String::with_capacity(text.len() + 32);
    for pair in text.split(char::from(PAIR_END)) {
        let name = pair.split(char::from(NAME_END)).next().unwrap_or(pair);
        if !pair.is_empty() && !names.contains(&name) {
            out.push_str(pair);
            out.push(char::from(PAIR_END));
        }
    }
    out
}

/// A properties string of these pairs.
pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        push(&mut text, name, value);
    }
    text
}

/// Whether a name or value can stand in a properties string.
pub fn is_storable(part: &str) -> bool {
    !part.is_empty() && scan::find_either(part.as_bytes(), NAME_END, PAIR_END).is_none()
}

/// The keys of a message in RocketMQ's order: tokens of `KEYS`, separated by spaces.
pub fn keys<T: AsRef<[u8]> + ?Sized>(text: &T) -> impl Iterator<Item = &str> {
    get(text, KEYS)
        .unwrap_or("")
        .split(KEY_SEPARATOR)
        .filter(|key| !key.is_empty())
}

/// `WAIT=false`: the sender does not wait for flush and replicas. Anything else, and none, is true.
pub fn waits_for_store<T: AsRef<[u8]> + ?Sized>(text: &T) -> bool {
    get(text, WAIT).is_none_or(|value| value.eq_ignore_ascii_case("true"))
}

fn split_pair(pair: &[u8]) -> Option<(&str, &str)> {
    let at = scan::find(pair, NAME_END)?;
    let (name, value) = (&pair[..at], &pair[at + 1..]);
    if name.is_empty() || value.is_empty() {
        return None;
    }
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
}

/// What stands between the ends of pairs.
fn pairs(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = scan::find(rest, PAIR_END).unwrap_or(rest.len());
        let pair = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or(&[]);
        Some(pair)
    })
}

/// Ends the last pair if an old client did not.
fn terminate(text: &mut String) {
    if !text.is_empty() && !text.ends_with(char::from(PAIR_END)) {
        text.push(char::from(PAIR_END));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_of_equal_names_wins_and_empty_ones_are_ignored() {
        let text = "A\u{1}1\u{2}TRACE_CONTEXT\u{1}\u{2}A\u{1}2\u{2}AB\u{1}3";
        assert_eq!(get(text, "A"), Some("2"));
        assert_eq!(get(text, "AB"), Some("3"));
        assert_eq!(get(text, "TRACE_CONTEXT"), None);
        assert_eq!(iterate(text).collect::<Vec<_>>(), [("A", "1"), ("A", "2"), ("AB", "3")]);
    }

    #[test]
    fn setting_keeps_the_bytes_of_the_others() {
        let text = "TRACE_CONTEXT\u{1}\u{2}A\u{1}1\u{2}B\u{1}2";
        assert_eq!(set(text, "A", "9"), "TRACE_CONTEXT\u{1}\u{2}B\u{1}2\u{2}A\u{1}9\u{2}");
        assert_eq!(remove(text, "B"), "TRACE_CONTEXT\u{1}\u{2}A\u{1}1\u{2}");
    }

    #[test]
    fn wait_is_true_unless_said_otherwise() {
        assert!(waits_for_store(""));
        assert!(waits_for_store("WAIT\u{1}true\u{2}"));
        assert!(!waits_for_store("WAIT\u{1}false\u{2}"));
    }

    proptest! {
        #[test]
        fn pairs_round_trip(pairs in prop::collection::btree_map("[A-Za-z_]{1,8}", "[^\u{1}\u{2}]{1,12}", 0..8)) {
            let text = from_pairs(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            prop_assert_eq!(iterate(&text).count(), pairs.len());
            for (name, value) in &pairs {
                prop_assert_eq!(get(&text, name), Some(value.as_str()));
                let removed = remove(&text, name);
                prop_assert_eq!(get(&removed, name), None);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(0u8..6, 0..60)) {
            let _ = iterate(&bytes).count();
            let _ = get(&bytes, "\u{3}");
            let _ = keys(&bytes).count();
        }
    }
}
