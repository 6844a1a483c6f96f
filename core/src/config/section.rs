//! How a section of the configuration is declared, read and printed.
//!
//! [`section!`] makes a struct from one list of `field: type = default, "rocketmqName" in least..=most`. Each type says
//! through [`Value`] how its text looks and what is allowed. Not here: any concrete key.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::Property;
use crate::types::address::IpAddr;

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{file}:{line}: {key}={value} is not allowed; allowed is {allowed}")]
    Value {
        file: String,
        line: usize,
        key: String,
        value: String,
        allowed: String,
    },
    #[error("{file}:{line}: {reason}")]
    Syntax {
        file: String,
        line: usize,
        reason: &'static str,
    },
}

impl ConfigError {
    pub(super) fn syntax(file: &str, line: usize, reason: &'static str) -> ConfigError {
        ConfigError::Syntax {
            file: file.to_owned(),
            line,
            reason,
        }
    }
}

/// A key that stands in the file and that Orrery does not use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    pub line: usize,
    pub key: String,
}

/// The properties of one file while sections take what is theirs.
pub(super) struct Fields<'a> {
    file: &'a str,
    properties: Vec<Property>,
    known: Vec<bool>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(file: &'a str, properties: Vec<Property>) -> Fields<'a> {
        let known = vec![false; properties.len()];
        Fields {
            file,
            properties,
            known,
        }
    }

    /// The value of `key` (the last one wins, every one is checked), or `default`.
    pub(super) fn take<V: Value>(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        default: V,
    ) -> Result<V, ConfigError> {
        let mut taken = default;
        for (property, known) in self.properties.iter().zip(&mut self.known) {
            if property.key != key {
                continue;
            }
            *known = true;
            taken = V::parse(property.value.trim())
                .filter(|value| range.contains(&value.magnitude()))
                .ok_or_else(|| refusal(self.file, V::allowed(&range), property))?;
        }
        Ok(taken)
    }

    /// An error about `key` for a rule that spans fields.
    pub(super) fn refuse(&self, key: &str, allowed: String) -> ConfigError {
        let absent = Property {
            line: 0,
            key: key.to_owned(),
            value: "(default)".to_owned(),
        };
        let property = self.properties.iter().rev().find(|property| property.key == key);
        refusal(self.file, allowed, property.unwrap_or(&absent))
    }

    /// What nobody took, each key once.
    pub(super) fn unknown(self) -> Vec<UnknownKey> {
        let mut unknown: Vec<UnknownKey> = Vec::new();
        for (property, known) in self.properties.into_iter().zip(self.known) {
            if !known && !unknown.iter().any(|seen| seen.key == property.key) {
                unknown.push(UnknownKey {
                    line: property.line,
                    key: property.key,
                });
            }
        }
        unknown
    }
}

fn refusal(file: &str, allowed: String, property: &Property) -> ConfigError {
    ConfigError::Value {
        file: file.to_owned(),
        line: property.line,
        key: property.key.clone(),
        value: property.value.clone(),
        allowed,
    }
}

/// A type that can stand behind a key.
pub(super) trait Value: Sized {
    fn parse(text: &str) -> Option<Self>;
    fn print(&self) -> String;
    /// What the range of a field is about: the number, the milliseconds, the length.
    fn magnitude(&self) -> i64;
    fn allowed(range: &RangeInclusive<i64>) -> String;
}

macro_rules! whole_number {
    ($($number:ty),*) => {$(
        impl Value for $number {
            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }
            fn print(&self) -> String {
                self.to_string()
            }
            fn magnitude(&self) -> i64 {
                i64::try_from(*self).unwrap_or(i64::MAX)
            }
            fn allowed(range: &RangeInclusive<i64>) -> String {
                format!("a whole number from {} to {}", range.start(), range.end())
            }
        }
    )*};
}

whole_number!(u16, u32, i32, u64, i64, usize);

