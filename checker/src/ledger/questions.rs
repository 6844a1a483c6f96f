//! What properties ask of a ledger. Nothing here changes it.

use super::{Attempt, Ledger, Outcome, QueueInfo};
use crate::budget::{Claim, Grade};
use crate::history::{Flush, GroupConfig, Model, Order, Queue, Recorded, SendStatus};
use crate::names::{Id, NONE};
use crate::properties::{Law, Needs};

impl Ledger {
    pub(crate) fn text(&self, id: Id) -> &str {
        if id == NONE { "-" } else { self.texts.get(id) }
    }

    pub(crate) fn uid_name(&self, uid: Id) -> &str {
        if uid == NONE {
            "an unreadable message"
        } else {
            self.uids.get(uid)
        }
    }

    /// `topic@broker:3`
    pub(crate) fn queue_name(&self, queue: Id) -> String {
        let queue = self.queue_names.get(queue);
        format!("{}@{}:{}", queue.topic, queue.broker, queue.id)
    }

    pub(crate) fn queue_ids(&self) -> impl Iterator<Item = Id> + use<> {
        0..self.queue_names.len() as Id
    }

    pub(crate) fn queue_info(&self, queue: Id) -> &QueueInfo {
        &self.queues[queue as usize]
    }

    pub(crate) fn group(&self, group: Id) -> Option<&GroupConfig> {
        self.groups.get(&group)
    }

    /// Groups of the header in order of name.
    pub(crate) fn groups(&self) -> Vec<(Id, &GroupConfig)> {
        let mut groups: Vec<_> = self.groups.iter().map(|(&id, group)| (id, group)).collect();
        groups.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        groups
    }

    pub(crate) fn find_text(&self, text: &str) -> Option<Id> {
        self.texts.find(text)
    }

    pub(crate) fn is_orderly(&self, group: Id) -> bool {
        self.group(group).is_some_and(|group| group.order == Order::Orderly)
    }

    /// Offsets of a broadcasting group are its clients' own business; unknown groups are taken for clustering.
    pub(crate) fn is_clustering(&self, group: Id) -> bool {
        self.group(group).is_none_or(|group| group.model == Model::Clustering)
    }

    /// Has the broker declared that the slot holds nothing?
    pub(crate) fn is_gap(&self, queue: Id, offset: i64) -> bool {
        self.gaps.contains(&(queue, offset))
    }

    /// The same, of a broker's queue by name.
    pub(crate) fn is_declared(&self, broker: &str, topic: &str, id: i32, offset: i64) -> bool {
        let name = Queue {
            topic: topic.to_owned(),
            broker: broker.to_owned(),
            id,
        };
        self.queue_names
            .find(&name)
            .is_some_and(|queue| self.is_gap(queue, offset))
    }

    /// Does the group's subscription take a message with this tag?
    pub(crate) fn subscribes(&self, group: &GroupConfig, tag: Id) -> bool {
        match &group.tags {
            None => true,
            Some(tags) => tag != NONE && tags.iter().any(|wanted| wanted == self.text(tag)),
        }
    }

    /// Index of the session of this name that was opened last.
    pub(crate) fn open_session(&self, name: &str) -> Option<u32> {
        let name = self.texts.find(name)?;
        self.open_sessions.get(&name).copied()
    }

    pub(crate) fn is_recorded(&self, what: Recorded) -> bool {
        self.recorded.contains(&what)
    }

    /// What the history lacks for a law, in words.
    pub(crate) fn lacks(&self, law: &Law) -> Option<String> {
        let mut lacking: Vec<String> = law
            .needs
            .iter()
            .filter(|&&need| !self.is_recorded(need))
            .map(|&need| match serde_json::to_value(need) {
                Ok(serde_json::Value::String(name)) => name,
                _ => format!("{need:?}"),
            })
            .collect();
        let broadcasts = || self.groups.values().any(|group| group.model == Model::Broadcasting);
        if law.also == Some(Needs::BroadcastingGroup) && !broadcasts() {
            lacking.push("broadcasting group".to_owned());
        }
        (!lacking.is_empty()).then(|| lacking.join(", "))
    }

    /// What an acknowledged attempt promised.
    pub(crate) fn grade(&self, attempt: &Attempt) -> Grade {
        let flush = self.budget.flush(self.queue_info(attempt.queue).broker);
        let strong = attempt.outcome == Outcome::Ok(SendStatus::SendOk) && attempt.wait_store;
        if flush == Flush::Sync && strong {
            Grade::Sync
        } else {
            Grade::Async
        }
    }

    pub(crate) fn claim(&self, attempt: &Attempt) -> Claim {
        Claim {
            grade: self.grade(attempt),
            invoked: attempt.invoked,
            ended: attempt.ended,
            position: attempt.position,
        }
    }
}
