//! Header type 0: a JSON object (`RemotingSerializable.java`, `RemotingCommand.java`).
//!
//! A scanner of our own instead of a JSON library: the texts of a header are handed out as spans of the frame, and it reads what
//! real clients write: numbers and booleans as extension values, nulls, unknown keys, trailing white space. It accepts all
//! JSON objects whose known members have a sensible type (and raw control characters in strings, as fastjson does);
//! it is not a validator. Depth and count are limited; nothing else is allocated but unescaped strings, never longer
//! than the header.

use bytes::{BufMut, BytesMut};

use super::ext::{ExtFields, Span};
use super::frame::{HeaderError, Limits};
use super::scan;
use super::{Command, Language, Text};

/// Nesting of unknown values and odd extension values. Deeper is refused: no known client nests at all.
const DEPTH_MAX: usize = 32;

/// Reads the header `text` into `command`, whose extension fields are an empty list.
pub(super) fn decode(text: Text, limits: &Limits, command: &mut Command) -> Result<(), HeaderError> {
    let mut ext = std::mem::take(&mut command.ext);
    ext.reserve_fields();
    let mut scanner = Scanner { text: &text, at: 0 };
    scanner.object(|scanner, key| match key.plain(scanner) {
        Some("code") => scanner.integer_into(&mut command.code),
        Some("version") => scanner.integer_into(&mut command.version),
        Some("opaque") => scanner.integer_into(&mut command.opaque),
        Some("flag") => scanner.integer_into(&mut command.flag),
        Some("language") => {
            command.language = scanner.language()?;
            Ok(())
        }
        Some("remark") => {
            command.remark = scanner.remark(&text)?;
            Ok(())
        }
        Some("extFields") => scanner.ext_fields(limits, &mut ext),
        _ => scanner.skip_value(DEPTH_MAX),
    })?;
    scanner.white_space();
    if scanner.at != scanner.text.len() {
        return Err(scanner.error("nothing but white space"));
    }
    command.ext = ext.with_source(text);
    Ok(())
}

/// A string literal between its quotes, not yet unescaped.
#[derive(Clone, Copy)]
struct Literal {
    start: usize,
    end: usize,
    escaped: bool,
}

