//! How one measurement of a comparison is taken: which server, at which load, with everything else at rest. Errors are reasons in a
//! row, so they are text.

use std::fs;
use std::time::{Duration, Instant};

use super::super::Shared;
use super::super::backlog::settle;
use super::super::floor::Mode;
use super::super::limits::sync_rate;
use super::super::producer::{self, Kind, Sending};
use super::super::pull::{self, Pulling, Walk};
use super::super::report::Measured;
use super::super::server::{Flush, Server};
use super::Comparison;
use super::figure::{Figure, counted_rate};
use super::table::{agree, median};

const TOPIC: &str = "BenchmarkTest";
const PULL_TOPIC: &str = "BenchmarkPull";
const QUEUES: u16 = 8;
/// Connections where many requests are in flight.
const CONNECTIONS: u16 = 4;
const IN_FLIGHT: u32 = 64;
/// How close three windows in a row must be for a server to count as warm.
const TOLERANCE: f64 = 0.05;
/// Messages that are pulled from memory.
const PULL_MESSAGES: u64 = 200_000;
/// A disk is calm when it syncs at this share of its best rate of this run. After gigabytes of writing some sync ten times slower for up to a
/// minute, which would be measured instead of a broker.
const CALM_SHARE: f64 = 0.6;
const CALM_PROBE: Duration = Duration::from_millis(300);
const CALM_PAUSE: Duration = Duration::from_secs(2);
/// How long a whole comparison waits for that.
pub(super) const CALM_WAIT_MAX: Duration = Duration::from_secs(120);

/// A figure, or why there is none.
pub(super) type Found<T> = Result<T, String>;
/// Apache RocketMQ, running but frozen, or why it is not.
pub(super) type StockServer = Found<Server>;

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Stock,
    Ours,
    Floor(Mode),
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Stock => "Apache RocketMQ",
            Who::Ours => "Orrery",
            Who::Floor(Mode::Echo) => "floor, echo",
            Who::Floor(Mode::Async) => "floor, async",
            Who::Floor(Mode::Sync) => "floor, sync",
        }
    }
}

/// What is sent.
#[derive(Clone, Copy)]
pub(super) struct Load {
    in_flight: u32,
    connections: u16,
    /// Messages a second; 0: as many as replies allow.
    rate: f64,
}

pub(super) const MANY: Load = Load {
    in_flight: IN_FLIGHT,
    connections: CONNECTIONS,
    rate: 0.0,
};
pub(super) const ONE: Load = Load {
    in_flight: 1,
    connections: 1,
    rate: 0.0,
};

impl Load {
    pub(super) fn at(self, rate: f64) -> Load {
        Load { rate, ..self }
    }
}

pub(super) fn reason<E>(error: E) -> String
where
    anyhow::Error: From<E>,
{
    format!("{:#}", anyhow::Error::from(error))
}

impl Comparison {
    /// Starts Apache RocketMQ and sends until three windows agree. It comes back frozen.
    pub(super) async fn warm(&mut self, flush: Flush) -> StockServer {
        self.in_time()?;
        let started = Instant::now();
        let mut server = self.stock.start(&self.dir.join("stock"), flush).map_err(reason)?;
        println!(
            "Apache RocketMQ, {}: started in {:.1} s",
            flush.property(),
            started.elapsed().as_secs_f64()
        );
        let mut windows = Vec::new();
        while !agree(&windows, TOLERANCE) && windows.len() < usize::from(self.course.windows_max) {
            self.in_time()?;
            let mut shared = self.shared(&server, MANY);
            (shared.warmup, shared.seconds) = (0.0, self.course.window);
            let sending = Sending::plain(self.course.message_size, MANY.in_flight, 0.0);
            let sent = producer::measure(&shared, &sending, Kind::Plain, &self.real, |_, _| {}).await;
            let rate = counted_rate(&sent.map_err(reason)?)?;
            println!("  warm-up: {rate:.0} messages/s");
            windows.push(rate);
        }
        if !agree(&windows, TOLERANCE) {
            println!("  three windows in a row did not agree within 5 %: it is taken as it is");
        }
        self.warm_up.push((flush.property().to_owned(), windows));
        server.freeze();
        Ok(server)
    }

    /// Ends Apache RocketMQ and removes its store.
    pub(super) fn end_stock(&self, stock: StockServer) {
        if let Ok(server) = stock
            && let Err(error) = server.stop()
        {
            println!("Apache RocketMQ: {error:#}");
        }
        self.clean("stock");
    }

    /// Throughput of each, by turns; the median of the rounds. A round that failed is a figure missing, not one to leave out.
    pub(super) async fn rates<const N: usize>(
        &mut self,
        whos: &[Who; N],
        load: Load,
        flush: Flush,
        stock: &mut StockServer,
    ) -> [Found<f64>; N] {
        let mut rates: [Found<Vec<f64>>; N] = std::array::from_fn(|_| Ok(Vec::new()));
        for _ in 0..self.course.rounds {
            for (who, rates) in whos.iter().zip(&mut rates) {
                let Ok(found) = rates else { continue };
                let measured = self.one(*who, load, flush, stock).await;
                match measured.and_then(|measured| counted_rate(&measured)) {
                    Ok(rate) => found.push(rate),
                    Err(reason) => *rates = Err(failure(*who, &reason)),
                }
            }
        }
        rates.map(|rates| rates.and_then(|rates| median(&rates)))
    }

