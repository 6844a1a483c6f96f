//! What a broker is told, by subsystem.
//!
//! Every field carries RocketMQ's key and RocketMQ's default. A key that would have no effect is no field, so that it is
//! listed as unused; the one exception says so.
//! Invariant: whatever [`BrokerConfig::from_properties`] returns is usable as it stands.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::section::{Addresses, DelayLevels, Fields, HoursOfDay, section, words};
use super::{ConfigError, UnknownKey, parse_properties};
use crate::types::address::{IpAddr, Ipv4Addr, SocketAddr};

const MEBIBYTE: i64 = 1 << 20;
const DAY_MS: i64 = 86_400_000;

/// Bytes of a consume-queue entry; a consume-queue file holds whole entries.
const CONSUME_QUEUE_ENTRY_BYTES: u64 = 20;

words! {
    /// When an append is safe.
    pub enum FlushDiskType {
        /// Acknowledged once written; flushed in the background. Survives a process kill, not a power loss.
        Async = "ASYNC_FLUSH",
        /// Acknowledged once flushed.
        Sync = "SYNC_FLUSH",
    }
}

words! {
    /// The place of a broker in its set.
    pub enum BrokerRole {
        AsyncMaster = "ASYNC_MASTER",
        SyncMaster = "SYNC_MASTER",
        Slave = "SLAVE",
    }
}

section! {
    /// Who this broker is.
    pub struct Identity {
        cluster_name: String = "DefaultCluster".to_owned(), "brokerClusterName" in 1..=255;
        /// Name of the broker set. RocketMQ's default is the host's name, which core does not know.
        broker_name: String = "broker-a".to_owned(), "brokerName" in 1..=127;
        /// 0 is the master, above are its replicas.
        broker_id: i64 = 0, "brokerId" in 0..=i64::MAX;
        role: BrokerRole = BrokerRole::AsyncMaster, "brokerRole" in 0..=0;
    }
}

section! {
    /// Where this broker listens and whom it tells.
    pub struct Network {
        namesrv_addresses: Addresses = Addresses::default(), "namesrvAddr" in 0..=64;
        bind_address: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED), "bindAddress" in 0..=0;
        /// Port 0 picks a free one.
        listen_port: u16 = 10911, "listenPort" in 0..=65535;
        /// The address that clients are told. `None`: the binary finds out.
        broker_ip1: Option<String> = None, "brokerIP1" in 1..=255;
        /// `None`: the listening port plus one.
        ha_listen_port: Option<u16> = None, "haListenPort" in 1..=65535;
        /// Clamped to 10-60 s when used, as in `BrokerController.start`.
        register_name_server_period: Duration = Duration::from_secs(30), "registerNameServerPeriod" in 1..=DAY_MS;
        register_broker_timeout: Duration = Duration::from_secs(24), "registerBrokerTimeoutMills" in 100..=DAY_MS;
        /// A client connection silent for this long is closed.
        server_channel_max_idle_time_seconds: u32 = 120, "serverChannelMaxIdleTimeSeconds" in 1..=86_400;
    }
}

section! {
    /// How much may wait.
    pub struct Admission {
        /// Accepted because most files have it, and without effect: requests run on their connection's task.
        send_message_thread_count: u32 = 4, "sendMessageThreadPoolNums" in 1..=1024;
        /// Held pulls on the broker; beyond, a pull is answered at once.
        pull_queue_capacity: usize = 100_000, "pullThreadPoolQueueCapacity" in 1..=10_000_000;
    }
}

section! {
    /// Where the store lies and how its files are cut.
    pub struct StorePaths {
        /// RocketMQ's default is `store` in the user's home; here it is relative to the working folder.
        root_dir: PathBuf = PathBuf::from("store"), "storePathRootDir" in 1..=4096;
        /// `None`: `commitlog` in the root.
        commit_log_dir: Option<PathBuf> = None, "storePathCommitLog" in 1..=4096;
        commit_log_file_bytes: u64 = 1 << 30, "mappedFileSizeCommitLog" in 4096..=4096 * MEBIBYTE;
        /// Rounded up to whole entries by [`BrokerConfig::consume_queue_file_bytes`].
        consume_queue_file_bytes: u64 = 6_000_000, "mappedFileSizeConsumeQueue" in 20..=1024 * MEBIBYTE;
        message_index_enable: bool = true, "messageIndexEnable" in 0..=1;
        index_hash_slot_count: u32 = 5_000_000, "maxHashSlotNum" in 1..=50_000_000;
        index_entry_count: u32 = 20_000_000, "maxIndexNum" in 2..=100_000_000;
        /// Ours: serve a store although it holds timers, half messages, POP checkpoints or compacted queues.
        accept_pending_state: bool = false, "acceptPendingState" in 0..=1;
    }
}