impl Literal {
    /// The text, if it needs no unescaping.
    fn plain<'a>(self, scanner: &Scanner<'a>) -> Option<&'a str> {
        (!self.escaped).then(|| &scanner.text[self.start..self.end])
    }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn object(
        &mut self,
        mut member: impl FnMut(&mut Scanner<'a>, Literal) -> Result<(), HeaderError>,
    ) -> Result<(), HeaderError> {
        self.white_space();
        self.expect(b'{', "an object")?;
        self.white_space();
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            self.white_space();
            let key = match self.letter_key() {
                Some(key) => key,
                None => {
                    let key = self.literal()?;
                    self.white_space();
                    self.expect(b':', "':'")?;
                    self.white_space();
                    key
                }
            };
            member(self, key)?;
            self.white_space();
            if self.eat(b'}') {
                return Ok(());
            }
            self.expect(b',', "',' or '}'")?;
        }
    }

    /// A key of one letter and the colon before a text, without white space: as most fields of a send begin.
    fn letter_key(&mut self) -> Option<Literal> {
        let start = self.at + 1;
        match self.text.as_bytes().get(self.at..)?.first_chunk()? {
            [b'"', letter, b'"', b':', b'"'] if letter.is_ascii_alphabetic() => {
                self.at += 4;
                Some(Literal {
                    start,
                    end: start + 1,
                    escaped: false,
                })
            }
            _ => None,
        }
    }

    fn ext_fields(&mut self, limits: &Limits, ext: &mut ExtFields) -> Result<(), HeaderError> {
        if self.eat_word("null") {
            return Ok(());
        }
        self.object(|scanner, key| {
            if scanner.eat_word("null") {
                return Ok(());
            }
            if ext.len() >= limits.ext_count_max {
                return Err(HeaderError::TooManyFields {
                    count_max: limits.ext_count_max,
                });
            }
            let key = scanner.own(key, ext)?;
            let value = if scanner.peek() == Some(b'"') {
                let value = scanner.literal()?;
                scanner.own(value, ext)?
            } else {
                let start = scanner.at;
                scanner.skip_value(DEPTH_MAX)?;
                ExtFields::source_span(start, scanner.at)
            };
            ext.push_spans(key, value);
            Ok(())
        })
    }

    fn own(&self, literal: Literal, ext: &mut ExtFields) -> Result<Span, HeaderError> {
        if !literal.escaped {
            return Ok(ExtFields::source_span(literal.start, literal.end));
        }
        let buffer = ext.own_buffer();
        let start = buffer.len();
        if start == 0 {
            buffer.reserve(literal.end - literal.start);
        }
        self.unescape(literal, buffer)?;
        Ok(ext.own_span_from(start))
    }

    fn remark(&mut self, source: &Text) -> Result<Option<Text>, HeaderError> {
        if self.eat_word("null") {
            return Ok(None);
        }
        if self.peek() != Some(b'"') {
            let start = self.at;
            self.skip_value(DEPTH_MAX)?;
            return Ok(Some(source.slice_ref(&self.text[start..self.at])));
        }
        let literal = self.literal()?;
        if let Some(plain) = literal.plain(self) {
            return Ok(Some(source.slice_ref(plain)));
        }
        let mut remark = String::new();
        self.unescape(literal, &mut remark)?;
        Ok(Some(Text::from(remark)))
    }

    /// Unknown names and odd types give an unknown language, as in Java; a number is the enum's ordinal.
    fn language(&mut self) -> Result<Language, HeaderError> {
        if self.peek() == Some(b'"') {
            let name = self.literal()?;
            return Ok(name.plain(self).map_or(Language::Unknown, Language::from_name));
        }
        let start = self.at;
        self.skip_value(DEPTH_MAX)?;
        let code = self.text[start..self.at].parse::<u8>();
        Ok(code.map_or(Language::Unknown, Language::from_code))
    }

    /// An integer, bare or in quotes. Null leaves the target as it is.
    fn integer_into(&mut self, target: &mut i32) -> Result<(), HeaderError> {
        if self.eat_word("null") {
            return Ok(());
        }
        let start = self.at;
        let text = if self.peek() == Some(b'"') {
            let literal = self.literal()?;
            &self.text[literal.start..literal.end]
        } else {
            self.skip_value(DEPTH_MAX)?;
            &self.text[start..self.at]
        };
        *target = text.parse().map_err(|_| HeaderError::Json {
            expected: "an integer of 32 bits",
            at: start,
        })?;
        Ok(())
    }

    fn skip_value(&mut self, depth_left: usize) -> Result<(), HeaderError> {
        match self.peek() {
            Some(b'"') => self.literal().map(drop),
            Some(b'{') if depth_left > 0 => self.object(|scanner, _| scanner.skip_value(depth_left - 1)),
            Some(b'[') if depth_left > 0 => self.skip_array(depth_left - 1),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if self.eat_word("true") || self.eat_word("false") || self.eat_word("null") => Ok(()),
            _ => Err(self.error("a value")),
        }
    }

    fn skip_array(&mut self, depth_left: usize) -> Result<(), HeaderError> {
        self.expect(b'[', "'['")?;
        self.white_space();
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            self.white_space();
            self.skip_value(depth_left)?;
            self.white_space();
            if self.eat(b']') {
                return Ok(());
            }
            self.expect(b',', "',' or ']'")?;
        }
    }

    fn number(&mut self) -> Result<(), HeaderError> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), HeaderError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.error("a digit"));
        }
        Ok(())
    }

    #[inline]
    fn literal(&mut self) -> Result<Literal, HeaderError> {
        self.expect(b'"', "a string")?;
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        loop {
            let rest = bytes.get(self.at..).unwrap_or(&[]);
            let Some(position) = scan::find_either(rest, b'"', b'\\') else {
                self.at = bytes.len();
                return Err(self.error("the end of a string"));
            };
            self.at += position;
            if bytes[self.at] == b'"' {
                break;
            }
            escaped = true;
            self.at += 2;
        }
        let end = self.at;
        self.at += 1;
        Ok(Literal { start, end, escaped })
    }

    fn unescape(&self, literal: Literal, out: &mut String) -> Result<(), HeaderError> {
        let mut rest = &self.text[literal.start..literal.end];
        while let Some(position) = scan::find(rest.as_bytes(), b'\\') {
            out.push_str(&rest[..position]);
            let escape = rest.as_bytes().get(position + 1).copied();
            rest = rest.get(position + 2..).unwrap_or("");
            match escape {
                Some(b'"') => out.push('"'),
                Some(b'\\') => out.push('\\'),
                Some(b'/') => out.push('/'),
                Some(b'b') => out.push('\u{8}'),
                Some(b'f') => out.push('\u{c}'),
                Some(b'n') => out.push('\n'),
                Some(b'r') => out.push('\r'),
                Some(b't') => out.push('\t'),
                Some(b'u') => out.push(self.unicode_escape(&mut rest, literal)?),
                _ => return Err(self.escape_error(literal)),
            }
        }
        out.push_str(rest);
        Ok(())
    }

    /// The character of `\uXXXX`, whose four digits are next. A lone half of a surrogate pair, which Java strings can
    /// hold, becomes U+FFFD.
    fn unicode_escape(&self, rest: &mut &str, literal: Literal) -> Result<char, HeaderError> {
        let unit = hex_unit(rest).ok_or_else(|| self.escape_error(literal))?;
        *rest = &rest[4..];
        if !(0xD800..0xDC00).contains(&unit) {
            return Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let low = rest.strip_prefix("\\u").and_then(hex_unit);
        let Some(low) = low.filter(|low| (0xDC00..0xE000).contains(low)) else {
            return Ok(char::REPLACEMENT_CHARACTER);
        };
        *rest = &rest[6..];
        let scalar = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
        Ok(char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn white_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        if found {
            self.at += word.len();
        }
        found
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), HeaderError> {
        if self.eat(byte) {
            Ok(())
        } else {
            Err(self.error(expected))
        }
    }

    fn error(&self, expected: &'static str) -> HeaderError {
        HeaderError::Json { expected, at: self.at }
    }

    fn escape_error(&self, literal: Literal) -> HeaderError {
        HeaderError::Json {
            expected: "valid escapes in a string",
            at: literal.start,
        }
    }
}

fn hex_unit(text: &str) -> Option<u32> {
    let digits: &[u8; 4] = text.as_bytes().first_chunk()?;
    digits.iter().try_fold(0, |unit, digit| {
        let value = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | value)
    })
}

