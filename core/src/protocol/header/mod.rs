//! Header families: the extension fields of a command as plain structs.
//!
//! Each struct reads itself in one pass over the fields (`read`) and appends itself (`write`). Unknown fields are ignored, of
//! two equal keys the later wins, an empty text is a missing number, booleans are `true`, `1` or anything else. Texts are slices
//! of the frame, shared or (with a lifetime) borrowed. Not here: what the fields mean to a broker, and bounds that depend on configuration.

mod admin;
mod client;
mod namesrv;
mod offset;
mod pull;
mod query;
mod send;

pub use admin::*;
pub use client::*;
pub use namesrv::*;
pub use offset::*;
pub use pull::*;
pub use query::*;
pub use send::*;

use super::{ExtFields, Text};

/// Extension fields that are not the header a request needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the field {field} is missing")]
    Missing { field: &'static str },
    #[error("the field {field} is {value:?}, not {expected}")]
    Invalid {
        field: &'static str,
        value: String,
        expected: &'static str,
    },
}

/// A type that a field can have.
trait FieldValue<'a>: Sized {
    /// `None`: as if the field were missing.
    fn read(value: &'a str, fields: &'a ExtFields) -> Result<Option<Self>, &'static str>;
    fn write(&self, key: &'static str, fields: &mut ExtFields);
    /// The value of a field that is not there, for types that have one.
    fn missing() -> Option<Self> {
        None
    }
}

impl FieldValue<'_> for Text {
    fn read(value: &str, fields: &ExtFields) -> Result<Option<Text>, &'static str> {
        Ok(Some(fields.share(value)))
    }

    fn write(&self, key: &'static str, fields: &mut ExtFields) {
        fields.push(key, self);
    }
}

impl<'a> FieldValue<'a> for &'a str {
    fn read(value: &'a str, _: &'a ExtFields) -> Result<Option<&'a str>, &'static str> {
        Ok(Some(value))
    }

    fn write(&self, key: &'static str, fields: &mut ExtFields) {
        fields.push(key, self);
    }
}

macro_rules! integer_fields {
    ($($type:ty: $expected:literal,)*) => {$(
        impl FieldValue<'_> for $type {
            fn read(value: &str, _: &ExtFields) -> Result<Option<$type>, &'static str> {
                if value.is_empty() {
                    return Ok(None);
                }
                value.parse().map(Some).map_err(|_| $expected)
            }

            fn write(&self, key: &'static str, fields: &mut ExtFields) {
                fields.push_integer(key, i64::from(*self));
            }
        }
    )*};
}

integer_fields! {
    i32: "an integer of 32 bits",
    i64: "an integer of 64 bits",
}

impl FieldValue<'_> for bool {
    fn read(value: &str, _: &ExtFields) -> Result<Option<bool>, &'static str> {
        Ok(Some(value == "1" || value.eq_ignore_ascii_case("true")))
    }

    fn write(&self, key: &'static str, fields: &mut ExtFields) {
        fields.push_bool(key, *self);
    }
}

impl<'a, T: FieldValue<'a>> FieldValue<'a> for Option<T> {
    fn read(value: &'a str, fields: &'a ExtFields) -> Result<Option<Option<T>>, &'static str> {
        T::read(value, fields).map(Some)
    }

    fn write(&self, key: &'static str, fields: &mut ExtFields) {
        if let Some(value) = self {
            value.write(key, fields);
        }
    }

    fn missing() -> Option<Option<T>> {
        Some(None)
    }
}

fn read_field<'a, T: FieldValue<'a>>(
    field: &'static str,
    value: &'a str,
    fields: &'a ExtFields,
    target: &mut Option<T>,
) -> Result<(), HeaderError> {
    match T::read(value, fields) {
        Ok(read) => {
            *target = read;
            Ok(())
        }
        Err(expected) => Err(HeaderError::Invalid {
            field,
            value: value.chars().take(64).collect(),
            expected,
        }),
    }
}

/// Declares header families: `"wire name" | "other name" => field: Type = default`. The first name is the one written;
/// a field without default that is no `Option` is mandatory.
macro_rules! headers {
    ($($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? {
        $($(#[$field_doc:meta])* $key:literal $(| $other:literal)* => $field:ident: $type:ty $(= $default:expr)?,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name $(<$life>)? {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $(<$life>)? $name $(<$life>)? {
            pub fn read(fields: &$($life)? $crate::protocol::ExtFields) -> Result<Self, super::HeaderError> {
                $(let mut $field: Option<$type> = None;)*
                for (key, value) in fields.iter() {
                    match key {
                        $($key $(| $other)* => super::read_field($key, value, fields, &mut $field)?,)*
                        _ => {}
                    }
                }
                Ok($name {
                    $($field: match $field.or_else(<$type as super::FieldValue>::missing) {
                        Some(value) => value,
                        None => headers!(@missing $key $(, $default)?),
                    },)*
                })
            }

            /// Appends every field that has a value.
            pub fn write(&self, fields: &mut $crate::protocol::ExtFields) {
                $(super::FieldValue::write(&self.$field, $key, fields);)*
            }
        }
    )*};
    (@missing $key:literal) => { return Err(super::HeaderError::Missing { field: $key }) };
    (@missing $key:literal, $default:expr) => { $default };
}
use headers;

#[cfg(test)]
mod tests;
