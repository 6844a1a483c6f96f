//! Reading what clients write for numbers, booleans and enums: numbers as texts, booleans as `0` and `1`, enums by ordinal.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// An integer, bare, in quotes or null (then the default).
pub(super) fn integer<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64> + Default,
{
    struct Integer<T>(PhantomData<T>);

    impl<T: TryFrom<i64> + Default> Integer<T> {
        fn convert<E: Error>(value: i64) -> Result<T, E> {
            T::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), &"an integer in range"))
        }
    }

    impl<T: TryFrom<i64> + Default> Visitor<'_> for Integer<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an integer")
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
            Self::convert(value)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
            i64::try_from(value)
                .map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
                .and_then(Self::convert)
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
            // Whole numbers that a script wrote as floats; 2^53 is where they stop being exact.
            if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 {
                return Self::convert(value as i64);
            }
            Err(E::invalid_value(Unexpected::Float(value), &self))
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
            Self::convert(i64::from(value))
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
            if value.is_empty() {
                return Ok(T::default());
            }
            value
                .parse()
                .map_err(|_| E::invalid_value(Unexpected::Str(value), &self))
                .and_then(Self::convert)
        }

        fn visit_unit<E: Error>(self) -> Result<T, E> {
            Ok(T::default())
        }
    }
    deserializer.deserialize_any(Integer(PhantomData))
}

/// A set of integers, each as in [`integer`].
pub(super) fn integer_set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<i32>, D::Error> {
    #[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
    #[serde(transparent)]
    struct Element(#[serde(deserialize_with = "integer")] i32);

    let elements = BTreeSet::<Element>::deserialize(deserializer)?;
    Ok(elements.into_iter().map(|element| element.0).collect())
}

/// A boolean: `true`, `"true"`, `1`, `"1"` and their opposites.
pub(super) fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Boolean;

    impl Visitor<'_> for Boolean {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a boolean")
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
            Ok(value != 0)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
            Ok(value != 0)
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<bool, E> {
            Ok(value == "1" || value.eq_ignore_ascii_case("true"))
        }

        fn visit_unit<E: Error>(self) -> Result<bool, E> {
            Ok(false)
        }
    }
    deserializer.deserialize_any(Boolean)
}

/// An enum by name or by ordinal; `variants` in the order of the Java enum. Anything else gives the default.
pub(super) fn variant<'de, D, T>(deserializer: D, variants: &'static [(&'static str, T)]) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Copy + Default + 'static,
{
    struct Variant<T: 'static>(&'static [(&'static str, T)]);

    impl<'de, T: Copy + Default> Visitor<'de> for Variant<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a name or an ordinal")
        }

        fn visit_str<E: Error>(self, name: &str) -> Result<T, E> {
            let found = self.0.iter().find(|entry| entry.0 == name);
            let found = found.or_else(|| name.parse::<usize>().ok().and_then(|ordinal| self.0.get(ordinal)));
            Ok(found.map_or_else(T::default, |entry| entry.1))
        }

        fn visit_u64<E: Error>(self, ordinal: u64) -> Result<T, E> {
            let found = usize::try_from(ordinal).ok().and_then(|ordinal| self.0.get(ordinal));
            Ok(found.map_or_else(T::default, |entry| entry.1))
        }

        fn visit_i64<E: Error>(self, _: i64) -> Result<T, E> {
            Ok(T::default())
        }

        fn visit_unit<E: Error>(self) -> Result<T, E> {
            Ok(T::default())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<T, A::Error> {
            while elements.next_element::<IgnoredAny>()?.is_some() {}
            Ok(T::default())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<T, A::Error> {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(T::default())
        }
    }
    deserializer.deserialize_any(Variant(variants))
}