/// Appends the header of `command`. Every extension value is written as a string: the Go client reads nothing else.
pub(super) fn encode(command: &Command, out: &mut BytesMut) {
    let texts: usize = command.ext.iter().map(|(key, value)| key.len() + value.len() + 6).sum();
    out.reserve(160 + texts + command.remark_text().len());
    out.put_slice(b"{\"code\":");
    put_integer(command.code, out);
    if !command.ext.is_empty() {
        out.put_slice(b",\"extFields\":{");
        for (index, (key, value)) in command.ext.iter().enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            put_string(key, out);
            out.put_u8(b':');
            put_string(value, out);
        }
        out.put_u8(b'}');
    }
    out.put_slice(b",\"flag\":");
    put_integer(command.flag, out);
    out.put_slice(b",\"language\":\"");
    out.put_slice(command.language.name().as_bytes());
    out.put_slice(b"\",\"opaque\":");
    put_integer(command.opaque, out);
    if let Some(remark) = &command.remark {
        out.put_slice(b",\"remark\":");
        put_string(remark, out);
    }
    out.put_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    put_integer(command.version, out);
    out.put_u8(b'}');
}

pub(super) fn put_integer(value: impl itoa::Integer, out: &mut BytesMut) {
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub(super) fn put_string(text: &str, out: &mut BytesMut) {
    out.put_u8(b'"');
    let mut rest = text.as_bytes();
    while let Some(position) = scan::find_escaped(rest) {
        out.put_slice(&rest[..position]);
        put_escaped(rest[position], out);
        rest = &rest[position + 1..];
    }
    out.put_slice(rest);
    out.put_u8(b'"');
}

fn put_escaped(byte: u8, out: &mut BytesMut) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.put_slice(b"\\\""),
        b'\\' => out.put_slice(b"\\\\"),
        b'\n' => out.put_slice(b"\\n"),
        b'\r' => out.put_slice(b"\\r"),
        b'\t' => out.put_slice(b"\\t"),
        control => {
            out.put_slice(b"\\u00");
            out.put_u8(HEX[usize::from(control >> 4)]);
            out.put_u8(HEX[usize::from(control & 15)]);
        }
    }
}
