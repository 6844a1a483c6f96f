//! Queue locks for orderly consumption: see `state::locks` for the rule that makes them safe over a restart.

use super::{Operations, Refusal};
use crate::broker::persist::Table;
use crate::broker::state::Change;
use crate::broker::state::locks::Verdict;
use crate::probe::Fact;
use crate::runtime::Runtime;

/// Queues that the client holds now, as indices into the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockOutcome {
    pub granted: Vec<usize>,
}

impl<R: Runtime> Operations<R> {
    /// Takes or renews the locks that may be had. A new owner is durable before it learns of it.
    pub async fn lock(&self, group: &str, client: &str, queues: &[(&str, i32)]) -> Result<LockOutcome, Refusal> {
        let mut granted = Vec::with_capacity(queues.len());
        let mut taken = Vec::new();
        {
            let mut tables = self.tables();
            let now = self.runtime.mono();
            for (index, &(topic, queue_id)) in queues.iter().enumerate() {
                let verdict = tables.locks.judge(now, group, topic, queue_id, client);
                if verdict == Verdict::Refuse {
                    continue;
                }
                if verdict == Verdict::Take {
                    taken.push((topic, queue_id));
                }
                let change = Change::Lock {
                    group,
                    topic,
                    queue_id,
                    client,
                    now,
                };
                self.apply(&mut tables, change);
                granted.push(index);
            }
        }
        if !granted.is_empty() {
            // A renewal may be of a lock whose first grant is still being saved.
            self.saver.durable(Table::Locks).await?;
        }
        for (topic, queue_id) in taken {
            self.runtime.announce(Fact::Locked {
                group,
                topic,
                queue_id,
                owner: client,
            });
        }
        Ok(LockOutcome { granted })
    }

    pub fn unlock(&self, group: &str, client: &str, queues: &[(&str, i32)]) {
        let mut tables = self.tables();
        for &(topic, queue_id) in queues {
            let owned = tables.locks.owner(self.runtime.mono(), group, topic, queue_id) == Some(client);
            let change = Change::Unlock {
                group,
                topic,
                queue_id,
                client,
            };
            self.apply(&mut tables, change);
            if owned {
                self.runtime.announce(Fact::Locked {
                    group,
                    topic,
                    queue_id,
                    owner: "",
                });
            }
        }
    }
}
