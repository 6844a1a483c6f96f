//! Histories as files: read, merged by time, written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Header, Record, VERSION};

/// A whole history in memory, in order of time.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    pub header: Header,
    pub records: Vec<Record>,
}

/// A history that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {source}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        source: serde_json::Error,
    },
    #[error("{}: history version {found}, this checker reads {VERSION}", path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("{}: no header line", path.display())]
    NoHeader { path: PathBuf },
    #[error("no history given")]
    Nothing,
}

impl History {
    /// Reads histories of one run, written by one or several programs, and merges them by time. Headers are
    /// united: brokers and groups by name, `records` as what any writer records, `required` as the largest.
    pub fn read(paths: &[impl AsRef<Path>]) -> Result<History, ReadError> {
        let mut united: Option<History> = None;
        for path in paths {
            let next = History::read_one(path.as_ref())?;
            match &mut united {
                None => united = Some(next),
                Some(all) => all.unite(next),
            }
        }
        let mut history = united.ok_or(ReadError::Nothing)?;
        history.records.sort_by_key(|record| record.t);
        Ok(history)
    }

    fn read_one(path: &Path) -> Result<History, ReadError> {
        let io_error = |source| ReadError::Io {
            path: path.to_path_buf(),
            source,
        };
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(io_error)?);
        let mut header = None;
        let mut records = Vec::new();
        let mut text = String::new();
        for line in 1.. {
            text.clear();
            if reader.read_line(&mut text).map_err(io_error)? == 0 {
                break;
            }
            if text.trim().is_empty() {
                continue;
            }
            let line_error = |source| ReadError::Line {
                path: path.to_path_buf(),
                line,
                source,
            };
            if header.is_none() {
                let found: VersionOnly = serde_json::from_str(&text).map_err(line_error)?;
                if found.history != VERSION {
                    return Err(ReadError::Version {
                        path: path.to_path_buf(),
                        found: found.history,
                    });
                }
                header = Some(serde_json::from_str::<Header>(&text).map_err(line_error)?);
            } else {
                records.push(serde_json::from_str(&text).map_err(line_error)?);
            }
        }
        let header = header.ok_or_else(|| ReadError::NoHeader {
            path: path.to_path_buf(),
        })?;
        Ok(History { header, records })
    }

    fn unite(&mut self, other: History) {
        let header = &mut self.header;
        header.source = format!("{} + {}", header.source, other.header.source);
        header.records.extend(other.header.records);
        header.records.sort_unstable();
        header.records.dedup();
        for broker in other.header.brokers {
            if !header.brokers.iter().any(|known| known.name == broker.name) {
                header.brokers.push(broker);
            }
        }
        for group in other.header.groups {
            if !header.groups.iter().any(|known| known.name == group.name) {
                header.groups.push(group);
            }
        }
        let required = &mut header.required;
        required.acks = required.acks.max(other.header.required.acks);
        required.deliveries = required.deliveries.max(other.header.required.deliveries);
        required.fault_effects = required.fault_effects.max(other.header.required.fault_effects);
        self.records.extend(other.records);
    }

    /// Writes the header and every record, a line each.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write_line(out, &self.header)?;
        self.records.iter().try_for_each(|record| write_line(out, record))
    }
}

#[derive(Deserialize)]
struct VersionOnly {
    history: u32,
}

fn write_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}
