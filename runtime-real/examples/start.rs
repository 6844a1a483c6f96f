//! How long a start takes: fills a store, opens it after a stop in order, and after a process that died in the middle of traffic.
//!
//! `cargo run --release -p orrery-runtime-real --example start -- DIR [GIGABYTES=10] [QUEUES=1]`
//!
//! Records have 1 KiB. Each life is a process of its own; the killed one writes for 15 s (past a checkpoint or two), 4 GiB at
//! most, and aborts. The page cache is as the lives before have left it. DIR is made, filled, and left for a second look; a store
//! that is there is used again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use orrery_core::protocol::message::Draft;
use orrery_core::runtime::WallMillis;
use orrery_core::store::{FlushMode, Store, StoreConfig};
use orrery_runtime_real::Real;

const TOPIC: &str = "Start";
const RECORD_SIZE: u64 = 1024;
const BATCH: usize = 64;
const KILLED_AFTER: Duration = Duration::from_secs(15);
const KILLED_BYTES_MAX: u64 = 4 << 30;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: u64| {
        arguments
            .get(index)
            .map_or(Ok(default), |text| text.parse())
            .with_context(|| format!("argument {index} is no number"))
    };
    let dir = PathBuf::from(arguments.first().context("usage: start DIR [GIGABYTES] [QUEUES]")?);
    let (gigabytes, queues) = (number(1, 10)?, number(2, 1)?.max(1) as i32);
    match arguments.get(3).map(String::as_str) {
        Some("fill") => Real::run(None, |rt| fill(rt, dir, gigabytes << 30, queues, None))?,
        Some("die") => Real::run(None, |rt| fill(rt, dir, u64::MAX, queues, Some(KILLED_AFTER)))?,
        Some("open") => Real::run(None, |rt| open(rt, dir))?,
        _ => {
            life(&dir, gigabytes, queues, "fill")?;
            println!("after a stop in order:");
            life(&dir, gigabytes, queues, "open")?;
            life(&dir, gigabytes, queues, "die")?;
            println!("after a kill:");
            life(&dir, gigabytes, queues, "open")
        }
    }
}

fn life(dir: &Path, gigabytes: u64, queues: i32, what: &str) -> anyhow::Result<()> {
    let status = Command::new(std::env::current_exe()?)
        .arg(dir)
        .args([gigabytes.to_string(), queues.to_string(), what.to_owned()])
        .status()?;
    ensure!(status.success() || what == "die", "`{what}` ended with {status}");
    Ok(())
}

fn config(dir: PathBuf) -> StoreConfig {
    StoreConfig {
        flush_mode: FlushMode::Async,
        delete_hours: Vec::new(),
        disk_used_percent_max: u64::MAX,
        disk_used_percent_forced: u64::MAX,
        disk_used_percent_full: u64::MAX,
        ..StoreConfig::new(dir)
    }
}

/// Appends until the log has `bytes`, then stops in order; or for a while, then dies.
async fn fill(rt: Real, dir: PathBuf, bytes: u64, queues: i32, dies_after: Option<Duration>) -> anyhow::Result<()> {
    let (store, _) = Store::open(&rt, config(dir), Arc::new(())).await?;
    let body = vec![b'x'; RECORD_SIZE as usize - 91 - TOPIC.len()];
    let begin = Instant::now();
    let killed_at = store.info().log_end.saturating_add(KILLED_BYTES_MAX);
    let mut queue_id = 0;
    while store.info().log_end < bytes {
        if dies_after.is_some_and(|after| begin.elapsed() > after || store.info().log_end > killed_at) {
            std::process::abort();
        }
        queue_id = (queue_id + 1) % queues;
        let draft = Draft {
            topic: TOPIC,
            queue_id,
            flag: 0,
            sys_flag: 0,
            born_time: WallMillis(1),
            born_host: ([127, 0, 0, 1], 1).into(),
            store_host: ([127, 0, 0, 1], 2).into(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: &body,
            properties: "",
        };
        match store.append_when_ready(&[draft; BATCH]).await {
            Ok(appended) => store.written(appended.end).await?,
            // The disk cannot follow.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    store.close().await?;
    Ok(())
}

async fn open(rt: Real, dir: PathBuf) -> anyhow::Result<()> {
    let begin = Instant::now();
    let (store, recovery) = Store::open(&rt, config(dir), Arc::new(())).await?;
    let elapsed = begin.elapsed();
    let info = store.info();
    println!(
        "  opened in {:.3} s: {:.1} GB, {} queues; {} records and {:.1} MB of the log read again{}",
        elapsed.as_secs_f64(),
        info.log_end as f64 / 1e9,
        info.queues,
        recovery.scanned_records,
        recovery.scanned_bytes as f64 / 1e6,
        if recovery.rebuilt { ", all queues made anew" } else { "" }
    );
    store.close().await?;
    Ok(())
}
