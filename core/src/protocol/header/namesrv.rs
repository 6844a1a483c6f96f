//! What brokers, clients and operators ask a name server (`RegisterBrokerRequestHeader.java`, ...).

use super::headers;
use crate::protocol::Text;

headers! {
    /// Code 103.
    RegisterBrokerHeader {
        "brokerName" => broker_name: Text,
        /// What clients dial.
        "brokerAddr" => broker_address: Text,
        "clusterName" => cluster_name: Text,
        "haServerAddr" => ha_server_address: Text = Text::new(),
        /// 0: master.
        "brokerId" => broker_id: i64,
        "heartbeatTimeoutMillis" => heartbeat_timeout_ms: Option<i64>,
        /// Absent: an old broker.
        "enableActingMaster" => enable_acting_master: Option<bool>,
        "compressed" => compressed: bool = false,
        /// CRC-32 of the body without its sign bit; 0: not to be checked.
        "bodyCrc32" => body_crc32: i32 = 0,
        "__ZONE_NAME" => zone_name: Option<Text>,
    }

    /// Reply to 103.
    RegisterBrokerResponseHeader {
        "haServerAddr" => ha_server_address: Option<Text>,
        "masterAddr" => master_address: Option<Text>,
    }

    /// Codes 104 and 322.
    BrokerIdentityHeader {
        "brokerName" => broker_name: Text,
        "brokerAddr" => broker_address: Text,
        "clusterName" => cluster_name: Text,
        "brokerId" => broker_id: i64,
    }

    /// Reply to 322.
    QueryDataVersionResponseHeader {
        "changed" => changed: bool,
    }

    /// Code 105.
    RouteHeader {
        "topic" => topic: Text,
        "acceptStandardJsonOnly" => accept_standard_json_only: bool = false,
    }

    /// Code 100.
    PutKvConfigHeader {
        "namespace" => namespace: Text,
        "key" => key: Text,
        "value" => value: Text,
    }

    /// Codes 101 and 102.
    KvConfigHeader {
        "namespace" => namespace: Text,
        "key" => key: Text,
    }

    /// Reply to 101.
    KvConfigResponseHeader {
        "value" => value: Option<Text>,
    }

    /// Code 219.
    KvNamespaceHeader {
        "namespace" => namespace: Text,
    }

    /// Codes 205 and 327.
    BrokerNameHeader {
        "brokerName" => broker_name: Text,
    }

    /// Reply to 205.
    WipeWritePermissionResponseHeader {
        "wipeTopicCount" => topic_count: i32,
    }

    /// Reply to 327.
    AddWritePermissionResponseHeader {
        "addTopicCount" => topic_count: i32,
    }

    /// Code 216.
    DeleteTopicInNamesrvHeader {
        "topic" => topic: Text,
        "clusterName" => cluster_name: Option<Text>,
    }

    /// Code 224.
    ClusterHeader {
        "cluster" => cluster: Text,
    }

    /// Code 901.
    BrokerMemberGroupHeader {
        "clusterName" => cluster_name: Text,
        "brokerName" => broker_name: Text,
    }

    /// Code 904.
    BrokerHeartbeatHeader {
        "clusterName" => cluster_name: Text,
        "brokerAddr" => broker_address: Text,
        "brokerName" => broker_name: Text,
        "brokerId" => broker_id: Option<i64>,
        "epoch" => epoch: Option<i32>,
        "maxOffset" => max_offset: Option<i64>,
        "confirmOffset" => confirm_offset: Option<i64>,
        "heartbeatTimeoutMills" => heartbeat_timeout_ms: Option<i64>,
        "electionPriority" => election_priority: Option<i32>,
    }
}