section! {
    /// When bytes become durable.
    pub struct Flush {
        disk_type: FlushDiskType = FlushDiskType::Async, "flushDiskType" in 0..=0;
        commit_log_interval: Duration = Duration::from_millis(500), "flushIntervalCommitLog" in 1..=DAY_MS;
        /// Pages of 4 KiB that must be dirty before a timed flush.
        commit_log_least_pages: u32 = 4, "flushCommitLogLeastPages" in 0..=1_000_000;
        /// After this long a timed flush takes any number of pages.
        commit_log_thorough_interval: Duration = Duration::from_secs(10), "flushCommitLogThoroughInterval" in 1..=DAY_MS;
        consume_queue_interval: Duration = Duration::from_secs(1), "flushIntervalConsumeQueue" in 1..=DAY_MS;
        /// A synchronous send that is not flushed by then is answered FLUSH_DISK_TIMEOUT.
        sync_timeout: Duration = Duration::from_secs(5), "syncFlushTimeout" in 1..=DAY_MS;
        /// A write of the log that takes longer than this makes sends be answered SYSTEM_BUSY until it is over.
        page_cache_busy: Duration = Duration::from_secs(1), "osPageCacheBusyTimeOutMills" in 1..=DAY_MS;
        /// Ours, with SYNC_FLUSH: bytes ahead of the log's end that are zeroed on the device in advance; 0 switches it off.
        zeros_ahead_bytes: u64 = 64 << 20, "zerosAheadBytes" in 0..=1024 * MEBIBYTE;
        consumer_offset_interval: Duration = Duration::from_secs(5), "flushConsumerOffsetInterval" in 10..=DAY_MS;
        delay_offset_interval: Duration = Duration::from_secs(10), "flushDelayOffsetInterval" in 10..=DAY_MS;
    }
}

section! {
    /// How long messages are kept.
    pub struct Retention {
        file_reserved_hours: u32 = 72, "fileReservedTime" in 0..=1_000_000;
        delete_when: HoursOfDay = HoursOfDay(vec![4]), "deleteWhen" in 1..=24;
        /// Above this share of the disk, expired files go at any hour.
        disk_used_percent_max: u32 = 75, "diskMaxUsedSpaceRatio" in 10..=95;
        /// Above this share, files go whether expired or not.
        disk_used_percent_forcibly: u32 = 85, "diskSpaceCleanForciblyRatio" in 10..=100;
        /// Above this share, sends are refused.
        disk_used_percent_warning: u32 = 90, "diskSpaceWarningLevelRatio" in 10..=100;
        /// Ours: with fewer bytes of the disk free, sends are refused, whatever the shares say. 0: only the shares count.
        disk_free_bytes_min: u64 = 0, "diskSpaceFreeBytesMin" in 0..=i64::MAX;
        clean_file_forcibly_enable: bool = true, "cleanFileForciblyEnable" in 0..=1;
        clean_interval: Duration = Duration::from_secs(10), "cleanResourceInterval" in 10..=DAY_MS;
        delete_files_per_turn: usize = 10, "deleteFileBatchMax" in 1..=10_000;
    }
}

section! {
    /// Which topics and groups come to be, and what may be done with them.
    pub struct Topics {
        auto_create_topic: bool = true, "autoCreateTopicEnable" in 0..=1;
        /// Queues of TBW102, the upper bound for topics created by a send.
        default_queue_count: u32 = 8, "defaultTopicQueueNums" in 1..=65_536;
        auto_create_subscription_group: bool = true, "autoCreateSubscriptionGroup" in 0..=1;
        /// Committed offsets are in `lmqConsumerOffset.json`, those of light groups in a table of their own.
        enable_lmq: bool = false, "enableLmq" in 0..=1;
        /// Bits: 4 read, 2 write.
        broker_permission: u32 = 6, "brokerPermission" in 0..=7;
    }
}

section! {
    /// Limits of a message.
    pub struct Messages {
        /// Largest body, in bytes; beyond, MESSAGE_ILLEGAL.
        size_bytes_max: u32 = 4 << 20, "maxMessageSize" in 1..=128 * MEBIBYTE;
        delay_levels: DelayLevels = DelayLevels::default(), "messageDelayLevel" in 1..=64;
    }
}

