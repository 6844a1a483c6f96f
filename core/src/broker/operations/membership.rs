//! Clients come, stay and go: heartbeats, unregistration, lost connections, expiry; who is in a group.
//!
//! Sources: `ClientManageProcessor.java`, `ConsumerManager.java`.

use super::{ClientHandle, Operations, Refusal};
use crate::broker::state::clients::{ConnectionId, EXPIRY, Heartbeat};
use crate::broker::state::{Change, Effects};
use crate::runtime::{Mono, Runtime, site};

/// A member to be told that its group changed, so that it rebalances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub connection: ConnectionId,
    pub group: String,
}

/// What a heartbeat led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub notices: Vec<Notice>,
    /// The client must send its subscriptions in full.
    pub subscriptions_wanted: bool,
}

impl<R: Runtime> Operations<R> {
    /// Registers the client under its groups on this connection, creating groups and their retry topics. Groups that do
    /// not exist and may not be created are left out.
    pub async fn heartbeat(&self, client: ClientHandle, mut beat: Heartbeat) -> Result<Membership, Refusal> {
        let mut admitted = Vec::with_capacity(beat.consumers.len());
        for entry in beat.consumers.drain(..) {
            let Some(group) = self.group_or_create(&entry.group).await? else {
                continue;
            };
            if entry
                .subscriptions
                .as_ref()
                .is_none_or(|subscriptions| !subscriptions.is_empty())
            {
                self.retry_topic(&entry.group, group.retry_queue_nums).await?;
            }
            admitted.push(entry);
        }
        beat.consumers = admitted;
        let mut tables = self.tables();
        let change = Change::Heartbeat {
            connection: client.connection,
            beat: &beat,
            now: self.runtime.mono(),
        };
        let effects = self.apply(&mut tables, change);
        drop(tables);
        Ok(Membership {
            subscriptions_wanted: effects.subscriptions_wanted,
            notices: self.notices(effects),
        })
    }

    pub fn unregister(
        &self,
        client: ClientHandle,
        producer_group: Option<&str>,
        consumer_group: Option<&str>,
    ) -> Vec<Notice> {
        let effects = self.propose(Change::Unregister {
            connection: client.connection,
            producer_group,
            consumer_group,
        });
        self.notices(effects)
    }

    /// The connection is gone, and with it the memberships that it carried. Locks stay: they end by lease or unlock.
    pub fn disconnected(&self, connection: ConnectionId) -> Vec<Notice> {
        let mut tables = self.tables();
        if site(&self.runtime, "drop-lock-on-reconnect") {
            let client = tables.clients.client_id(connection).unwrap_or_default().to_owned();
            for (group, topic, queue_id) in tables.locks.held_by(&client) {
                let change = Change::Unlock {
                    group: &group,
                    topic: &topic,
                    queue_id,
                    client: &client,
                };
                self.apply(&mut tables, change);
            }
        }
        let effects = self.apply(&mut tables, Change::Disconnect { connection });
        if !tables.lineage.is_unbroken() {
            tables.lineage.forget(&connection_name(connection));
        }
        drop(tables);
        self.notices(effects)
    }

    /// Forgets clients without a heartbeat for [`EXPIRY`].
    pub fn expire_clients(&self) -> Vec<Notice> {
        let now = self.runtime.mono();
        let Some(oldest) = now.0.checked_sub(EXPIRY.as_nanos() as u64) else {
            return Vec::new();
        };
        let effects = self.propose(Change::Expire { oldest: Mono(oldest) });
        self.notices(effects)
    }

    fn notices(&self, effects: Effects) -> Vec<Notice> {
        if effects.changed_groups.is_empty() || !self.config.polling.notify_consumer_ids_changed {
            return Vec::new();
        }
        let tables = self.tables();
        let mut notices = Vec::new();
        for group in effects.changed_groups {
            let members = tables.members_to_notify(&group);
            notices.extend(members.into_iter().map(|connection| Notice {
                connection,
                group: group.clone(),
            }));
        }
        notices
    }

    /// Client ids of a group's members, sorted; empty if nobody is connected.
    pub fn consumer_ids(&self, group: &str) -> Vec<String> {
        let tables = self.tables();
        tables
            .clients
            .consumer_group(group)
            .map(|group| group.client_ids())
            .unwrap_or_default()
    }
}

/// How a connection is called while its client id is not known.
pub(super) fn connection_name(connection: ConnectionId) -> String {
    format!("#{connection}")
}
