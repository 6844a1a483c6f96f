//! What a consumer wants of a topic: a tag expression.
//!
//! The broker filters by the hash of the tag, so a stranger with an equal hash can pass; the consumer compares the text
//! again. (FilterAPI.java, SubscriptionData.java)

use std::collections::BTreeSet;

use crate::protocol::message::java_hash;

/// Tag expressions longer than this are refused, so that a pull request stays small. Bytes.
pub const EXPRESSION_SIZE_MAX: usize = 4096;

/// A subscription that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    #[error("tag expression of {size_bytes} bytes exceeds {EXPRESSION_SIZE_MAX}")]
    TooLong { size_bytes: usize },
    #[error("tag expression `{0}` holds no tag")]
    NoTag(String),
}

/// One topic and the tags wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub topic: String,
    /// `*`, or tags joined by `||`.
    pub expression: String,
    /// Empty for "all".
    pub tags: BTreeSet<String>,
}

impl Subscription {
    /// Every message of the topic.
    pub fn all(topic: impl Into<String>) -> Subscription {
        Subscription {
            topic: topic.into(),
            expression: "*".into(),
            tags: BTreeSet::new(),
        }
    }

    /// `*` or the empty text mean all; else tags separated by `||`, blanks around them ignored.
    pub fn tags(topic: impl Into<String>, expression: &str) -> Result<Subscription, SubscriptionError> {
        let trimmed = expression.trim();
        if trimmed.len() > EXPRESSION_SIZE_MAX {
            return Err(SubscriptionError::TooLong {
                size_bytes: trimmed.len(),
            });
        }
        if trimmed.is_empty() || trimmed == "*" {
            return Ok(Subscription::all(topic));
        }
        let tags: BTreeSet<String> = trimmed
            .split("||")
            .map(str::trim)
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect();
        if tags.is_empty() {
            return Err(SubscriptionError::NoTag(expression.to_owned()));
        }
        Ok(Subscription {
            topic: topic.into(),
            expression: trimmed.to_owned(),
            tags,
        })
    }

    /// Whether a message of that tag is wanted. A message without a tag is wanted only by "all".
    pub fn matches(&self, tag: Option<&str>) -> bool {
        self.tags.is_empty() || tag.is_some_and(|tag| self.tags.contains(tag))
    }

    /// Java hash codes of the tags, as a heartbeat carries them.
    pub fn codes(&self) -> Vec<i32> {
        self.tags.iter().map(|tag| java_hash(tag)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn star_and_nothing_mean_all() {
        for expression in ["*", "", "  "] {
            let all = Subscription::tags("T", expression).unwrap();
            assert_eq!(all.expression, "*");
            assert!(all.matches(None));
            assert!(all.matches(Some("x")));
        }
    }

    #[test]
    fn tags_are_split_and_trimmed() {
        let some = Subscription::tags("T", " a || b|| ||").unwrap();
        assert!(some.tags.iter().eq(["a", "b"]));
        assert!(some.matches(Some("b")));
        assert!(!some.matches(Some("c")));
        assert!(!some.matches(None));
    }

    #[test]
    fn equal_hashes_are_told_apart_by_text() {
        assert_eq!(java_hash("Aa"), java_hash("BB"));
        let some = Subscription::tags("T", "Aa").unwrap();
        assert!(!some.matches(Some("BB")));
    }

    #[test]
    fn an_expression_of_bars_is_refused() {
        assert!(matches!(
            Subscription::tags("T", "|| ||"),
            Err(SubscriptionError::NoTag(_))
        ));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(expression: String) {
            let _ = Subscription::tags("T", &expression);
        }
    }
}
