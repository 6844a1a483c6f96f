//! `orrery tail`: prints what arrives at a topic, as nobody's group: no offset is kept, no group's progress is touched.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use orrery_core::client::observer::PullOutcome;
use orrery_core::client::{Admin, Client, ClientConfig, Subscription};
use orrery_core::protocol::properties;
use orrery_core::runtime::{Runtime, TaskSet};
use orrery_core::types::MessageQueue;
use orrery_runtime_real::Real;

use super::Failure;
use super::listing::{self, Format};
use super::stop::Stop;

const PULL_COUNT_MAX: i32 = 32;
/// How long a broker holds a pull that finds nothing.
const HOLD: Duration = Duration::from_secs(10);
const ERROR_PAUSE: Duration = Duration::from_secs(1);
/// How often queues that are new are looked for.
const ROUTE_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(crate) struct Arguments {
    /// Name servers
    #[arg(short, long, default_value = "127.0.0.1:9876", value_name = "HOST:PORT;HOST:PORT")]
    namesrv: String,
    #[arg(short, long)]
    topic: String,
    /// Tags to print, as in `a || b`
    #[arg(long, default_value = "*", value_name = "EXPRESSION")]
    tag: String,
    /// Messages of each queue to begin with
    #[arg(long, default_value_t = 0, value_name = "MESSAGES")]
    last: u32,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) async fn run(arguments: Arguments, real: Real) -> Result<u8, Failure> {
    let mut stop = Stop::listen()?;
    let subscription = Subscription::tags(&arguments.topic, &arguments.tag).map_err(Failure::usage)?;
    let client = Client::start(&real, ClientConfig::new(&arguments.namesrv)).map_err(Failure::usage)?;
    let tail = Arc::new(Tail {
        admin: Admin::new(&client),
        subscription,
        format: arguments.format,
    });
    let followed = tokio::select! {
        () = stop.wait() => Ok(()),
        failed = follow_all(&tail, &real, &arguments) => failed,
    };
    client.shutdown().await;
    followed.map(|()| 0)
}

struct Tail {
    admin: Admin<Real>,
    subscription: Subscription,
    format: Format,
}

/// Follows every queue of the topic, those that come later from their beginning. Ends only with an error.
async fn follow_all(tail: &Arc<Tail>, real: &Real, arguments: &Arguments) -> Result<(), Failure> {
    let mut tasks = TaskSet::new();
    let mut known: BTreeSet<MessageQueue> = BTreeSet::new();
    let mut is_first = true;
    loop {
        match tail.admin.route(&arguments.topic).await {
            Ok(route) => {
                for queue in route.subscribe.iter().filter(|queue| !known.contains(*queue)) {
                    let bounds = tail.admin.bounds(queue).await.with_context(|| queue_name(queue))?;
                    let start = if is_first {
                        bounds.max - i64::from(arguments.last)
                    } else {
                        bounds.min
                    };
                    let following = Arc::clone(tail).follow(real.clone(), queue.clone(), start.max(bounds.min));
                    tasks.spawn(real, "tail", following);
                }
                known.extend(route.subscribe.iter().cloned());
                is_first = false;
            }
            Err(error) if is_first => return Err(Failure::operation(error).about(&arguments.topic)),
            Err(error) => log::warn!("{error}"),
        }
        real.sleep(ROUTE_INTERVAL).await;
    }
}

impl Tail {
    async fn follow(self: Arc<Tail>, real: Real, queue: MessageQueue, mut offset: i64) {
        loop {
            match self.admin.pull(&queue, offset, PULL_COUNT_MAX, HOLD).await {
                Ok(pulled) => {
                    offset = pulled.next_offset;
                    for message in &pulled.messages {
                        let tag = properties::get(&*message.properties, properties::TAGS);
                        if self.subscription.matches(tag)
                            && listing::message(self.format, &queue.broker_name, message).is_err()
                        {
                            return;
                        }
                    }
                    if pulled.outcome == PullOutcome::OffsetIllegal {
                        log::warn!("{}: continues at {offset}", queue_name(&queue));
                    }
                }
                Err(error) => {
                    log::warn!("{}: {error}", queue_name(&queue));
                    real.sleep(ERROR_PAUSE).await;
                }
            }
        }
    }
}

fn queue_name(queue: &MessageQueue) -> String {
    format!("{} {}/{}", queue.topic, queue.broker_name, queue.queue_id)
}
