//! The broker itself, as operators see it: runtime numbers and configuration.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::{Answer, Handlers};
use crate::config::print_properties;
use crate::protocol::Command;
use crate::protocol::body::{Body, KvTable, json};
use crate::runtime::{Disk, Runtime};

/// Name of the version that we announce in every frame.
const VERSION_NAME: &str = "V5_3_3";

impl<R: Runtime> Handlers<R> {
    /// Code 28.
    pub(in crate::broker) fn runtime_info(&self, command: &Command) -> Answer {
        let operations = &self.operations;
        let info = operations.store.info();
        let now = operations.runtime.wall();
        let running_ms = now.millis_since(operations.started_wall).max(1);
        let put = operations.counters.messages_put.load(Ordering::Relaxed);
        let got = operations.counters.messages_got.load(Ordering::Relaxed);
        let per_second = |count: u64| format!("{:.3}", count as f64 * 1000.0 / running_ms as f64);
        let thrice = |text: String| format!("{text} {text} {text}");
        let mut table: BTreeMap<String, String> = BTreeMap::new();
        let mut set = |name: &str, value: String| {
            table.insert(name.to_owned(), value);
        };
        set("brokerVersionDesc", VERSION_NAME.to_owned());
        set("brokerVersion", crate::protocol::VERSION.to_string());
        set("brokerActive", "true".to_owned());
        set("bootTimestamp", operations.started_wall.0.to_string());
        set("runtime", format!("[ {} seconds ]", running_ms / 1000));
        // Averages since start stand for all three windows.
        set("putTps", thrice(per_second(put)));
        set("getTransferredTps", thrice(per_second(got)));
        set("getTotalTps", thrice(per_second(got)));
        set("getFoundTps", thrice(per_second(got)));
        set("getMissTps", thrice(per_second(0)));
        set("msgPutTotalTodayNow", put.to_string());
        set("msgPutTotalTodayMorning", "0".to_owned());
        set("msgPutTotalYesterdayMorning", "0".to_owned());
        set("msgGetTotalTodayNow", got.to_string());
        set("msgGetTotalTodayMorning", "0".to_owned());
        set("msgGetTotalYesterdayMorning", "0".to_owned());
        set("sendThreadPoolQueueSize", "0".to_owned());
        set("pullThreadPoolQueueSize", self.polls.len().to_string());
        set("sendThreadPoolQueueHeadWaitTimeMills", "0".to_owned());
        set("pullThreadPoolQueueHeadWaitTimeMills", "0".to_owned());
        set("pageCacheLockTimeMills", info.write_busy_ms.to_string());
        set("earliestMessageTimeStamp", "-1".to_owned());
        let ratio = format!("{:.2}", info.disk_used_percent as f64 / 100.0);
        set("commitLogDiskRatio", ratio.clone());
        set("consumeQueueDiskRatio", ratio);
        set("commitLogMinOffset", info.log_start.to_string());
        set("commitLogMaxOffset", info.log_end.to_string());
        set(
            "dispatchBehindBytes",
            info.written.saturating_sub(info.confirmed).to_string(),
        );
        set(
            "remainHowManyDataToFlush",
            format!("{} B", info.log_end.saturating_sub(info.flushed)),
        );
        for (name, count) in [
            ("sendRefusedPageCacheBusy", info.refused.page_cache_busy),
            ("sendRefusedPendingBytes", info.refused.pending_bytes),
            ("sendRefusedDiskFull", info.refused.disk_full),
            ("sendRefusedDiskSpaceLow", info.refused.disk_space_low),
            ("sendRefusedNoFile", info.refused.no_file),
            ("sendRefusedPoisoned", info.refused.poisoned),
        ] {
            set(name, count.to_string());
        }
        let disk = operations.runtime.disk().totals();
        set("writeBytesTotal", disk.write_bytes.to_string());
        set("writeCallsTotal", disk.write_calls.to_string());
        set("syncCallsTotal", disk.sync_calls.to_string());
        set("storePoisoned", info.poisoned.to_string());
        set(
            "unsupportedRequests",
            operations.counters.unsupported.load(Ordering::Relaxed).to_string(),
        );
        // Counted at the start: kept for RocketMQ, not delivered.
        let pending = operations.store.pending();
        set("pendingTimers", pending.timers.to_string());
        set("pendingHalfMessages", pending.half_messages.to_string());
        set("pendingPopCheckpoints", pending.pop_checkpoints.to_string());
        set("pendingCompactedQueues", pending.compacted_queues.to_string());
        let body = KvTable { table };
        Answer::Reply(Command::success(command).with_body(body.write()))
    }

    /// Code 26.
    pub(in crate::broker) fn broker_config(&self, command: &Command) -> Answer {
        let pairs = self.operations.config.properties();
        let text = print_properties(pairs.iter().map(|(key, value)| (*key, value.as_str())));
        let version = self.operations.tables().topics.version();
        let mut reply = Command::success(command).with_body(text);
        let version = String::from_utf8_lossy(&json::write(&version)).into_owned();
        reply.ext.push("version", &version);
        Answer::Reply(reply)
    }
}
