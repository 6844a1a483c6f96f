//! Subscription groups (`SubscriptionGroupConfig.java`, `SubscriptionGroupWrapper.java`, `GroupRetryPolicy.java`).

use std::collections::BTreeMap;

use super::{DataVersion, bodies, lenient};

bodies! {
    /// Configuration of a consumer group on one broker: code 200, reply to 352.
    SubscriptionGroupConfig {
        attributes: BTreeMap<String, String>,
        #[serde(deserialize_with = "lenient::integer")]
        broker_id: i64,
        #[serde(deserialize_with = "lenient::boolean")]
        consume_broadcast_enable: bool,
        #[serde(deserialize_with = "lenient::boolean")]
        consume_enable: bool,
        #[serde(deserialize_with = "lenient::boolean")]
        consume_from_min_enable: bool,
        #[serde(deserialize_with = "lenient::boolean")]
        consume_message_orderly: bool,
        #[serde(deserialize_with = "lenient::integer")]
        consume_timeout_minute: i32,
        group_name: String,
        group_retry_policy: GroupRetryPolicy,
        #[serde(deserialize_with = "lenient::integer")]
        group_sys_flag: i32,
        #[serde(deserialize_with = "lenient::boolean")]
        notify_consumer_ids_changed_enable: bool,
        #[serde(deserialize_with = "lenient::integer")]
        retry_max_times: i32,
        #[serde(deserialize_with = "lenient::integer")]
        retry_queue_nums: i32,
        #[serde(skip_serializing_if = "Option::is_none")]
        subscription_data_set: Option<Vec<SimpleSubscriptionData>>,
        #[serde(deserialize_with = "lenient::integer")]
        which_broker_when_consume_slowly: i64,
    }

    /// A fixed subscription of a group.
    #[derive(Eq, Default)]
    SimpleSubscriptionData {
        expression: String,
        expression_type: String,
        topic: String,
        #[serde(deserialize_with = "lenient::integer")]
        version: i64,
    }

    /// When a failed message comes again.
    GroupRetryPolicy {
        #[serde(skip_serializing_if = "Option::is_none")]
        customized_retry_policy: Option<CustomizedRetryPolicy>,
        #[serde(skip_serializing_if = "Option::is_none")]
        exponential_retry_policy: Option<ExponentialRetryPolicy>,
        /// `CUSTOMIZED` or `EXPONENTIAL`.
        r#type: String,
    }

    /// Waits in ms, one per attempt.
    #[derive(Eq, Default)]
    CustomizedRetryPolicy {
        next: Vec<i64>,
    }

    /// Waits in ms that grow from attempt to attempt.
    #[derive(Eq, Default)]
    ExponentialRetryPolicy {
        #[serde(deserialize_with = "lenient::integer")]
        initial: i64,
        #[serde(deserialize_with = "lenient::integer")]
        max: i64,
        #[serde(deserialize_with = "lenient::integer")]
        multiplier: i64,
    }

    /// All groups of a broker: reply to 201.
    #[derive(Default)]
    SubscriptionGroupWrapper {
        data_version: DataVersion,
        /// Forbidden bits by group and topic.
        forbidden_table: BTreeMap<String, BTreeMap<String, i32>>,
        subscription_group_table: BTreeMap<String, SubscriptionGroupConfig>,
    }

    /// Code 225.
    #[derive(Default)]
    SubscriptionGroupList {
        group_config_list: Vec<SubscriptionGroupConfig>,
    }

    /// Names of groups: reply to 300.
    #[derive(Eq, Default)]
    GroupList {
        group_list: Vec<String>,
    }
}

impl Default for SubscriptionGroupConfig {
    fn default() -> SubscriptionGroupConfig {
        SubscriptionGroupConfig {
            attributes: BTreeMap::new(),
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_message_orderly: false,
            consume_timeout_minute: 15,
            group_name: String::new(),
            group_retry_policy: GroupRetryPolicy::default(),
            group_sys_flag: 0,
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queue_nums: 1,
            subscription_data_set: None,
            which_broker_when_consume_slowly: 1,
        }
    }
}

impl SubscriptionGroupConfig {
    pub fn new(group_name: impl Into<String>) -> SubscriptionGroupConfig {
        SubscriptionGroupConfig {
            group_name: group_name.into(),
            ..SubscriptionGroupConfig::default()
        }
    }
}

impl Default for GroupRetryPolicy {
    fn default() -> GroupRetryPolicy {
        GroupRetryPolicy {
            customized_retry_policy: None,
            exponential_retry_policy: None,
            r#type: "CUSTOMIZED".to_owned(),
        }
    }
}
