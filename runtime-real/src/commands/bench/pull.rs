//! `bench pull`: readers that walk queues as fast as replies allow; nothing is consumed, no offset is committed.
//!
//! A reader has one pull in flight. Readers share the queues, and a reader walks through its queues one after the other; at the end of
//! the last it begins again, so that a small set of messages measures reading from memory for as long as wanted. With `--once`
//! each reader stops there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use orrery_core::protocol::Command;
use orrery_core::protocol::code::{request, response};
use orrery_core::protocol::frame::{self, Limits, Outgoing};
use orrery_runtime_real::Real;

use super::connection::Connection;
use super::load::{self, LaneSpec, Taken, Work};
use super::reply::{Records, Reply};
use super::report::{self, Counts, Measured};
use super::run::{Run, conduct};
use super::target::{self, Purpose, Target};
use super::template::{OPAQUE_BASE, decimal};
use super::{Generator, Shared};

/// The subscription comes with the request; an empty queue answers at once.
const SYS_FLAG: &str = "4";
/// Place and width of a queue id and an offset in a request.
const QUEUE: &str = "77777";
const OFFSET: &str = "8888888888888";

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    shared: Shared,
    #[command(flatten)]
    pulling: Pulling,
}

/// Flags of everything that pulls.
#[derive(Args, Clone)]
pub(super) struct Pulling {
    #[arg(short, long, default_value = "benchmark_consumer")]
    group: String,
    /// Messages of one pull at most
    #[arg(short = 'b', long = "pull-count", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pull_count: u16,
    /// Readers of each connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    depth: u16,
    #[command(flatten)]
    generator: Generator,
    /// Only this queue
    #[arg(long, value_name = "QUEUE_ID")]
    queue: Option<u16>,
    /// Only the newest messages of each queue: begins that far from the end
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    newest: Option<u64>,
    /// Ends when every reader has been at the end of its queues
    #[arg(long)]
    once: bool,
}

/// Where readers walk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    /// The newest so many messages, again and again.
    Newest(u64),
    /// Everything, again and again.
    All,
    /// Everything, once.
    Once,
}

impl Pulling {
    /// 32 a pull, from one queue.
    pub(super) fn of_queue(queue: Option<u16>, walk: Walk, rate: f64) -> Pulling {
        Pulling {
            group: "benchmark_consumer".to_owned(),
            pull_count: 32,
            depth: 1,
            generator: Generator { threads: 1, rate },
            queue,
            newest: match walk {
                Walk::Newest(count) => Some(count),
                _ => None,
            },
            once: walk == Walk::Once,
        }
    }
}

pub(super) async fn run(arguments: Arguments, real: Real) -> anyhow::Result<bool> {
    let Arguments { shared, pulling } = &arguments;
    shared.check()?;
    let mut last = (0, 0);
    let measured = measure(shared, pulling, &real, |counts, window| {
        let now = (counts.messages, counts.bytes());
        println!("{}", line(counts, (now.0 - last.0, now.1 - last.1), window));
        last = now;
    })
    .await?;
    let (counts, used) = (&measured.counts, &measured.used);
    report::finish(
        "orrery bench pull",
        counts,
        used,
        shared.warmup(),
        shared.json.as_deref(),
    )?;
    Ok(counts.messages > 0 && counts.failed() == 0)
}

fn line(counts: &Counts, part: (u64, u64), window: Duration) -> String {
    let seconds = window.as_secs_f64().max(1e-9);
    format!(
        "Current Time: {} | Pull TPS: {:.0} | Pull MB/s: {:.1} | Max RT(ms): {} | Pull Failed: {}",
        report::time_text(load::wall_millis()),
        part.0 as f64 / seconds,
        part.1 as f64 / 1e6 / seconds,
        counts.latency_ms_max(),
        counts.failed()
    )
}