impl Value for bool {
    fn parse(text: &str) -> Option<bool> {
        match text {
            _ if text.eq_ignore_ascii_case("true") => Some(true),
            _ if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }
    fn print(&self) -> String {
        self.to_string()
    }
    fn magnitude(&self) -> i64 {
        i64::from(*self)
    }
    fn allowed(_: &RangeInclusive<i64>) -> String {
        "true or false".to_owned()
    }
}

/// Durations stand in milliseconds.
impl Value for Duration {
    fn parse(text: &str) -> Option<Duration> {
        text.parse().ok().map(Duration::from_millis)
    }
    fn print(&self) -> String {
        self.as_millis().to_string()
    }
    fn magnitude(&self) -> i64 {
        i64::try_from(self.as_millis()).unwrap_or(i64::MAX)
    }
    fn allowed(range: &RangeInclusive<i64>) -> String {
        format!("milliseconds from {} to {}", range.start(), range.end())
    }
}

impl Value for String {
    fn parse(text: &str) -> Option<String> {
        Some(text.to_owned())
    }
    fn print(&self) -> String {
        self.clone()
    }
    fn magnitude(&self) -> i64 {
        i64::try_from(self.len()).unwrap_or(i64::MAX)
    }
    fn allowed(range: &RangeInclusive<i64>) -> String {
        format!("a text of {} to {} bytes", range.start(), range.end())
    }
}

impl Value for IpAddr {
    fn parse(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }
    fn print(&self) -> String {
        self.to_string()
    }
    fn magnitude(&self) -> i64 {
        0
    }
    fn allowed(_: &RangeInclusive<i64>) -> String {
        "an IP address".to_owned()
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Option<PathBuf> {
        Some(PathBuf::from(text))
    }
    fn print(&self) -> String {
        self.display().to_string()
    }
    fn magnitude(&self) -> i64 {
        i64::try_from(self.as_os_str().len()).unwrap_or(i64::MAX)
    }
    fn allowed(range: &RangeInclusive<i64>) -> String {
        format!("a path of {} to {} bytes", range.start(), range.end())
    }
}

/// An empty text is `None`; the range is about what is there.
impl<V: Value> Value for Option<V> {
    fn parse(text: &str) -> Option<Option<V>> {
        if text.is_empty() {
            return Some(None);
        }
        V::parse(text).map(Some)
    }
    fn print(&self) -> String {
        self.as_ref().map(Value::print).unwrap_or_default()
    }
    fn magnitude(&self) -> i64 {
        self.as_ref().map_or(1, Value::magnitude)
    }
    fn allowed(range: &RangeInclusive<i64>) -> String {
        format!("nothing, or {}", V::allowed(range))
    }
}

/// A list `host:port;host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(pub Vec<String>);

impl Value for Addresses {
    fn parse(text: &str) -> Option<Addresses> {
        let mut addresses = Vec::new();
        for address in text.split(';').map(str::trim).filter(|address| !address.is_empty()) {
            let (host, port) = address.rsplit_once(':')?;
            let port: u16 = port.parse().ok()?;
            if host.is_empty() || port == 0 || host.contains(char::is_whitespace) {
                return None;
            }
            if !addresses.iter().any(|known| known == address) {
                addresses.push(address.to_owned());
            }
        }
        Some(Addresses(addresses))
    }
    fn print(&self) -> String {
        self.0.join(";")
    }
    fn magnitude(&self) -> i64 {
        i64::try_from(self.0.len()).unwrap_or(i64::MAX)
    }
    fn allowed(range: &RangeInclusive<i64>) -> String {
        format!(
            "host:port;host:port with {} to {} addresses",
            range.start(),
            range.end()
        )
    }
}

/// Hours of the day `04;16` at which something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoursOfDay(pub Vec<u8>);

impl Value for HoursOfDay {
    fn parse(text: &str) -> Option<HoursOfDay> {
        let hours = text.split(';').map(|hour| hour.trim().parse().ok());
        hours
            .collect::<Option<Vec<u8>>>()
            .filter(|hours| hours.iter().all(|hour| *hour < 24))
            .map(HoursOfDay)
    }
    fn print(&self) -> String {
        let hours: Vec<String> = self.0.iter().map(|hour| format!("{hour:02}")).collect();
        hours.join(";")
    }
    fn magnitude(&self) -> i64 {
        i64::try_from(self.0.len()).unwrap_or(i64::MAX)
    }
    fn allowed(_: &RangeInclusive<i64>) -> String {
        "hours from 00 to 23, as in 04 or 04;16".to_owned()
    }
}

/// The delays behind delay levels 1, 2, 3 … (`messageDelayLevel`), ascending or not, as the operator likes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayLevels(Vec<Duration>);

impl DelayLevels {
    /// Number of levels; the highest valid level.
    pub fn count(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }

