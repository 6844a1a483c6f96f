//! Why an operation was not carried out. Nothing has changed unless the reason is [`Reason::Failed`].

use super::super::persist::SaveError;
use crate::store::{AppendError, StoreError};

/// What kind of no; each protocol has its own number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    InvalidParameter,
    /// A message that must not be sent again as it is.
    IllegalMessage,
    NoPermission,
    TopicMissing,
    GroupMissing,
    SubscriptionMissing,
    SubscriptionOutdated,
    SubscriptionUnparsable,
    NotFound,
    /// Too much is waiting: try again.
    Busy,
    /// The store takes nothing more: try another broker.
    Unavailable,
    /// The consumers asked about are not connected.
    ConsumerOffline,
    /// It may have been carried out or not.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{remark}")]
pub struct Refusal {
    pub reason: Reason,
    pub remark: String,
}

impl Refusal {
    pub fn new(reason: Reason, remark: impl Into<String>) -> Refusal {
        Refusal {
            reason,
            remark: remark.into(),
        }
    }

    pub(crate) fn topic_missing(topic: &str) -> Refusal {
        const FAQ: &str = "See https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details.";
        Refusal::new(
            Reason::TopicMissing,
            format!("topic[{topic}] not exist, apply first please! \n{FAQ}"),
        )
    }

    pub(crate) fn batch_queues(topic: &str) -> Refusal {
        Refusal::new(
            Reason::NoPermission,
            format!("topic[{topic}] has batch queues (queue.type=BatchCQ), which this broker keeps but does not serve"),
        )
    }

    pub(crate) fn group_missing(group: &str) -> Refusal {
        Refusal::new(Reason::GroupMissing, format!("subscription group not exist, {group}"))
    }

    /// From now on whether the message is stored is unknown.
    pub(crate) fn store_failed(error: &StoreError) -> Refusal {
        Refusal::new(Reason::Failed, format!("store: {error}"))
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Refusal {
        let reason = match &error {
            AppendError::Draft(_) | AppendError::TooLarge { .. } => Reason::IllegalMessage,
            AppendError::Busy { .. } | AppendError::NotReady => Reason::Busy,
            AppendError::DiskFull { .. } | AppendError::Store(_) => Reason::Unavailable,
            AppendError::Empty | AppendError::Position { .. } | AppendError::Records(_) => Reason::IllegalMessage,
        };
        Refusal::new(reason, format!("store: {error}"))
    }
}

impl From<SaveError> for Refusal {
    fn from(error: SaveError) -> Refusal {
        Refusal::new(Reason::Failed, error.to_string())
    }
}