/// Pulls as told, and calls `report` every interval.
pub(super) async fn measure(
    shared: &Shared,
    pulling: &Pulling,
    real: &Real,
    report: impl FnMut(&Counts, Duration),
) -> anyhow::Result<Measured> {
    let targets = target::find(shared, real, Purpose::Read).await?;
    let mut stretches = Vec::new();
    for target in &targets {
        let queues = match pulling.queue {
            Some(queue) => queue..queue + 1,
            None => 0..target.queue_count,
        };
        for queue_id in queues {
            let mut stretch = Stretch::ask(real, target, &shared.topic, queue_id).await?;
            if let Some(newest) = pulling.newest {
                stretch.begin = stretch
                    .begin
                    .max(stretch.end.saturating_sub(i64::try_from(newest).unwrap_or(i64::MAX)));
            }
            if stretch.begin < stretch.end {
                stretches.push(stretch);
            }
        }
    }
    if stretches.is_empty() {
        bail!("topic {} is empty; send to it first", shared.topic);
    }
    let run = Arc::new(Run::new(shared));
    let lanes = lanes(shared, pulling, &stretches)?;
    let addresses: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
    let ended = load::start(lanes, &pulling.generator.shape(), &run)?;
    let used = conduct(&run, shared, real, &addresses, ended, report).await;
    Ok(Measured {
        counts: run.take_counts(),
        used,
    })
}

/// Connections and their readers. A connection leads to one broker; the readers at a broker share its queues.
fn lanes(shared: &Shared, pulling: &Pulling, stretches: &[Stretch]) -> anyhow::Result<Vec<LaneSpec<Pulls>>> {
    let mut brokers: Vec<(SocketAddr, Vec<Stretch>)> = Vec::new();
    for stretch in stretches {
        match brokers.iter_mut().find(|(address, _)| *address == stretch.address) {
            Some((_, same)) => same.push(stretch.clone()),
            None => brokers.push((stretch.address, vec![stretch.clone()])),
        }
    }
    let (depth, connections) = (usize::from(pulling.depth), usize::from(shared.connections));
    let lanes = (0..connections).map(|index| {
        let which = index % brokers.len();
        let (address, queues) = &brokers[which];
        let reader_count = (connections - which).div_ceil(brokers.len()) * depth;
        let readers = (0..depth).map(|slot| {
            let reader = index / brokers.len() * depth + slot;
            let mut own: Vec<Stretch> = queues.iter().skip(reader).step_by(reader_count).cloned().collect();
            if own.is_empty() {
                own.push(queues[reader % queues.len()].clone());
            }
            Reader::new(&shared.topic, pulling, own)
        });
        Ok(LaneSpec {
            address: *address,
            depth,
            work: Pulls {
                readers: readers.collect::<anyhow::Result<_>>()?,
                once: pulling.once,
            },
        })
    });
    lanes.collect()
}

/// The messages of one queue.
#[derive(Clone)]
pub(super) struct Stretch {
    address: SocketAddr,
    queue_id: u16,
    pub(super) begin: i64,
    pub(super) end: i64,
}

impl Stretch {
    pub(super) async fn ask(real: &Real, target: &Target, topic: &str, queue_id: u16) -> anyhow::Result<Stretch> {
        let mut connection = Connection::open(real, target.address).await?;
        let mut ends = [0; 2];
        for (end, code) in ends.iter_mut().zip([request::GET_MIN_OFFSET, request::GET_MAX_OFFSET]) {
            let command = Command::request(code)
                .with("topic", topic)
                .with("queueId", &queue_id.to_string());
            let reply = connection.call(real, &command).await?;
            if reply.code != response::SUCCESS {
                bail!(
                    "offset of queue {queue_id}: code {}: {}",
                    reply.code,
                    reply.remark_text()
                );
            }
            *end = offset(&reply, "offset")?;
        }
        Ok(Stretch {
            address: target.address,
            queue_id,
            begin: ends[0],
            end: ends[1],
        })
    }
}

pub(super) fn offset(reply: &Command, key: &str) -> anyhow::Result<i64> {
    let value = reply.ext.get(key).with_context(|| format!("the reply has no {key}"))?;
    value.parse().with_context(|| format!("{key}={value}"))
}

/// One pull in flight, that walks through one queue after the other.
struct Reader {
    frame: Vec<u8>,
    opaque_at: usize,
    queue_at: usize,
    offset_at: usize,
    stretches: Vec<Stretch>,
    current: usize,
    next: i64,
    at_end: bool,
}

