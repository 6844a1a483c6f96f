//! `bench consumer`: one long-polling pull in flight per queue.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use orrery_core::protocol::Command;
use orrery_core::protocol::code::{request, response};
use orrery_core::runtime::{Runtime, TaskSet};
use orrery_runtime_real::Real;

use super::Shared;
use super::connection::Connection;
use super::reply::Records;
use super::report::{self, Age, Counts, Part};
use super::run::{Phase, Run, conduct};
use super::target::{self, Purpose, Target};
use super::template::OPAQUE_BASE;

const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
const ADD_INTERVAL: Duration = Duration::from_millis(100);
/// How long the broker may hold a pull without messages, in milliseconds.
const SUSPEND_MS: &str = "1000";
/// Long polling, and the subscription comes with the request.
const SYS_FLAG: &str = "6";

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    shared: Shared,
    #[arg(short, long, default_value = "benchmark_consumer")]
    group: String,
    /// Tags to subscribe to, as in `a || b`
    #[arg(long, default_value = "*", value_name = "EXPRESSION")]
    filter: String,
    /// Messages of one pull at most
    #[arg(short = 'b', long = "pull-count", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pull_count: u16,
    /// Where to begin. `first`: latency is that of a pull. `last`: latency is from the message's born time to its arrival, with the
    /// 1 ms grain of RocketMQ's timestamps
    #[arg(long, value_enum, default_value = "last")]
    from: From,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    First,
    Last,
}

pub(super) async fn run(arguments: Arguments, real: Real) -> anyhow::Result<bool> {
    let arguments = Arc::new(arguments);
    let shared = &arguments.shared;
    shared.check()?;
    let targets = target::find(shared, &real, Purpose::Read).await?;
    let addresses: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
    let run = Arc::new(Run::new(shared));
    let mut tasks = TaskSet::new();
    let lanes_per_target = (usize::from(shared.connections) / targets.len()).max(1);
    for target in targets {
        let lane_count = lanes_per_target.min(usize::from(target.queue_count));
        for index in 0..lane_count {
            let lane = Lane {
                arguments: Arc::clone(&arguments),
                target: target.clone(),
                queues: (0..target.queue_count)
                    .filter(|queue_id| usize::from(*queue_id) % lane_count == index)
                    .map(|queue_id| Queue {
                        queue_id,
                        next: None,
                        pulled: Instant::now(),
                    })
                    .collect(),
                measured: false,
                part: Part::default(),
            };
            tasks.spawn(&real, "bench consumer", lane.pull_all(real.clone(), Arc::clone(&run)));
        }
    }
    let mut last = (0, Age::default(), Age::default());
    let used = conduct(&run, shared, &real, &addresses, tasks.join(), |counts, window| {
        print_line(real.wall().0, counts, &last, window);
        last = (counts.messages, counts.born.clone(), counts.stored.clone());
    })
    .await;
    let counts = run.counts();
    report::finish(
        "orrery bench consumer",
        &counts,
        &used,
        shared.warmup(),
        shared.json.as_deref(),
    )?;
    Ok(counts.messages > 0 && counts.failed() == 0)
}

/// A line of the Java benchmark.
fn print_line(wall_millis: i64, counts: &Counts, last: &(u64, Age, Age), window: Duration) {
    println!(
        "Current Time: {} | Consume TPS: {:.0} | AVG(B2C) RT(ms): {:7.3} | AVG(S2C) RT(ms): {:7.3} | MAX(B2C) RT(ms): {} | \
         MAX(S2C) RT(ms): {} | Consume Fail: {}",
        report::time_text(wall_millis),
        (counts.messages - last.0) as f64 / window.as_secs_f64().max(1e-9),
        counts.born.mean_ms_since(&last.1),
        counts.stored.mean_ms_since(&last.2),
        counts.born.ms_max,
        counts.stored.ms_max,
        counts.failed()
    );
}

struct Queue {
    queue_id: u16,
    /// Offset of the next pull; `None` until asked for.
    next: Option<i64>,
    pulled: Instant,
}

/// One connection and the queues it reads. The opaque of a pull is the queue's index.
struct Lane {
    arguments: Arc<Arguments>,
    target: Target,
    queues: Vec<Queue>,
    measured: bool,
    part: Part,
}

impl Lane {
    async fn pull_all(mut self, real: Real, run: Arc<Run>) {
        while let Err(error) = self.drive(&real, &run).await {
            run.add(&mut self.part);
            log::warn!("{}: {error:#}", self.target.address);
            if run.phase() == Phase::Ending {
                break;
            }
            real.sleep(RECONNECT_PAUSE).await;
        }
        run.add(&mut self.part);
    }

