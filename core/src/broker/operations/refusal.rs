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
    /// The store could not make room: nothing was stored.
    NoRoom,
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
            AppendError::PageCacheBusy { busy_ms, .. } => {
                let remark = format!(
                    "[PCBUSY_CLEAN_QUEUE]broker busy, start flow control for a while, period in queue: {busy_ms}ms, size of queue: 0: {error}"
                );
                return Refusal::new(Reason::Busy, remark);
            }
            AppendError::NoFile(_) => {
                let remark = format!("create mapped file failed, server is busy or broken: {error}");
                return Refusal::new(Reason::NoRoom, remark);
            }
            AppendError::Draft(_) | AppendError::TooLarge { .. } => Reason::IllegalMessage,
            AppendError::Busy { .. } | AppendError::NotReady | AppendError::Deleting(_) => Reason::Busy,
            AppendError::DiskFull { .. } | AppendError::DiskSpaceLow { .. } | AppendError::Store(_) => {
                Reason::Unavailable
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::handlers::code_of;
    use crate::protocol::code::response;

    #[test]
    fn each_cause_has_rocketmqs_code_and_is_told_with_the_key_that_sets_it() {
        let cases = [
            (
                AppendError::PageCacheBusy {
                    busy_ms: 1200,
                    limit_ms: 1000,
                },
                response::SYSTEM_BUSY,
                "[PCBUSY_CLEAN_QUEUE]broker busy",
                "osPageCacheBusyTimeOutMills",
            ),
            (
                AppendError::Busy { pending: 2, limit: 1 },
                response::SYSTEM_BUSY,
                "",
                "2 bytes wait to be written",
            ),
            (
                AppendError::DiskFull {
                    used_percent: 91,
                    limit_percent: 90,
                },
                response::SERVICE_NOT_AVAILABLE,
                "",
                "diskSpaceWarningLevelRatio",
            ),
            (
                AppendError::DiskSpaceLow {
                    free_bytes: 1,
                    limit_bytes: 2,
                },
                response::SERVICE_NOT_AVAILABLE,
                "",
                "diskSpaceFreeBytesMin",
            ),
            (
                AppendError::NoFile("no space left".into()),
                response::SYSTEM_ERROR,
                "create mapped file failed, server is busy or broken",
                "no space left",
            ),
            (
                AppendError::Store(StoreError::Poisoned("EIO".into())),
                response::SERVICE_NOT_AVAILABLE,
                "",
                "until the broker is started again",
            ),
        ];
        for (error, code, start, cause) in cases {
            let refusal = Refusal::from(error);
            assert_eq!(code_of(refusal.reason), code, "{refusal}");
            assert!(refusal.remark.starts_with(start), "{refusal}");
            assert!(refusal.remark.contains(cause), "{refusal}");
        }
        let unknown = Refusal::store_failed(&StoreError::Poisoned("EIO".into()));
        assert_eq!(code_of(unknown.reason), response::SYSTEM_ERROR, "it may be stored");
    }
}
