//! What a name server is told: port, where its KV file lies, and the few switches that change answers.
//!
//! Not here: thread pools and socket buffers of the Java name server, which have no counterpart.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::section::{Fields, section};
use super::{ConfigError, UnknownKey, parse_properties};
use crate::types::address::{IpAddr, Ipv4Addr, SocketAddr};

section! {
    /// A name server. RocketMQ's `NamesrvConfig` and `NettyServerConfig` in one.
    pub struct NameServerConfig {
        bind_address: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED), "bindAddress" in 0..=0;
        /// Port 0 picks a free one.
        listen_port: u16 = 9876, "listenPort" in 0..=65535;
        /// Where the KV configuration is kept. `None`: memory only. RocketMQ's default lies in the user's home, which
        /// core does not know; the binary says.
        kv_config_path: Option<PathBuf> = None, "kvConfigPath" in 1..=4096;
        /// How often brokers that fell silent are looked for. RocketMQ 4 scans every 10 s, RocketMQ 5 every 5 s.
        scan_not_active_broker_interval: Duration = Duration::from_secs(10), "scanNotActiveBrokerInterval" in 10..=600_000;
        /// Whether routes carry `orderTopicConf`.
        order_message_enable: bool = false, "orderMessageEnable" in 0..=1;
        /// Whether a registering broker is told the order topics.
        return_order_topic_config_to_broker: bool = true, "returnOrderTopicConfigToBroker" in 0..=1;
        /// Whether a full registration removes the topics that it no longer names.
        delete_topic_with_broker_registration: bool = false, "deleteTopicWithBrokerRegistration" in 0..=1;
        /// Whether a broker set without a primary shows its lowest replica as one (read only).
        support_acting_master: bool = false, "supportActingMaster" in 0..=1;
        /// Whether request 206 is answered.
        enable_all_topic_list: bool = true, "enableAllTopicList" in 0..=1;
        /// Whether requests 224, 304 and 311-313 are answered.
        enable_topic_list: bool = true, "enableTopicList" in 0..=1;
        /// A connection silent for this long is closed.
        server_channel_max_idle_time_seconds: u32 = 120, "serverChannelMaxIdleTimeSeconds" in 1..=86_400;
    }
}

impl NameServerConfig {
    pub fn from_properties(file: &str, text: &str) -> Result<(NameServerConfig, Vec<UnknownKey>), ConfigError> {
        let mut fields = Fields::new(file, parse_properties(file, text)?);
        let config = NameServerConfig::read(&mut fields)?;
        Ok((config, fields.unknown()))
    }

    /// Every key with its value, sorted: the answer to GET_NAMESRV_CONFIG.
    pub fn properties(&self) -> BTreeMap<&'static str, String> {
        let mut pairs = BTreeMap::new();
        self.print(&mut pairs);
        pairs
    }

    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.bind_address, self.listen_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_file_is_read_and_printed_back() {
        let text = "listenPort=25001\nkvConfigPath=data/kv.json\norderMessageEnable=true\nserverWorkerThreads=8\n";
        let (config, unknown) = NameServerConfig::from_properties("ns.conf", text).expect("valid");
        assert_eq!(config.listen().port(), 25001);
        assert_eq!(config.kv_config_path, Some(PathBuf::from("data/kv.json")));
        assert!(config.order_message_enable);
        assert_eq!(unknown.len(), 1);
        assert_eq!(unknown[0].key, "serverWorkerThreads");

        let printed = config.properties();
        let text = super::super::print_properties(printed.iter().map(|(key, value)| (*key, value.as_str())));
        let (again, unknown) = NameServerConfig::from_properties("ns.conf", &text).expect("own text");
        assert_eq!(again, config);
        assert!(unknown.is_empty());
    }
}
