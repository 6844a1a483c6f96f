//! Offsets: those that groups commit, and the bounds of queues.
//!
//! A commit is believed with three limits. It never passes the queue's end. After an unclean start it never passes what
//! the client can have read in this life of the log (`state::lineage`). And it goes back only when the connection that
//! committed last sends it, or when nobody of the group is connected: a former owner of a queue, back from a partition,
//! must not undo what the present owner has committed. A commit that rides on a pull never goes back.
//!
//! Sources: `ConsumerManageProcessor.java`, `AdminBrokerProcessor.java`.

use super::membership::connection_name;
use super::{ClientHandle, Operations, Reason, Refusal};
use crate::broker::state::lineage::Position;
use crate::broker::state::{Change, Tables};
use crate::runtime::{Runtime, WallMillis};
use crate::store::{Boundary, Bounds};

#[derive(Clone, Copy, Debug)]
pub struct CommitRequest<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    pub queue_id: i32,
    pub offset: i64,
}

/// The way a commit came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Alone,
    WithPull,
}

/// Whether a committed position was believed. One that was set back is answered with an error: the client must not take
/// it for stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belief {
    Whole,
    SetBack,
}

/// Which offset of a queue is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Searched {
    Min,
    Max,
    ByTime(WallMillis, Boundary),
}

impl<R: Runtime> Operations<R> {
    pub fn commit_offset(&self, client: ClientHandle, request: &CommitRequest<'_>) -> Result<(), Refusal> {
        let mut tables = self.tables();
        if tables.groups.get(request.group).is_none() {
            return Err(Refusal::group_missing(request.group));
        }
        if tables.topics.get(request.topic).is_none() {
            return Err(Refusal::topic_missing(request.topic));
        }
        match self.commit(&mut tables, client, request, Channel::Alone) {
            Belief::Whole => Ok(()),
            Belief::SetBack => Err(Refusal::new(
                Reason::Failed,
                format!(
                    "offset {} was not read in this life of the log, pull first",
                    request.offset
                ),
            )),
        }
    }

    /// Commits what may be believed of the request.
    pub(super) fn commit(
        &self,
        tables: &mut Tables,
        client: ClientHandle,
        request: &CommitRequest<'_>,
        channel: Channel,
    ) -> Belief {
        let CommitRequest {
            group, topic, queue_id, ..
        } = *request;
        if request.offset < 0 || queue_id < 0 {
            return Belief::Whole;
        }
        let mut belief = Belief::Whole;
        let committed = tables.offsets.get(group, topic, queue_id);
        let end = self.queue_bounds(topic, queue_id).max;
        let mut offset = request.offset.min(end);
        let position = Position {
            group,
            topic,
            queue_id,
            offset,
        };
        if let Err(floor) = judge_position(tables, client, position, committed) {
            offset = floor.min(end);
            belief = Belief::SetBack;
        }
        if let Some(committed) = committed {
            let is_committer = tables.offsets.committer(group, topic, queue_id) == Some(client.connection);
            let may_go_back =
                channel == Channel::Alone && (is_committer || tables.clients.consumer_group(group).is_none());
            if offset < committed && !may_go_back {
                return belief;
            }
        }
        let change = Change::CommitOffset {
            group,
            topic,
            queue_id,
            offset,
            by: Some(client.connection),
        };
        self.apply(tables, change);
        belief
    }

    /// The committed offset. Without one, `Some(0)` for a queue that still has its first message, so that a new group on a
    /// young topic starts there, unless `zero_if_none` forbids it.
    pub fn committed_offset(&self, group: &str, topic: &str, queue_id: i32, zero_if_none: bool) -> Option<i64> {
        let committed = self.tables().offsets.get(group, topic, queue_id);
        let bounds = self.queue_bounds(topic, queue_id);
        committed.or((zero_if_none && bounds.min == 0 && bounds.max > 0).then_some(0))
    }

    /// First and next offset of a queue; zeros for one that never held a message.
    pub fn queue_bounds(&self, topic: &str, queue_id: i32) -> Bounds {
        self.store.bounds(topic, queue_id).unwrap_or_default()
    }

    pub async fn search_offset(
        &self,
        client: ClientHandle,
        topic: &str,
        queue_id: i32,
        searched: Searched,
    ) -> Result<i64, Refusal> {
        let offset = match searched {
            Searched::Min => self.queue_bounds(topic, queue_id).min,
            Searched::Max => self.queue_bounds(topic, queue_id).max,
            Searched::ByTime(time, boundary) => {
                let found = self.store.offset_by_time(topic, queue_id, time, boundary).await;
                found.map_err(|error| Refusal::store_failed(&error))?
            }
        };
        let mut tables = self.tables();
        if !tables.lineage.is_unbroken() {
            let name = reader_name(&tables, client);
            tables.lineage.looked_up(&name, topic, queue_id, offset);
        }
        Ok(offset)
    }

    /// When the queue's first message was stored.
    pub async fn earliest_store_time(&self, topic: &str, queue_id: i32) -> Result<Option<WallMillis>, Refusal> {
        let first = self.queue_bounds(topic, queue_id).min;
        let found = self.store.store_time(topic, queue_id, first).await;
        found.map_err(|error| Refusal::store_failed(&error))
    }
}

/// The name under which a client's positions are remembered.
pub(super) fn reader_name(tables: &Tables, client: ClientHandle) -> String {
    let id = tables.clients.client_id(client.connection);
    id.map_or_else(|| connection_name(client.connection), str::to_owned)
}

/// `Ok` if the client can have been led to this position, else where to set it back to.
pub(super) fn judge_position(
    tables: &Tables,
    client: ClientHandle,
    position: Position<'_>,
    committed: Option<i64>,
) -> Result<(), i64> {
    if tables.lineage.is_unbroken() {
        return Ok(());
    }
    let connection = connection_name(client.connection);
    match tables.clients.client_id(client.connection) {
        Some(id) => tables.lineage.judge(&[id, &connection], position, committed),
        None => tables.lineage.judge(&[&connection], position, committed),
    }
}