    async fn drive(&mut self, real: &Real, run: &Run) -> anyhow::Result<()> {
        let mut connection = Connection::open(real, self.target.address).await?;
        for index in 0..self.queues.len() {
            self.find_offset(&mut connection, real, index).await?;
        }
        for index in 0..self.queues.len() {
            self.pull(&mut connection, index).await?;
        }
        let mut added = Instant::now();
        while let Some(received) = run.until_ending(connection.receive()).await {
            received?;
            if !self.measured && run.phase() >= Phase::Measured {
                self.measured = true;
                self.part.clear();
            }
            let (now, wall_millis) = (Instant::now(), real.wall().0);
            while let Some(reply) = connection.received()? {
                let index = usize::try_from(reply.opaque.wrapping_sub(OPAQUE_BASE)).ok();
                let Some(index) = index.filter(|index| reply.is_reply() && *index < self.queues.len()) else {
                    continue;
                };
                let found = self.take_reply(&reply, index, now, wall_millis)?;
                let counted = if self.measured { run.take(found) } else { found };
                self.part.messages += counted;
                if run.is_spent() {
                    run.end();
                    return Ok(());
                }
                self.pull(&mut connection, index).await?;
            }
            if self.part.is_large() || now - added > ADD_INTERVAL {
                run.add(&mut self.part);
                added = now;
            }
        }
        Ok(())
    }

    async fn find_offset(&mut self, connection: &mut Connection, real: &Real, index: usize) -> anyhow::Result<()> {
        if self.queues[index].next.is_some() {
            return Ok(());
        }
        let code = match self.arguments.from {
            From::First => request::GET_MIN_OFFSET,
            From::Last => request::GET_MAX_OFFSET,
        };
        let command = Command::request(code)
            .with("topic", &self.arguments.shared.topic)
            .with("queueId", &self.queues[index].queue_id.to_string());
        let reply = connection.call(real, &command).await?;
        if reply.code != response::SUCCESS {
            bail!(
                "offset of queue {}: code {}: {}",
                self.queues[index].queue_id,
                reply.code,
                reply.remark_text()
            );
        }
        self.queues[index].next = Some(number(&reply, "offset")?);
        Ok(())
    }

    async fn pull(&mut self, connection: &mut Connection, index: usize) -> anyhow::Result<()> {
        let queue = &mut self.queues[index];
        queue.pulled = Instant::now();
        let mut command = Command::request(request::PULL_MESSAGE)
            .with("consumerGroup", &self.arguments.group)
            .with("topic", &self.arguments.shared.topic)
            .with("queueId", &queue.queue_id.to_string())
            .with("queueOffset", &queue.next.unwrap_or(0).to_string())
            .with("maxMsgNums", &self.arguments.pull_count.to_string())
            .with("sysFlag", SYS_FLAG)
            .with("commitOffset", "0")
            .with("suspendTimeoutMillis", SUSPEND_MS)
            .with("subscription", &self.arguments.filter)
            .with("expressionType", "TAG")
            .with("subVersion", "0");
        command.opaque = OPAQUE_BASE + i32::try_from(index).context("too many queues")?;
        connection.send_command(&command).await
    }

    /// Moves the queue's offset; says how many messages were found.
    fn take_reply(&mut self, reply: &Command, index: usize, now: Instant, wall_millis: i64) -> anyhow::Result<u64> {
        let queue = &mut self.queues[index];
        self.part.requests += 1;
        match reply.code {
            response::SUCCESS
            | response::PULL_NOT_FOUND
            | response::PULL_RETRY_IMMEDIATELY
            | response::PULL_OFFSET_MOVED => {
                queue.next = Some(number(reply, "nextBeginOffset")?);
            }
            code => {
                *self.part.refused.entry(code).or_default() += 1;
                bail!("pull of queue {}: code {code}: {}", queue.queue_id, reply.remark_text());
            }
        }
        if reply.code != response::SUCCESS {
            return Ok(0);
        }
        let found = Records::read(&reply.body).context("the reply's records")?;
        let (born_ms, stored_ms) = (wall_millis - found.born_millis, wall_millis - found.store_millis);
        self.part.born.add(born_ms);
        self.part.stored.add(stored_ms);
        match self.arguments.from {
            From::First => self.part.latency(now - queue.pulled),
            From::Last => self
                .part
                .latency(Duration::from_millis(u64::try_from(born_ms).unwrap_or(0))),
        }
        self.part.bytes += reply.body.len() as u64;
        Ok(found.count)
    }
}

fn number(reply: &Command, key: &str) -> anyhow::Result<i64> {
    let value = reply.ext.get(key).with_context(|| format!("the reply has no {key}"))?;
    value.parse().with_context(|| format!("{key}={value}"))
}