impl Reader {
    fn new(topic: &str, pulling: &Pulling, stretches: Vec<Stretch>) -> anyhow::Result<Reader> {
        let mut command = Command::request(request::PULL_MESSAGE)
            .with("consumerGroup", &pulling.group)
            .with("topic", topic)
            .with("queueId", QUEUE)
            .with("queueOffset", OFFSET)
            .with("maxMsgNums", &pulling.pull_count.to_string())
            .with("sysFlag", SYS_FLAG)
            .with("commitOffset", "0")
            .with("suspendTimeoutMillis", "0")
            .with("subscription", "*")
            .with("expressionType", "TAG")
            .with("subVersion", "0");
        command.opaque = OPAQUE_BASE;
        let mut out = Outgoing::new(Limits::default());
        frame::encode(&command, Vec::new(), &mut out)?;
        let frame: Vec<u8> = out.take().iter().flatten().copied().collect();
        let place = |text: &str| frame.windows(text.len()).position(|window| window == text.as_bytes());
        let (queue, offset) = (
            format!("\"queueId\":\"{QUEUE}\""),
            format!("\"queueOffset\":\"{OFFSET}\""),
        );
        let value_at = |text: &str, value: &str| place(text).map(|at| at + text.len() - 1 - value.len());
        Ok(Reader {
            opaque_at: place(&OPAQUE_BASE.to_string()).context("an opaque")?,
            queue_at: value_at(&queue, QUEUE).context("a queue")?,
            offset_at: value_at(&offset, OFFSET).context("an offset")?,
            frame,
            next: stretches.first().context("a queue to read")?.begin,
            stretches,
            current: 0,
            at_end: false,
        })
    }

    fn compose(&self, opaque: i32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let frame = &mut out[start..];
        let queue_id = self.stretches[self.current].queue_id;
        decimal(opaque.unsigned_abs().into(), &mut frame[self.opaque_at..][..10]);
        decimal(queue_id.into(), &mut frame[self.queue_at..][..QUEUE.len()]);
        decimal(self.next.unsigned_abs(), &mut frame[self.offset_at..][..OFFSET.len()]);
    }

    /// Takes a reply: the records must begin at or behind the offset asked for.
    fn take(&mut self, reply: &Reply<'_>) -> anyhow::Result<Taken> {
        let (mut messages, mut bytes) = (0, 0);
        match reply.code {
            response::SUCCESS => {
                let records = Records::read(reply.body).context("the reply's records")?;
                if records.first_offset < self.next || records.last_offset < records.first_offset {
                    bail!(
                        "asked for offset {}, got {} to {}",
                        self.next,
                        records.first_offset,
                        records.last_offset
                    );
                }
                (messages, bytes) = (records.count, reply.body.len() as u64);
                self.next = records.last_offset + 1;
            }
            response::PULL_NOT_FOUND | response::PULL_RETRY_IMMEDIATELY | response::PULL_OFFSET_MOVED => {
                self.next = offset(&reply.command()?, "nextBeginOffset")?;
            }
            code => return Ok(Taken::Refused(code)),
        }
        if self.next >= self.stretches[self.current].end {
            self.current = (self.current + 1) % self.stretches.len();
            self.at_end |= self.current == 0;
            self.next = self.stretches[self.current].begin;
        }
        Ok(Taken::Done { messages, bytes })
    }
}

struct Pulls {
    readers: Vec<Reader>,
    once: bool,
}

impl Work for Pulls {
    fn messages_per_request(&self) -> u64 {
        0
    }

    fn compose(&mut self, slot: usize, opaque: i32, _wall_millis: i64, out: &mut Vec<u8>) {
        self.readers[slot].compose(opaque, out);
    }

    fn take(&mut self, slot: usize, reply: &Reply<'_>) -> anyhow::Result<Taken> {
        self.readers[slot].take(reply)
    }