    /// The delay of a level from 1; levels above the highest count as the highest, as in RocketMQ
    /// (`ScheduleMessageService`); `None` for zero and below.
    pub fn delay(&self, level: i32) -> Option<Duration> {
        let index = usize::try_from(level.min(self.count())).ok()?.checked_sub(1)?;
        self.0.get(index).copied()
    }
}

/// RocketMQ's eighteen levels.
impl Default for DelayLevels {
    fn default() -> DelayLevels {
        DelayLevels::parse("1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h").expect("a valid constant")
    }
}

impl Value for DelayLevels {
    fn parse(text: &str) -> Option<DelayLevels> {
        let mut delays = Vec::new();
        for word in text.split_ascii_whitespace() {
            let unit = word.chars().last()?;
            let count: u64 = word.strip_suffix(unit)?.parse().ok()?;
            let seconds = match unit {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                'd' => 86400,
                _ => return None,
            };
            let delay = count.checked_mul(seconds).filter(|delay| *delay <= 366 * 86400)?;
            delays.push(Duration::from_secs(delay));
        }
        Some(DelayLevels(delays))
    }
    fn print(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|delay| print_delay(delay.as_secs())).collect();
        words.join(" ")
    }
    fn magnitude(&self) -> i64 {
        i64::from(self.count())
    }
    fn allowed(range: &RangeInclusive<i64>) -> String {
        format!(
            "{} to {} delays as in `1s 5m 2h 1d`, none above 366 days",
            range.start(),
            range.end()
        )
    }
}

fn print_delay(seconds: u64) -> String {
    for (unit, size) in [('d', 86400), ('h', 3600), ('m', 60)] {
        if seconds > 0 && seconds.is_multiple_of(size) {
            return format!("{}{unit}", seconds / size);
        }
    }
    format!("{seconds}s")
}

impl fmt::Display for DelayLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.print())
    }
}

/// Declares an enum whose words are RocketMQ's.
macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $crate::config::section::Value for $name {
            fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)+ _ => None }
            }
            fn print(&self) -> String {
                match self { $(Self::$variant => $word.to_owned()),+ }
            }
            fn magnitude(&self) -> i64 { 0 }
            fn allowed(_: &std::ops::RangeInclusive<i64>) -> String {
                [$($word),+].join(" or ")
            }
        }
    };
}

/// Declares a section: the struct, its defaults, how it is read and how it is printed.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$doc:meta])* $field:ident: $kind:ty = $default:expr, $key:literal in $range:expr;)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$doc])* pub $field: $kind),+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }

        impl $name {
            pub(super) fn read(fields: &mut $crate::config::section::Fields<'_>) -> Result<Self, $crate::config::ConfigError> {
                let default = Self::default();
                Ok(Self { $($field: fields.take($key, $range, default.$field)?),+ })
            }

            pub(super) fn print(&self, into: &mut std::collections::BTreeMap<&'static str, String>) {
                $(into.insert($key, $crate::config::section::Value::print(&self.$field));)+
            }
        }
    };
}

pub(super) use {section, words};
