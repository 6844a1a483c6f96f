//! What a group wants of a topic: the parsed tag expression. SQL92 expressions are named, not evaluated.

use crate::protocol::message::java_hash;

/// Tags one expression may name; the rest is refused as unparsable. Far above what clients write by hand.
pub const TAG_COUNT_MAX: usize = 1024;

/// One topic of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub topic: String,
    /// The expression as the client wrote it.
    pub expression: String,
    /// `TAG` or `SQL92`.
    pub expression_type: String,
    pub version: i64,
    pub class_filter_mode: bool,
    pub tags: Vec<String>,
}

/// An expression that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    #[error("subString split error")]
    NoTags,
    #[error("more than {TAG_COUNT_MAX} tags")]
    TooManyTags,
}

impl Subscription {
    /// A tag subscription; an expression that does not parse matches nothing that has a tag.
    pub fn tags(topic: &str, expression: &str, version: i64) -> Subscription {
        Subscription {
            topic: topic.to_owned(),
            expression: expression.to_owned(),
            expression_type: "TAG".to_owned(),
            version,
            class_filter_mode: false,
            tags: parse_tags(expression).unwrap_or_default().unwrap_or_default(),
        }
    }

    pub fn is_tag(&self) -> bool {
        is_tag_type(Some(&self.expression_type))
    }

    /// Hashes of the tags, recomputed here since some clients send none or wrong ones.
    pub fn codes(&self) -> Vec<i32> {
        self.tags.iter().map(|tag| java_hash(tag)).collect()
    }

    pub fn matches_all(&self) -> bool {
        self.tags.is_empty() && is_all(&self.expression)
    }
}

/// True for the expression type `TAG`, which is also what no type means (`ExpressionType.java`, `isTagType`).
pub fn is_tag_type(expression_type: Option<&str>) -> bool {
    expression_type.is_none_or(|kind| kind.is_empty() || kind == "TAG")
}

fn is_all(expression: &str) -> bool {
    matches!(expression.trim(), "" | "*")
}

/// The tags of `a || b`; `None` for `*` and for nothing (`FilterAPI.java`, `buildSubscriptionData`).
pub fn parse_tags(expression: &str) -> Result<Option<Vec<String>>, ExpressionError> {
    if is_all(expression) {
        return Ok(None);
    }
    let parts = expression.split("||").map(str::trim).filter(|tag| !tag.is_empty());
    let tags: Vec<String> = parts.take(TAG_COUNT_MAX + 1).map(str::to_owned).collect();
    match tags.len() {
        0 => Err(ExpressionError::NoTags),
        count if count > TAG_COUNT_MAX => Err(ExpressionError::TooManyTags),
        _ => Ok(Some(tags)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_split_at_double_bars() {
        assert_eq!(parse_tags("*"), Ok(None));
        assert_eq!(parse_tags(""), Ok(None));
        assert_eq!(parse_tags(" A || B||"), Ok(Some(vec!["A".to_owned(), "B".to_owned()])));
        assert_eq!(parse_tags("||"), Err(ExpressionError::NoTags));
        let many = vec!["x"; TAG_COUNT_MAX + 1].join("||");
        assert_eq!(parse_tags(&many), Err(ExpressionError::TooManyTags));
    }

    #[test]
    fn codes_are_java_hashes() {
        assert_eq!(
            Subscription::tags("T", "TagA || TagZ", 1).codes(),
            [2_598_919, 2_598_944]
        );
    }
}
