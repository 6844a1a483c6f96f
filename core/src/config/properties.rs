//! Java's `.properties` text, with the line on which each key stands.
//!
//! What `java.util.Properties.load` accepts, this accepts: `#` and `!` comments, `=`, `:` or blanks between key and
//! value, `\` at the end of a line to go on, `\t \n \r \f \uXXXX` escapes. Not here: what a key means.
//! Invariant: never panics, whatever the text; memory stays linear in the text.

use super::ConfigError;

/// One `key=value` of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Line of the key, from 1.
    pub line: usize,
    pub key: String,
    pub value: String,
}

/// Reads a whole file. A key that stands twice comes back twice: in Java the last one wins.
pub fn parse_properties(file: &str, text: &str) -> Result<Vec<Property>, ConfigError> {
    let mut found = Vec::new();
    let mut lines = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .enumerate();
    while let Some((index, first)) = lines.next() {
        let first = trim_start(first);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = String::from(first);
        while ends_with_odd_backslashes(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, next)) => logical.push_str(trim_start(next)),
                None => break,
            }
        }
        let (key, value) = split(&logical);
        let line = index + 1;
        let key = unescape(key).map_err(|reason| ConfigError::syntax(file, line, reason))?;
        let value = unescape(value).map_err(|reason| ConfigError::syntax(file, line, reason))?;
        found.push(Property { line, key, value });
    }
    Ok(found)
}

/// Writes pairs as `key=value` lines that [`parse_properties`] (and Java) read back.
pub fn print_properties<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        escape_into(&mut text, key, true);
        text.push('=');
        escape_into(&mut text, value, false);
        text.push('\n');
    }
    text
}

fn trim_start(line: &str) -> &str {
    line.trim_start_matches([' ', '\t', '\x0c'])
}

fn ends_with_odd_backslashes(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Cuts a logical line at the first unescaped separator: blanks, then at most one `=` or `:`, then blanks.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let mut key_end = line.len();
    for (position, letter) in line.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '=' | ':' | ' ' | '\t' | '\x0c' => {
                key_end = position;
                break;
            }
            _ => {}
        }
    }
    let (key, rest) = line.split_at(key_end);
    let rest = trim_start(rest);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, trim_start(rest))
}

fn unescape(text: &str) -> Result<String, &'static str> {
    if !text.contains('\\') {
        return Ok(text.to_owned());
    }
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let unit = match letter {
            '\\' => match letters.next() {
                None => break,
                Some('t') => u16::from(b'\t'),
                Some('n') => u16::from(b'\n'),
                Some('r') => u16::from(b'\r'),
                Some('f') => 0x0c,
                Some('u') => {
                    let digits: String = letters.by_ref().take(4).collect();
                    if digits.len() != 4 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                        return Err("\\u must be followed by four hexadecimal digits");
                    }
                    u16::from_str_radix(&digits, 16).map_err(|_| "\\u must be followed by four hexadecimal digits")?
                }
                Some(other) => {
                    push_utf16(&mut units, other);
                    continue;
                }
            },
            other => {
                push_utf16(&mut units, other);
                continue;
            }
        };
        units.push(unit);
    }
    String::from_utf16(&units).map_err(|_| "\\u escapes form half a character")
}

fn push_utf16(units: &mut Vec<u16>, letter: char) {
    units.extend_from_slice(letter.encode_utf16(&mut [0; 2]));
}

fn escape_into(out: &mut String, text: &str, is_key: bool) {
    for (position, letter) in text.chars().enumerate() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0c' => out.push_str("\\f"),
            ' ' if is_key || position == 0 => out.push_str("\\ "),
            '=' | ':' | '#' | '!' if is_key => {
                out.push('\\');
                out.push(letter);
            }
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(usize, String, String)> {
        let found = parse_properties("t", text).expect("valid text");
        found.into_iter().map(|p| (p.line, p.key, p.value)).collect()
    }

    #[test]
    fn keys_values_and_comments_are_read_with_their_lines() {
        let text = "# comment\r\n! another\n\n  a = 1 \r\nb:two words\nc three\nd\n e\\=f=g\\u0041\\t|\n";
        assert_eq!(
            pairs(text),
            [
                (4, "a".into(), "1 ".into()),
                (5, "b".into(), "two words".into()),
                (6, "c".into(), "three".into()),
                (7, "d".into(), String::new()),
                (8, "e=f".into(), "gA\t|".into()),
            ]
        );
    }

    #[test]
    fn a_backslash_at_the_end_joins_lines() {
        assert_eq!(
            pairs("a=1,\\\n   2\nb=c\\\\\nd=1\\"),
            [
                (1, "a".into(), "1,2".into()),
                (3, "b".into(), "c\\".into()),
                (4, "d".into(), "1".into()),
            ]
        );
    }

    #[test]
    fn a_bad_escape_names_its_line() {
        let error = parse_properties("broker.conf", "a=1\nb=\\u00g1").expect_err("not hexadecimal");
        assert_eq!(
            error.to_string(),
            "broker.conf:2: \\u must be followed by four hexadecimal digits"
        );
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            entries in prop::collection::vec((any::<String>().prop_filter("key", |k| !k.is_empty()), any::<String>()), 0..8)
        ) {
            let text = print_properties(entries.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            let read: Vec<_> = parse_properties("t", &text).expect("own text").into_iter().map(|p| (p.key, p.value)).collect();
            prop_assert_eq!(read, entries);
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = parse_properties("t", &text);
        }
    }
}
