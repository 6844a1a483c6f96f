//! RocketMQ's `config/*.json` tables: read leniently, written so that a crash at any point leaves a whole one.
//!
//! Writing: a temporary file, synced; the old table becomes `.bak`; the new one takes its name; the folder is synced.
//! Reading: the table, else its `.bak`. Java's fastjson writes integer map keys without quotes (`{0:90}`) and trailing
//! commas never; both forms of keys are read, quoted ones (which Java reads, too) are written.
//! Source: `common/ConfigManager.java`, `common/MixAll.java` `string2File`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::disk::{open_existing, remove_if_present};
use crate::runtime::{Disk, DiskError, DiskErrorKind, File, OpenMode};

/// Largest table that is read. Default 256 MiB. A larger one is no table of ours.
const SIZE_MAX: u64 = 256 << 20;

/// Why there is no table although there are files.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error("{path}: {reason}")]
    Invalid { path: String, reason: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Loads a table; `None` if neither it nor its `.bak` exists.
pub async fn load<D: Disk, T: DeserializeOwned>(disk: &D, path: &Path) -> Result<Option<T>, JsonError> {
    let first = match load_one(disk, path).await {
        Ok(Some(table)) => return Ok(Some(table)),
        other => other,
    };
    match (first, load_one(disk, &with_suffix(path, ".bak")).await) {
        (first, Ok(Some(table))) => {
            if let Err(error) = first {
                log::warn!("{error}; its .bak is used");
            }
            Ok(Some(table))
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
        (Ok(_), Ok(None)) => Ok(None),
    }
}

/// Saves a table. Durable when it returns.
pub async fn save<D: Disk, T: Serialize>(disk: &D, path: &Path, table: &T) -> Result<(), DiskError> {
    let text = serde_json::to_vec_pretty(table)
        .map_err(|error| DiskError::new(DiskErrorKind::Other, path, format!("table is no JSON: {error}")))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    disk.create_dir_all(folder).await?;
    let temporary = with_suffix(path, ".tmp");
    remove_if_present(disk, &temporary).await?;
    let file = disk.open(&temporary, OpenMode::New).await?;
    file.write_at(0, &[&text])?;
    file.sync().await?;
    if open_existing(disk, path).await?.is_some() {
        disk.rename(path, &with_suffix(path, ".bak")).await?;
    }
    disk.rename(&temporary, path).await?;
    disk.sync_dir(folder).await
}

async fn load_one<D: Disk, T: DeserializeOwned>(disk: &D, path: &Path) -> Result<Option<T>, JsonError> {
    let Some(file) = open_existing(disk, path).await? else {
        return Ok(None);
    };
    let invalid = |reason: String| JsonError::Invalid {
        path: path.display().to_string(),
        reason,
    };
    if file.is_empty() {
        return Ok(None);
    }
    if file.len() > SIZE_MAX {
        return Err(invalid(format!("{} bytes are more than {SIZE_MAX}", file.len())));
    }
    let bytes = file.read(0, file.len() as usize).await?;
    let text = std::str::from_utf8(&bytes).map_err(|error| invalid(error.to_string()))?;
    let table = serde_json::from_str(&quote_keys(text)).map_err(|error| invalid(error.to_string()))?;
    Ok(Some(table))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Puts integer map keys into quotes: a number right behind `{` or `,` and before `:`.
pub fn quote_keys(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    let mut may_be_key = false;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at = string_end(bytes, at);
                may_be_key = false;
                continue;
            }
            b'{' | b',' => may_be_key = true,
            b'-' | b'0'..=b'9' if may_be_key => {
                let end = skip(bytes, at + 1, |byte| byte.is_ascii_digit());
                let colon = skip(bytes, end, |byte| byte.is_ascii_whitespace());
                if bytes.get(colon) == Some(&b':') {
                    out.push_str(&text[copied..at]);
                    out.push('"');
                    out.push_str(&text[at..end]);
                    out.push('"');
                    copied = end;
                }
                at = end;
                may_be_key = false;
                continue;
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => may_be_key = false,
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Position behind the string that starts at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn skip(bytes: &[u8], from: usize, wanted: impl Fn(u8) -> bool) -> usize {
    let rest = bytes.get(from..).unwrap_or(&[]);
    from + rest.iter().take_while(|byte| wanted(**byte)).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_of_java_reads_as_one_of_ours() {
        let text = "{\n\t\"offsetTable\":{\"T@G\":{0:90,1:12\n\t\t}\n\t},\"list\":[1,2],\"a\\\"{0:1\":3}";
        let quoted = quote_keys(text);
        assert_eq!(
            quoted,
            "{\n\t\"offsetTable\":{\"T@G\":{\"0\":90,\"1\":12\n\t\t}\n\t},\"list\":[1,2],\"a\\\"{0:1\":3}"
        );
        assert!(serde_json::from_str::<serde_json::Value>(&quoted).is_ok());
    }

    proptest! {
        #[test]
        fn strict_json_stays_as_it_is(table in prop::collection::btree_map("\\PC{0,8}", prop::collection::vec(any::<i32>(), 0..4), 0..6)) {
            let text = serde_json::to_string_pretty(&table).unwrap();
            let quoted = quote_keys(&text);
            prop_assert_eq!(&quoted, &text);
            let read: BTreeMap<String, Vec<i32>> = serde_json::from_str(&quoted).unwrap();
            prop_assert_eq!(read, table);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[{},:0-9\"\\\\ é-]{0,40}") {
            let _ = quote_keys(&text);
        }
    }
}
