//! Heartbeats and subscriptions (`HeartbeatData.java`, `ConsumerData.java`, `ProducerData.java`, `SubscriptionData.java`).

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{bodies, lenient};

bodies! {
    /// Code 34.
    #[derive(Eq, Default)]
    HeartbeatData {
        #[serde(rename = "clientID")]
        client_id: String,
        consumer_data_set: Vec<ConsumerData>,
        /// Hash of the heartbeat without its version numbers; 0: version 1 of the protocol.
        #[serde(deserialize_with = "lenient::integer")]
        heartbeat_fingerprint: i32,
        producer_data_set: Vec<ProducerData>,
        /// The consumers carry no subscriptions: liveness only.
        #[serde(deserialize_with = "lenient::boolean")]
        without_sub: bool,
    }

    /// A member of a consumer group.
    #[derive(Eq, Default)]
    ConsumerData {
        consume_from_where: ConsumeFromWhere,
        consume_type: ConsumeType,
        group_name: String,
        message_model: MessageModel,
        subscription_data_set: Vec<SubscriptionData>,
        #[serde(deserialize_with = "lenient::boolean")]
        unit_mode: bool,
    }

    /// A member of a producer group.
    #[derive(Eq, Default)]
    ProducerData {
        group_name: String,
    }

    /// What a group wants of a topic.
    #[derive(Eq)]
    SubscriptionData {
        #[serde(deserialize_with = "lenient::boolean")]
        class_filter_mode: bool,
        /// Hashes of the tags. Clients leave it empty or write zeros: recompute it from `sub_string`.
        #[serde(deserialize_with = "lenient::integer_set")]
        code_set: BTreeSet<i32>,
        /// `TAG` or `SQL92`.
        expression_type: String,
        sub_string: String,
        /// Time at which the subscription was made; ms, ns from the Go client.
        #[serde(deserialize_with = "lenient::integer")]
        sub_version: i64,
        tags_set: BTreeSet<String>,
        topic: String,
    }

    /// Code 46.
    #[derive(Eq, Default)]
    CheckClientRequestBody {
        client_id: String,
        group: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        subscription_data: SubscriptionData,
    }
}

impl Default for SubscriptionData {
    fn default() -> SubscriptionData {
        SubscriptionData {
            class_filter_mode: false,
            code_set: BTreeSet::new(),
            expression_type: SubscriptionData::TAG.to_owned(),
            sub_string: String::new(),
            sub_version: 0,
            tags_set: BTreeSet::new(),
            topic: String::new(),
        }
    }
}

impl SubscriptionData {
    pub const TAG: &str = "TAG";
    pub const SQL92: &str = "SQL92";
    /// The expression that every message passes.
    pub const ALL: &str = "*";

    pub fn is_tag(&self) -> bool {
        self.expression_type.is_empty() || self.expression_type == SubscriptionData::TAG
    }
}

/// Declares enums that travel by name and are read by name or ordinal.
macro_rules! wire_enums {
    ($($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
        }

        impl $name {
            const VARIANTS: &'static [(&'static str, $name)] = &[$(($text, $name::$variant),)*];

            /// RocketMQ's name.
            pub fn name(self) -> &'static str {
                $name::VARIANTS[self as usize].0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                lenient::variant(deserializer, $name::VARIANTS)
            }
        }
    )*};
}

wire_enums! {
    /// How a consumer takes its messages.
    ConsumeType {
        Actively = "CONSUME_ACTIVELY",
        #[default]
        Passively = "CONSUME_PASSIVELY",
        Pop = "CONSUME_POP",
    }

    /// Whether the members of a group share a topic's messages or each get all.
    MessageModel {
        Broadcasting = "BROADCASTING",
        #[default]
        Clustering = "CLUSTERING",
    }

    /// Where a group without an offset begins.
    ConsumeFromWhere {
        #[default]
        LastOffset = "CONSUME_FROM_LAST_OFFSET",
        /// Deprecated.
        LastOffsetAndFromMinWhenBootFirst = "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
        /// Deprecated.
        MinOffset = "CONSUME_FROM_MIN_OFFSET",
        /// Deprecated.
        MaxOffset = "CONSUME_FROM_MAX_OFFSET",
        FirstOffset = "CONSUME_FROM_FIRST_OFFSET",
        Timestamp = "CONSUME_FROM_TIMESTAMP",
    }
}