    /// One measurement of one server; everything else rests.
    pub(super) async fn one(&mut self, who: Who, load: Load, flush: Flush, stock: &mut StockServer) -> Found<Measured> {
        self.in_time()?;
        let sync_rate_before = match flush {
            Flush::Async => None,
            Flush::Sync => Some(self.calm().await?),
        };
        let own = match who {
            Who::Stock => {
                stock.as_mut().map_err(|reason| reason.clone())?.thaw();
                None
            }
            Who::Ours => Some(Server::orrery(&self.dir.join("ours"), flush).map_err(reason)?),
            Who::Floor(mode) => Some(Server::floor(&self.dir, mode).map_err(reason)?),
        };
        let server = match &own {
            Some(server) => server,
            None => stock.as_ref().map_err(|reason| reason.clone())?,
        };
        let shared = self.shared(server, load);
        let sending = Sending::plain(self.course.message_size, load.in_flight, load.rate);
        let measured = producer::measure(&shared, &sending, Kind::Plain, &self.real, |_, _| {}).await;
        if let (None, Ok(stock)) = (&own, stock) {
            stock.freeze();
        }
        // Dropped, it is killed.
        drop(own);
        self.clean("ours");
        self.clean("floor");
        settle(&self.dir).map_err(reason)?;
        let measured = measured.map_err(reason)?;
        let pace = match load.rate {
            0.0 => String::new(),
            rate => format!(" at {rate:.0}/s"),
        };
        let work = format!("send, {} in flight, {}{pace}", load.in_flight, flush.property());
        self.note(Figure::of(who.name(), work, &measured, sync_rate_before));
        Ok(measured)
    }

    /// Pulls of messages that are in memory, 32 a reply: Apache RocketMQ's rate and ours.
    pub(super) async fn pull_rates(&mut self, stock: &mut StockServer) -> [Found<f64>; 2] {
        let mut ours = Server::orrery(&self.dir.join("ours"), Flush::Async).map_err(reason);
        let mut rates: [Found<Vec<f64>>; 2] = std::array::from_fn(|_| Ok(Vec::new()));
        let whos = [Who::Stock, Who::Ours];
        // Round 0 fills.
        for round in 0..=self.course.rounds {
            for (who, rates) in whos.iter().zip(&mut rates) {
                let Ok(found) = rates else { continue };
                let server = if *who == Who::Stock { &mut *stock } else { &mut ours };
                let done = match server {
                    Ok(server) => {
                        server.thaw();
                        let done = self.pull_or_fill(*who, server, round == 0).await;
                        server.freeze();
                        done
                    }
                    Err(reason) => Err(reason.clone()),
                };
                match done {
                    Ok(rate) => found.extend(rate),
                    Err(reason) => *rates = Err(failure(*who, &reason)),
                }
            }
        }
        drop(ours);
        self.clean("ours");
        rates.map(|rates| rates.and_then(|rates| median(&rates)))
    }

    async fn pull_or_fill(&mut self, who: Who, server: &Server, fill: bool) -> Found<Option<f64>> {
        self.in_time()?;
        let mut shared = self.shared(server, MANY);
        (shared.topic, shared.queues) = (PULL_TOPIC.to_owned(), CONNECTIONS);
        if fill {
            // The seconds are there so that a broker that refuses everything comes to an end.
            (shared.warmup, shared.seconds, shared.quantity) = (0.0, 60.0, PULL_MESSAGES);
            let sending = Sending::plain(self.course.message_size, IN_FLIGHT, 0.0);
            let filled = producer::measure(&shared, &sending, Kind::Plain, &self.real, |_, _| {}).await;
            counted_rate(&filled.map_err(reason)?)?;
            settle(&self.dir).map_err(reason)?;
            return Ok(None);
        }
        let pulling = Pulling::of_queue(None, Walk::All, 0.0);
        let measured = pull::measure(&shared, &pulling, &self.real, |_, _| {}).await;
        let measured = measured.map_err(reason)?;
        let work = format!("pull, cached, 32 a reply, {CONNECTIONS} readers");
        self.note(Figure::of(who.name(), work, &measured, None));
        counted_rate(&measured).map(Some)
    }

    fn shared(&self, server: &Server, load: Load) -> Shared {
        let mut shared = Shared::of_broker(server.address, TOPIC, QUEUES, load.connections, Some(server.pid()));
        shared.warmup = (self.course.seconds / 4.0).min(2.0);
        shared.seconds = self.course.seconds;
        shared
    }

    fn note(&mut self, figure: Figure) {
        println!("  {}", figure.cells().join("  "));
        self.figures.push(figure);
    }

    pub(super) fn in_time(&self) -> Found<()> {
        if Instant::now() < self.deadline {
            Ok(())
        } else {
            Err("out of time (--minutes)".to_owned())
        }
    }

    /// The disk itself, at this moment.
    pub(super) fn sync_rate(&mut self, when: &str) {
        let rate = settle(&self.dir)
            .and_then(|()| sync_rate(&self.dir, 4096, Duration::from_secs_f64(self.course.seconds.min(2.0))));
        match rate {
            Ok(rate) => {
                println!("fdatasync alone {when}: {rate:.0} /s");
                self.sync_rates.push((when.to_owned(), rate));
            }
            Err(error) => println!("fdatasync alone {when}: {error:#}"),
        }
    }

    /// Waits until the disk syncs as fast as it did, and says how fast that is.
    async fn calm(&mut self) -> Found<f64> {
        loop {
            let best = self.sync_rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
            let rate = sync_rate(&self.dir, 4096, CALM_PROBE).map_err(reason)?;
            if rate >= best * CALM_SHARE || self.calm_wait_left.is_zero() {
                return Ok(rate);
            }
            self.calm_wait_left = self.calm_wait_left.saturating_sub(CALM_PAUSE);
            tokio::time::sleep(CALM_PAUSE).await;
        }
    }

    pub(super) fn clean(&self, name: &str) {
        let path = self.dir.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => println!("{}: {error}", path.display()),
            _ => {}
        }
    }
}

fn failure(who: Who, reason: &str) -> String {
    format!("{}: {reason}", who.name())
}