section! {
    /// How pulls are answered.
    pub struct Polling {
        long_polling: bool = true, "longPollingEnable" in 0..=1;
        short_polling: Duration = Duration::from_secs(1), "shortPollingTimeMills" in 1..=DAY_MS;
        notify_consumer_ids_changed: bool = true, "notifyConsumerIdsChangedEnable" in 0..=1;
        /// One answer carries at most this many bytes and messages while they are hot …
        transfer_bytes_hot: u32 = 262_144, "maxTransferBytesOnMessageInMemory" in 1..=64 * MEBIBYTE;
        transfer_count_hot: u32 = 32, "maxTransferCountOnMessageInMemory" in 1..=10_000;
        /// … and at most this many when they come from the disk.
        transfer_bytes_cold: u32 = 65_536, "maxTransferBytesOnMessageInDisk" in 1..=64 * MEBIBYTE;
        transfer_count_cold: u32 = 8, "maxTransferCountOnMessageInDisk" in 1..=10_000;
    }
}

/// A broker's whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerConfig {
    pub identity: Identity,
    pub network: Network,
    pub admission: Admission,
    pub store: StorePaths,
    pub flush: Flush,
    pub retention: Retention,
    pub topics: Topics,
    pub messages: Messages,
    pub polling: Polling,
}

impl BrokerConfig {
    /// Reads a RocketMQ `broker.conf`. `file` is for messages only.
    pub fn from_properties(file: &str, text: &str) -> Result<(BrokerConfig, Vec<UnknownKey>), ConfigError> {
        let mut fields = Fields::new(file, parse_properties(file, text)?);
        let config = BrokerConfig {
            identity: Identity::read(&mut fields)?,
            network: Network::read(&mut fields)?,
            admission: Admission::read(&mut fields)?,
            store: StorePaths::read(&mut fields)?,
            flush: Flush::read(&mut fields)?,
            retention: Retention::read(&mut fields)?,
            topics: Topics::read(&mut fields)?,
            messages: Messages::read(&mut fields)?,
            polling: Polling::read(&mut fields)?,
        };
        config.check(&fields)?;
        Ok((config, fields.unknown()))
    }

    /// Rules that span fields.
    fn check(&self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        let id = self.identity.broker_id;
        match self.identity.role {
            BrokerRole::Slave if id == 0 => {
                return Err(fields.refuse("brokerId", "1 or more where brokerRole=SLAVE".to_owned()));
            }
            BrokerRole::AsyncMaster | BrokerRole::SyncMaster if id != 0 => {
                let allowed = "0 unless brokerRole=SLAVE".to_owned();
                return Err(fields.refuse("brokerId", allowed));
            }
            _ => {}
        }
        // A record is the body, 64 KiB of properties at most, and headers; it never crosses a file.
        let record_bytes = u64::from(self.messages.size_bytes_max) + (128 << 10);
        if self.store.commit_log_file_bytes < record_bytes {
            let allowed = format!("at least maxMessageSize + 128 KiB ({record_bytes})");
            return Err(fields.refuse("mappedFileSizeCommitLog", allowed));
        }
        Ok(())
    }

