//! The store's settings and the broker's address, out of the configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::{BrokerConfig, FlushDiskType};
use crate::runtime::{NetError, NetErrorKind, Runtime};
use crate::store::{FlushMode, StoreConfig, TransferLimit};

/// Bytes of a record around its body: properties, topic, fixed fields.
const RECORD_OVERHEAD_BYTES: usize = 64 << 10;

pub(super) fn store_config(config: &BrokerConfig) -> StoreConfig {
    let levels = &config.messages.delay_levels;
    let delay_ms = |level| levels.delay(level).map_or(0, |delay| delay.as_millis() as i64);
    let percent = u64::from;
    StoreConfig {
        commit_log_dir: config.store.commit_log_dir.clone(),
        commit_log_file_size: config.store.commit_log_file_bytes,
        consume_queue_file_size: config.consume_queue_file_bytes(),
        flush_mode: match config.flush.disk_type {
            FlushDiskType::Async => FlushMode::Async,
            FlushDiskType::Sync => FlushMode::Sync,
        },
        flush_interval: config.flush.commit_log_interval,
        flush_least_pages: u64::from(config.flush.commit_log_least_pages),
        flush_thorough_interval: config.flush.commit_log_thorough_interval,
        queue_flush_interval: config.flush.consume_queue_interval,
        record_size_max: config.messages.size_bytes_max as usize + RECORD_OVERHEAD_BYTES,
        transfer_in_memory: TransferLimit {
            count: config.polling.transfer_count_hot as usize,
            bytes: config.polling.transfer_bytes_hot as usize,
        },
        transfer_on_disk: TransferLimit {
            count: config.polling.transfer_count_cold as usize,
            bytes: config.polling.transfer_bytes_cold as usize,
        },
        file_reserved: std::time::Duration::from_secs(u64::from(config.retention.file_reserved_hours) * 3600),
        delete_hours: config.retention.delete_when.0.clone(),
        clean_interval: config.retention.clean_interval,
        disk_used_percent_max: percent(config.retention.disk_used_percent_max),
        disk_used_percent_forced: match config.retention.clean_file_forcibly_enable {
            true => percent(config.retention.disk_used_percent_forcibly),
            false => u64::MAX,
        },
        disk_used_percent_full: percent(config.retention.disk_used_percent_warning),
        delay_levels_ms: (1..=levels.count()).map(delay_ms).collect(),
        index_slots: config.store.index_hash_slot_count,
        index_entries: config.store.index_entry_count,
        index: config.store.message_index_enable,
        ..StoreConfig::new(config.store.root_dir.clone())
    }
}

/// The address that clients are told: `brokerIP1`, else the one bound, else this host's own.
pub(super) async fn advertised<R: Runtime>(
    runtime: &R,
    config: &BrokerConfig,
    bound: SocketAddr,
) -> Result<SocketAddr, NetError> {
    let port = bound.port();
    let Some(name) = &config.network.broker_ip1 else {
        let ip = if bound.ip().is_unspecified() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            bound.ip()
        };
        return Ok(SocketAddr::new(ip, port));
    };
    if let Ok(ip) = name.parse() {
        return Ok(SocketAddr::new(ip, port));
    }
    let found = runtime.resolve(&format!("{name}:{port}")).await?;
    let first = found.first().copied();
    first.ok_or_else(|| NetError::new(NetErrorKind::NameNotFound, format!("brokerIP1={name} has no address")))
}