    fn is_done(&self, slot: usize) -> bool {
        self.once && self.readers[slot].at_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    fn pulls(once: bool) -> Pulls {
        let stretch = |queue_id, begin, end| Stretch {
            address: ([127, 0, 0, 1], 1).into(),
            queue_id,
            begin,
            end,
        };
        let pulling = Pulling::of_queue(None, Walk::All, 0.0);
        let stretches = vec![stretch(3, 10, 13), stretch(1000, 5, 6)];
        Pulls {
            readers: vec![Reader::new("queueOffset", &pulling, stretches).unwrap()],
            once,
        }
    }

    fn reply(code: i32, first: i64, count: i64) -> Vec<u8> {
        let mut request = Command::request(11);
        request.opaque = OPAQUE_BASE;
        let body = (first..first + count).flat_map(|offset: i64| {
            let mut record = vec![0; 70];
            record[..4].copy_from_slice(&70_u32.to_be_bytes());
            record[20..28].copy_from_slice(&offset.to_be_bytes());
            record
        });
        let mut command = Command::success(&request)
            .with("nextBeginOffset", &(first + count).to_string())
            .with_body(body.collect::<Vec<u8>>());
        command.code = code;
        let mut out = Outgoing::new(Limits::default());
        frame::encode(&command, Vec::new(), &mut out).unwrap();
        out.take().iter().flatten().copied().collect()
    }

    /// Queue and offset of the next request.
    fn asked(pulls: &mut Pulls) -> String {
        let mut out = Vec::new();
        pulls.compose(0, OPAQUE_BASE + 7, 0, &mut out);
        let command = frame::decode(&mut BytesMut::from(&out[..]), &Limits::default())
            .unwrap()
            .unwrap();
        assert_eq!((command.code, command.opaque), (11, OPAQUE_BASE + 7));
        format!(
            "{} {}",
            command.ext.get("queueId").unwrap(),
            command.ext.get("queueOffset").unwrap()
        )
    }

    #[test]
    fn a_reader_walks_through_its_queues_and_begins_again() {
        let mut pulls = pulls(true);
        assert_eq!(asked(&mut pulls), "00003 0000000000010");
        let steps = [
            (10, 2, "00003 0000000000012"),
            (12, 1, "01000 0000000000005"),
            (5, 1, "00003 0000000000010"),
        ];
        for (first, count, next) in steps {
            assert!(!pulls.is_done(0));
            let taken = pulls.take(0, &Reply::read(&reply(0, first, count)).unwrap()).unwrap();
            assert!(matches!(taken, Taken::Done { messages, .. } if messages == count as u64));
            assert_eq!(asked(&mut pulls), next);
        }
        assert!(pulls.is_done(0));
    }

    #[test]
    fn records_before_the_offset_asked_for_are_an_error_and_gaps_are_stepped_over() {
        let mut pulls = pulls(false);
        assert!(pulls.take(0, &Reply::read(&reply(0, 9, 2)).unwrap()).is_err());
        let moved = pulls.take(0, &Reply::read(&reply(21, 11, 0)).unwrap()).unwrap();
        assert!(matches!(moved, Taken::Done { messages: 0, bytes: 0 }));
        assert_eq!(asked(&mut pulls), "00003 0000000000011");
        assert!(matches!(
            pulls.take(0, &Reply::read(&reply(1, 0, 0)).unwrap()).unwrap(),
            Taken::Refused(1)
        ));
    }

    #[test]
    fn readers_share_the_queues_of_their_broker_and_leave_none_out() {
        let queue = |port, queue_id| Stretch {
            address: ([127, 0, 0, 1], port).into(),
            queue_id,
            begin: 0,
            end: 1,
        };
        let mut stretches: Vec<Stretch> = (0..7).map(|queue_id| queue(1, queue_id)).collect();
        stretches.push(queue(2, 0));
        let mut pulling = Pulling::of_queue(None, Walk::Once, 0.0);
        pulling.depth = 2;
        let shared = Shared::of_broker(([127, 0, 0, 1], 1).into(), "T", 8, 3, None);
        let mut read = Vec::new();
        for lane in lanes(&shared, &pulling, &stretches).unwrap() {
            for reader in lane.work.readers {
                assert!(reader.stretches.iter().all(|stretch| stretch.address == lane.address));
                read.extend(
                    reader
                        .stretches
                        .iter()
                        .map(|stretch| (stretch.address.port(), stretch.queue_id)),
                );
            }
        }
        read.sort_unstable();
        // Two readers of the one queue of the second broker, every other queue once.
        let expected = [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 0), (2, 0)];
        assert_eq!(read, expected);
    }
}