    /// Every key with its value, sorted: the answer to GET_BROKER_CONFIG.
    pub fn properties(&self) -> BTreeMap<&'static str, String> {
        let mut pairs = BTreeMap::new();
        self.identity.print(&mut pairs);
        self.network.print(&mut pairs);
        self.admission.print(&mut pairs);
        self.store.print(&mut pairs);
        self.flush.print(&mut pairs);
        self.retention.print(&mut pairs);
        self.topics.print(&mut pairs);
        self.messages.print(&mut pairs);
        self.polling.print(&mut pairs);
        pairs
    }

    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.network.bind_address, self.network.listen_port)
    }

    pub fn commit_log_dir(&self) -> PathBuf {
        match &self.store.commit_log_dir {
            Some(dir) => dir.clone(),
            None => self.store.root_dir.join("commitlog"),
        }
    }

    /// `mappedFileSizeConsumeQueue` rounded up to whole entries, as `MessageStoreConfig.getMappedFileSizeConsumeQueue` does.
    pub fn consume_queue_file_bytes(&self) -> u64 {
        self.store
            .consume_queue_file_bytes
            .next_multiple_of(CONSUME_QUEUE_ENTRY_BYTES)
    }

    /// The period of re-registration, clamped to 10-60 s as in `BrokerController.start`.
    pub fn register_period(&self) -> Duration {
        self.network
            .register_name_server_period
            .clamp(Duration::from_secs(10), Duration::from_secs(60))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STOCK_DEFAULTS: &str = include_str!("testdata/broker-config-5.5.0.properties");

    #[test]
    fn a_usual_file_is_read() {
        let text = "brokerClusterName = DefaultCluster\nbrokerName=b1\nbrokerId = 0\ndeleteWhen = 04;16\n\
                    fileReservedTime=48\nbrokerRole=ASYNC_MASTER\nflushDiskType=SYNC_FLUSH\n\
                    namesrvAddr=ns1:9876; ns2:9876\nuseEpollNativeSelector=true\nuseEpollNativeSelector=false\n\
                    messageDelayLevel=1s 90m 1d\n";
        let (config, unknown) = BrokerConfig::from_properties("broker.conf", text).expect("valid");
        assert_eq!(config.flush.disk_type, FlushDiskType::Sync);
        assert_eq!(config.network.namesrv_addresses.0, ["ns1:9876", "ns2:9876"]);
        assert_eq!(config.retention.delete_when.0, [4, 16]);
        assert_eq!(config.messages.delay_levels.to_string(), "1s 90m 1d");
        assert_eq!(config.messages.delay_levels.delay(0), None);
        assert_eq!(config.messages.delay_levels.delay(9), Some(Duration::from_secs(86_400)));
        assert_eq!(
            unknown,
            [UnknownKey {
                line: 9,
                key: "useEpollNativeSelector".into()
            }]
        );
    }

    #[test]
    fn a_wrong_value_names_file_line_key_and_what_is_allowed() {
        let cases = [
            ("flushDiskType=SOON", "ASYNC_FLUSH or SYNC_FLUSH"),
            ("listenPort=70000", "a whole number from 0 to 65535"),
            ("autoCreateTopicEnable=yes", "true or false"),
            ("namesrvAddr=localhost", "host:port;host:port with 0 to 64 addresses"),
            ("deleteWhen=24", "hours from 00 to 23, as in 04 or 04;16"),
            ("flushIntervalCommitLog=0", "milliseconds from 1 to 86400000"),
            (
                "messageDelayLevel=1w",
                "1 to 64 delays as in `1s 5m 2h 1d`, none above 366 days",
            ),
            ("brokerId=3", "0 unless brokerRole=SLAVE"),
        ];
        for (line, allowed) in cases {
            let text = format!("# first\n{line}\n");
            let error = BrokerConfig::from_properties("conf/broker.conf", &text).expect_err(line);
            assert_eq!(
                error.to_string(),
                format!("conf/broker.conf:2: {line} is not allowed; allowed is {allowed}")
            );
        }
    }

    #[test]
    fn a_message_must_fit_into_a_commit_log_file() {
        let error = BrokerConfig::from_properties("b", "mappedFileSizeCommitLog=1048576")
            .expect_err("4 MiB messages do not fit");
        assert!(error.to_string().contains("at least maxMessageSize"), "{error}");
    }

    #[test]
    fn defaults_are_those_of_rocketmq() {
        // These depend on the machine, on the user, or are said otherwise in the field's text.
        let own = [
            "brokerIP1",
            "brokerIP2",
            "brokerName",
            "storePathRootDir",
            "haListenPort",
            "storePathCommitLog",
            "sendMessageThreadPoolNums",
            "acceptPendingState",
            "zerosAheadBytes",
            "diskSpaceFreeBytesMin",
        ];
        let stock = parse_properties("stock", STOCK_DEFAULTS).expect("valid");
        for (key, value) in BrokerConfig::default().properties() {
            if own.contains(&key) {
                continue;
            }
            let expected = stock.iter().find(|property| property.key == key);
            assert_eq!(
                expected.map(|property| property.value.as_str()),
                Some(value.as_str()),
                "{key}"
            );
        }
    }

    #[test]
    fn printed_properties_are_read_back() {
        let text = "brokerIP1=10.0.0.7\nhaListenPort=7\nmappedFileSizeConsumeQueue=30\nbrokerRole=SLAVE\nbrokerId=2\n";
        let (config, _) = BrokerConfig::from_properties("b", text).expect("valid");
        assert_eq!(config.consume_queue_file_bytes(), 40);
        let printed = config.properties();
        let text = super::super::print_properties(printed.iter().map(|(key, value)| (*key, value.as_str())));
        let (again, unknown) = BrokerConfig::from_properties("b", &text).expect("own text");
        assert_eq!(again, config);
        assert!(unknown.is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_values_never_panic(index in 0usize..200, value in "\\PC{0,40}") {
            let keys: Vec<&str> = BrokerConfig::default().properties().into_keys().collect();
            let text = format!("{}={value}\n", keys[index % keys.len()]);
            let _ = BrokerConfig::from_properties("b", &text);
        }
    }
}
