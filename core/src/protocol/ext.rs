//! The extension fields of a header: an ordered list of text pairs.
//!
//! Not a map: headers hold a dozen fields, and a scan over spans beats hashing. Decoded fields are spans of the frame they
//! came in; nothing is copied unless a JSON string held an escape. Fields pushed here go into one growing buffer.
//!
//! Invariants: every span lies inside its buffer, on character boundaries. When a key occurs twice the later one wins,
//! as in RocketMQ's maps.

use std::fmt;

use super::Text;

/// Ordered extension fields.
#[derive(Clone, Default)]
pub struct ExtFields {
    /// The header text the fields were decoded from; empty for fields made here.
    source: Text,
    own: String,
    fields: Vec<(Span, Span)>,
}

/// Where a text of one list stands: a piece of `source` or, with the top bit of `start` set, of `own`.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    start: u32,
    len: u32,
}

const OWN: u32 = 1 << 31;

/// Room made at the first field, so that the usual header grows nothing.
const FIELD_COUNT_USUAL: usize = 16;
const TEXT_SIZE_USUAL: usize = 256;
/// Unescaped text that an emptied list keeps room for.
const OWN_SIZE_KEPT: usize = 512;

impl ExtFields {
    pub fn new() -> ExtFields {
        ExtFields::default()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.fields.iter().rev().find(|field| self.text(field.0) == key)?;
        Some(self.text(found.1))
    }

    /// The value of `key` as shared text: a slice of the frame where possible.
    pub fn get_text(&self, key: &str) -> Option<Text> {
        self.get(key).map(|value| self.share(value))
    }

    /// `value`, which must have come from this list, as shared text: a slice of the frame where possible.
    pub fn share(&self, value: &str) -> Text {
        if position_in(&self.source, value).is_some() {
            self.source.slice_ref(value)
        } else {
            Text::from(value)
        }
    }

    /// Where `value` stands, which must have come from this list: for those who want it later without holding a reference.
    pub fn span(&self, value: &str) -> Span {
        let own = || Some(position_in(&self.own, value)? as u32 | OWN);
        let start = position_in(&self.source, value).map(|start| start as u32).or_else(own);
        Span {
            start: start.unwrap_or(0),
            len: start.map_or(0, |_| value.len() as u32),
        }
    }

    /// The text at a place of this list; empty at one that only another list has.
    pub fn at(&self, span: Span) -> &str {
        let buffer: &str = if span.start & OWN == 0 { &self.source } else { &self.own };
        let start = (span.start & !OWN) as usize;
        buffer.get(start..start + span.len as usize).unwrap_or("")
    }

    /// Appends a field. A field of the same key that is there already is hidden by it.
    pub fn push(&mut self, key: &str, value: &str) {
        if self.fields.capacity() == 0 {
            self.fields.reserve(FIELD_COUNT_USUAL);
            self.own.reserve(TEXT_SIZE_USUAL);
        }
        let key = self.own_text(key);
        let value = self.own_text(value);
        self.fields.push((key, value));
    }

    /// Appends a field whose value is a number.
    pub fn push_integer(&mut self, key: &str, value: i64) {
        self.push(key, itoa::Buffer::new().format(value));
    }

    pub fn push_bool(&mut self, key: &str, value: bool) {
        self.push(key, if value { "true" } else { "false" });
    }

    /// Removes every field of that key.
    pub fn remove(&mut self, key: &str) {
        let (source, own) = (&self.source, &self.own);
        self.fields.retain(|field| resolve(source, own, field.0) != key);
    }

    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Fields in the order of the wire, hidden ones too.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + DoubleEndedIterator + Clone {
        self.fields.iter().map(|field| (self.text(field.0), self.text(field.1)))
    }

    /// Count of fields.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The list emptied, with its room for another header's fields: some 300 bytes usually. Unusual room is given back.
    pub(crate) fn emptied(mut self) -> ExtFields {
        self.source = Text::new();
        self.own.clear();
        self.own.shrink_to(OWN_SIZE_KEPT);
        self.fields.clear();
        self.fields.shrink_to(FIELD_COUNT_USUAL);
        self
    }

