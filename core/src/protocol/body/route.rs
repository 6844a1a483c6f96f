//! Routes (`TopicRouteData.java`, `BrokerData.java`, `QueueData.java`, `ClusterInfo.java`, `BrokerMemberGroup.java`, `KVTable.java`).

use std::collections::BTreeMap;

use super::{bodies, lenient};

bodies! {
    /// Reply to 105. Broker ids are written in quotes, without white space: every client reads that.
    #[derive(Eq, Default)]
    TopicRouteData {
        broker_datas: Vec<BrokerData>,
        filter_server_table: BTreeMap<String, Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        order_topic_conf: Option<String>,
        queue_datas: Vec<QueueData>,
    }

    /// A replica set.
    #[derive(Eq, Default)]
    BrokerData {
        /// Address by broker id; 0 is the master.
        broker_addrs: BTreeMap<i64, String>,
        broker_name: String,
        cluster: String,
        #[serde(deserialize_with = "lenient::boolean")]
        enable_acting_master: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        zone_name: Option<String>,
    }

    /// A topic's queues on one replica set.
    #[derive(Eq, Default)]
    QueueData {
        broker_name: String,
        #[serde(deserialize_with = "lenient::integer")]
        perm: i32,
        #[serde(deserialize_with = "lenient::integer")]
        read_queue_nums: i32,
        #[serde(deserialize_with = "lenient::integer")]
        topic_sys_flag: i32,
        #[serde(deserialize_with = "lenient::integer")]
        write_queue_nums: i32,
    }

    /// Reply to 106.
    #[derive(Eq, Default)]
    ClusterInfo {
        broker_addr_table: BTreeMap<String, BrokerData>,
        /// Broker names by cluster.
        cluster_addr_table: BTreeMap<String, Vec<String>>,
    }

    /// Members of a replica set.
    #[derive(Eq, Default)]
    BrokerMemberGroup {
        broker_addrs: BTreeMap<i64, String>,
        broker_name: String,
        cluster: String,
    }

    /// Reply to 901.
    #[derive(Eq, Default)]
    BrokerMemberGroupBody {
        broker_member_group: BrokerMemberGroup,
    }

    /// Texts by name: replies to 28, 103 and 219.
    #[derive(Eq, Default)]
    KvTable {
        table: BTreeMap<String, String>,
    }
}

impl BrokerData {
    pub const MASTER_ID: i64 = 0;

    pub fn master_address(&self) -> Option<&str> {
        self.broker_addrs.get(&BrokerData::MASTER_ID).map(String::as_str)
    }
}