    /// Makes room for the usual header.
    pub(super) fn reserve_fields(&mut self) {
        self.fields.reserve(FIELD_COUNT_USUAL);
    }

    /// The list with the text that its source spans are of.
    pub(super) fn with_source(self, source: Text) -> ExtFields {
        ExtFields { source, ..self }
    }

    pub(super) fn push_spans(&mut self, key: Span, value: Span) {
        self.fields.push((key, value));
    }

    pub(super) fn text(&self, span: Span) -> &str {
        resolve(&self.source, &self.own, span)
    }

    /// A span of the source text.
    pub(super) fn source_span(start: usize, end: usize) -> Span {
        Span {
            start: start as u32,
            len: (end - start) as u32,
        }
    }

    pub(super) fn own_text(&mut self, text: &str) -> Span {
        let start = self.own.len() as u32 | OWN;
        self.own.push_str(text);
        Span {
            start,
            len: text.len() as u32,
        }
    }

    /// The buffer to unescape into, and then the span from `start` (its length before) to its end.
    pub(super) fn own_buffer(&mut self) -> &mut String {
        &mut self.own
    }

    pub(super) fn own_span_from(&self, start: usize) -> Span {
        Span {
            start: start as u32 | OWN,
            len: (self.own.len() - start) as u32,
        }
    }
}

/// Where `part` begins in the memory of `whole`; `None` for one that is empty or elsewhere.
fn position_in(whole: &str, part: &str) -> Option<usize> {
    let inside = whole.as_bytes().as_ptr_range().contains(&part.as_ptr()) && !part.is_empty();
    inside.then(|| part.as_ptr().addr() - whole.as_ptr().addr())
}

fn resolve<'a>(source: &'a str, own: &'a str, span: Span) -> &'a str {
    let buffer = if span.start & OWN == 0 { source } else { own };
    let start = (span.start & !OWN) as usize;
    &buffer[start..start + span.len as usize]
}

/// Equal when the same keys have the same values; order and hidden fields do not matter.
impl PartialEq for ExtFields {
    fn eq(&self, other: &ExtFields) -> bool {
        let covers = |a: &ExtFields, b: &ExtFields| a.iter().all(|(key, _)| a.get(key) == b.get(key));
        covers(self, other) && covers(other, self)
    }
}

impl Eq for ExtFields {}

impl fmt::Debug for ExtFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for ExtFields {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(fields: I) -> ExtFields {
        let mut ext = ExtFields::new();
        for (key, value) in fields {
            ext.push(key.as_ref(), value.as_ref());
        }
        ext
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_finds_its_text_again() {
        let mut ext = ExtFields::new();
        ext.push_spans(ExtFields::source_span(0, 1), ExtFields::source_span(1, 4));
        let mut ext = ext.with_source(Text::from_static("kabc"));
        ext.push("own", "def");
        for key in ["k", "own"] {
            let value = ext.get(key).unwrap();
            assert_eq!(ext.at(ext.span(value)), value);
            assert_eq!(ext.at(ext.span(&value[1..2])), &value[1..2]);
        }
        assert_eq!(ext.at(ext.span("elsewhere")), "");
        assert_eq!(ExtFields::new().at(ext.span(ext.get("k").unwrap())), "");
    }

    #[test]
    fn the_later_of_two_equal_keys_wins() {
        let mut ext = ExtFields::new();
        ext.push("a", "1");
        ext.push_integer("b", -2);
        ext.push("a", "3");
        assert_eq!(ext.get("a"), Some("3"));
        assert_eq!(ext.get("b"), Some("-2"));
        assert_eq!(ext, [("b", "-2"), ("a", "3")].into_iter().collect());
        ext.remove("a");
        assert_eq!(ext.len(), 1);
        assert!(!ext.contains("a"));
    }
}
