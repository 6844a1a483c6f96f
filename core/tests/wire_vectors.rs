//! Frames of real clients and servers: each decodes to what it says, re-encodes to an equal value, and every JSON body
//! parses by the type of its code.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};

use bytes::{BufMut, BytesMut};
use flate2::read::GzDecoder;
use orrery_core::protocol::body::*;
use orrery_core::protocol::code::{request, response};
use orrery_core::protocol::frame::{self, HeaderType, Limits, Outgoing};
use orrery_core::protocol::header::*;
use orrery_core::protocol::{Command, Language};
use orrery_core::types::MessageQueue;
use serde_json::Value;

struct Frame {
    line: Value,
    bytes: BytesMut,
}

impl Frame {
    fn text(&self, key: &str) -> &str {
        self.line[key].as_str().unwrap_or("")
    }

    fn integer(&self, key: &str) -> i32 {
        i32::try_from(self.line[key].as_i64().expect(key)).unwrap()
    }

    fn name(&self) -> String {
        format!("{} {} {}", self.text("file"), self.line["seq"], self.text("name"))
    }

    fn command(&self) -> Command {
        let mut bytes = self.bytes.clone();
        let command = frame::decode(&mut bytes, &Limits::default());
        let command = command.unwrap_or_else(|error| panic!("{}: {error}", self.name()));
        assert!(bytes.is_empty());
        command.expect("the frame is whole")
    }
}

fn frames() -> impl Iterator<Item = Frame> {
    let packed: &[u8] = include_bytes!("vectors/wire/frames.jsonl.gz");
    BufReader::new(GzDecoder::new(packed)).lines().map(|line| {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let hex = line["hex"].as_str().unwrap();
        let bytes = hex.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).unwrap();
            u8::from_str_radix(pair, 16).unwrap()
        });
        let bytes = BytesMut::from_iter(bytes);
        Frame { line, bytes }
    })
}

#[test]
fn every_frame_decodes_to_what_it_says() {
    let mut count = 0;
    for frame in frames() {
        let command = frame.command();
        let name = frame.name();
        assert_eq!(command.code, frame.integer("code"), "{name}");
        assert_eq!(command.language, Language::from_name(frame.text("language")), "{name}");
        assert_ne!(command.language, Language::Unknown, "{name}");
        assert_eq!(command.version, frame.integer("version"), "{name}");
        assert_eq!(command.opaque, frame.integer("opaque"), "{name}");
        assert_eq!(command.flag, frame.integer("flag"), "{name}");
        assert_eq!(command.remark_text(), frame.text("remark"), "{name}");
        assert_eq!(command.body.len(), frame.integer("body") as usize, "{name}");
        assert!(frame.bytes.ends_with(&command.body), "{name}");
        assert_eq!(
            command.is_reply(),
            frame.line.get("re").is_some() || command.flag & 1 == 1,
            "{name}"
        );
        let ext = frame.line["ext"].as_object();
        for (key, value) in ext.into_iter().flatten() {
            let expected = match value {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            };
            assert_eq!(command.ext.get(key), expected.as_deref(), "{name} {key}");
        }
        assert!(command.ext.len() <= ext.map_or(0, serde_json::Map::len), "{name}");
        count += 1;
    }
    assert!(count > 5900, "{count} frames");
}

#[test]
fn every_frame_encodes_again_to_an_equal_value() {
    for frame in frames() {
        let command = frame.command();
        for header_type in [HeaderType::Json, HeaderType::Binary] {
            if header_type == HeaderType::Binary && i16::try_from(command.code).is_err() {
                continue;
            }
            let mut expected = command.clone();
            if header_type == HeaderType::Binary {
                // Empty and absent are the same there.
                expected.ext = command.ext.iter().filter(|(_, value)| !value.is_empty()).collect();
                expected.remark = command.remark.clone().filter(|remark| !remark.is_empty());
            }
            let mut out = Outgoing::default();
            frame::encode_as(header_type, &command, Vec::new(), &mut out).unwrap();
            let mut bytes = BytesMut::new();
            out.take().drain(..).for_each(|chunk| bytes.put_slice(&chunk));
            let again = frame::decode(&mut bytes, &Limits::default()).unwrap().unwrap();
            assert_eq!(again, expected, "{}", frame.name());
        }
    }
}

#[test]
fn every_code_seen_has_the_name_it_was_seen_with() {
    for frame in frames() {
        let name = frame.text("name");
        if !name.is_empty() && name != "?" {
            assert_eq!(request::name(frame.integer("code")), Some(name));
        }
        if frame.command().is_reply() {
            assert!(response::name(frame.integer("code")).is_some(), "{}", frame.name());
        }
    }
}

/// Reads a body, writes it, reads it again.
fn check<T: Body + PartialEq + std::fmt::Debug>(body: &[u8]) -> Result<Option<Value>, BodyError> {
    let parsed = T::read(body)?;
    let written = parsed.write();
    assert_eq!(T::read(&written)?, parsed);
    Ok(Some(json::read(&written)?))
}

/// `None`: the body of that request is not JSON.
fn check_request(code: i32, version: i32, body: &[u8]) -> Result<Option<Value>, BodyError> {
    match code {
        request::HEART_BEAT => check::<HeartbeatData>(body),
        request::CHECK_CLIENT_CONFIG => check::<CheckClientRequestBody>(body),
        request::LOCK_BATCH_MQ | request::UNLOCK_BATCH_MQ => check::<LockBatchRequestBody>(body),
        request::REGISTER_BROKER => {
            RegisterBrokerBody::read_from(version, body, false)?;
            check::<RegisterBrokerBody>(body)
        }
        request::QUERY_DATA_VERSION => check::<DataVersion>(body),
        request::UPDATE_AND_CREATE_TOPIC_LIST => check::<TopicConfigList>(body),
        request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => check::<SubscriptionGroupConfig>(body),
        request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST => check::<SubscriptionGroupList>(body),
        request::QUERY_ASSIGNMENT => check::<QueryAssignmentRequestBody>(body),
        request::SET_MESSAGE_REQUEST_MODE => check::<SetMessageRequestModeRequestBody>(body),
        request::BATCH_ACK_MESSAGE => check::<BatchAckMessageRequestBody>(body),
        request::UPDATE_AND_CREATE_STATIC_TOPIC => check::<TopicQueueMappingDetail>(body),
        request::AUTH_CREATE_USER | request::AUTH_UPDATE_USER => check::<UserInfo>(body),
        request::AUTH_CREATE_ACL | request::AUTH_UPDATE_ACL => check::<AclInfo>(body),
        _ => Ok(None),
    }
}

/// `None`: the body of that reply is not JSON.
fn check_reply(code: i32, body: &[u8]) -> Result<Option<Value>, BodyError> {
    match code {
        request::GET_ALL_TOPIC_CONFIG => check::<TopicConfigSerializeWrapper>(body),
        request::GET_BROKER_RUNTIME_INFO | request::REGISTER_BROKER | request::GET_KVLIST_BY_NAMESPACE => {
            check::<KvTable>(body)
        }
        request::GET_CONSUMER_LIST_BY_GROUP => check::<ConsumerIdList>(body),
        request::LOCK_BATCH_MQ => check::<LockBatchResponseBody>(body),
        request::GET_ALL_CONSUMER_OFFSET => check::<ConsumerOffsetSerializeWrapper>(body),
        request::GET_ALL_DELAY_OFFSET => check::<DelayOffsetSerializeWrapper>(body),
        request::GET_ROUTEINFO_BY_TOPIC => check::<TopicRouteData>(body),
        request::GET_BROKER_CLUSTER_INFO => check::<ClusterInfo>(body),
        request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => check::<SubscriptionGroupWrapper>(body),
        request::GET_TOPIC_STATS_INFO => check::<TopicStatsTable>(body),
        request::GET_CONSUMER_CONNECTION_LIST => check::<ConsumerConnection>(body),
        request::GET_PRODUCER_CONNECTION_LIST => check::<ProducerConnection>(body),
        request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER
        | request::GET_TOPICS_BY_CLUSTER
        | request::GET_SYSTEM_TOPIC_LIST_FROM_NS
        | request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => check::<TopicList>(body),
        request::GET_CONSUME_STATS => check::<ConsumeStats>(body),
        request::INVOKE_BROKER_TO_RESET_OFFSET => check::<ResetOffsetBody>(body),
        request::QUERY_TOPIC_CONSUME_BY_WHO => check::<GroupList>(body),
        request::GET_CONSUMER_RUNNING_INFO => check::<ConsumerRunningInfo>(body),
        request::VIEW_BROKER_STATS_DATA => check::<BrokerStatsData>(body),
        request::GET_BROKER_CONSUME_STATS => check::<ConsumeStatsList>(body),
        request::QUERY_CONSUME_QUEUE => check::<QueryConsumeQueueResponseBody>(body),
        request::GET_ALL_PRODUCER_INFO => check::<ProducerTableInfo>(body),
        request::GET_TOPIC_CONFIG => check::<TopicConfig>(body),
        request::QUERY_ASSIGNMENT => check::<QueryAssignmentResponseBody>(body),
        request::GET_ALL_MESSAGE_REQUEST_MODE => check::<MessageRequestModeMap>(body),
        request::GET_BROKER_MEMBER_GROUP => check::<BrokerMemberGroupBody>(body),
        request::GET_BROKER_HA_STATUS => check::<HaRuntimeInfo>(body),
        request::AUTH_GET_USER => check::<UserInfo>(body),
        request::AUTH_GET_ACL => check::<AclInfo>(body),
        _ => Ok(None),
    }
}

/// A key that is a queue, with its members in our order.
fn canonical(key: &str) -> String {
    let queue = serde_json::from_str::<MessageQueue>(key);
    queue.map_or(key.to_owned(), |queue| serde_json::to_string(&queue).unwrap())
}

/// Members of `original` that `written` lacks: paths of names, list elements and map entries merged.
fn lost_members(original: &Value, written: &Value, path: &str, lost: &mut Vec<String>) {
    match (original, written) {
        (Value::Object(original), Value::Object(written)) => {
            for (key, value) in original.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{key}");
                match written.get(&canonical(key)) {
                    Some(written) => lost_members(value, written, &path, lost),
                    None => lost.push(path),
                }
            }
        }
        (Value::Array(original), Value::Array(written)) if original.len() == written.len() => {
            for (original, written) in original.iter().zip(written) {
                lost_members(original, written, &format!("{path}[]"), lost);
            }
        }
        _ => {}
    }
}

#[test]
fn every_json_body_parses_by_its_type_and_loses_nothing() {
    let mut checked: BTreeMap<(i32, bool), usize> = BTreeMap::new();
    for frame in frames() {
        let command = frame.command();
        let is_json = matches!(command.body.first(), Some(b'{' | b'['));
        let code = if command.is_reply() {
            frame.integer("re")
        } else {
            command.code
        };
        if !is_json || (command.is_reply() && command.code != response::SUCCESS) {
            continue;
        }
        let written = if command.is_reply() {
            check_reply(code, &command.body)
        } else {
            check_request(code, command.version, &command.body)
        };
        let name = frame.name();
        let written = written.unwrap_or_else(|error| panic!("{name}: {error}: {:?}", command.body));
        let Some(written) = written else {
            assert!(
                is_payload(code, command.is_reply()),
                "{name}: no type for {:?}",
                command.body
            );
            continue;
        };
        let original: Value = json::read(&command.body).unwrap();
        let mut lost = Vec::new();
        lost_members(&original, &written, "", &mut lost);
        lost.retain(|path| !is_left_out(path));
        assert_eq!(lost, Vec::<String>::new(), "{name}");
        *checked.entry((code, command.is_reply())).or_default() += 1;
    }
    assert!(checked.len() >= 40, "{checked:?}");
}

/// Bodies that only look like JSON, or belong to what is not built.
fn is_payload(code: i32, is_reply: bool) -> bool {
    let sends = [
        request::SEND_MESSAGE,
        request::SEND_MESSAGE_V2,
        request::SEND_BATCH_MESSAGE,
        request::SEND_REPLY_MESSAGE,
        request::SEND_REPLY_MESSAGE_V2,
        request::PUSH_REPLY_MESSAGE_TO_CLIENT,
    ];
    let not_built = [
        request::GET_TIMER_METRICS,
        request::GET_COLD_DATA_FLOW_CTR_INFO,
        request::GET_UNIT_TOPIC_LIST,
        request::GET_HAS_UNIT_SUB_TOPIC_LIST,
        request::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST,
        request::AUTH_LIST_USER,
        request::AUTH_LIST_ACL,
    ];
    (!is_reply && sends.contains(&code)) || (is_reply && not_built.contains(&code))
}

/// Members that we do not keep: static topics, what Java adds for itself, names that Go spells otherwise.
fn is_left_out(path: &str) -> bool {
    let static_topics = [
        "topicQueueMapping",
        "currIdMap",
        "hostedQueues",
        "dirty",
        "scope",
        "mappingDetail",
    ];
    let left_out = ["mqPopTable", "userConsumerInfo", ".dropped"];
    static_topics.iter().chain(&left_out).any(|part| path.contains(part))
}

#[test]
fn every_request_header_is_read() {
    let mut failures = Vec::new();
    for frame in frames() {
        let command = frame.command();
        // Requests made to be refused.
        if command.is_reply() || frame.text("file") == "java-errors" {
            continue;
        }
        let ext = &command.ext;
        let read = match command.code {
            request::SEND_MESSAGE
            | request::SEND_MESSAGE_V2
            | request::SEND_BATCH_MESSAGE
            | request::SEND_REPLY_MESSAGE
            | request::SEND_REPLY_MESSAGE_V2 => SendHeader::read(ext).map(drop),
            request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => PullHeader::read(ext).map(drop),
            request::QUERY_MESSAGE => QueryMessageHeader::read(ext).map(drop),
            request::QUERY_CONSUMER_OFFSET => QueryConsumerOffsetHeader::read(ext).map(drop),
            request::UPDATE_CONSUMER_OFFSET => UpdateConsumerOffsetHeader::read(ext).map(drop),
            request::UPDATE_AND_CREATE_TOPIC => CreateTopicHeader::read(ext).map(drop),
            request::SEARCH_OFFSET_BY_TIMESTAMP => SearchOffsetHeader::read(ext).map(drop),
            request::GET_MAX_OFFSET | request::GET_MIN_OFFSET | request::GET_EARLIEST_MSG_STORETIME => {
                QueueHeader::read(ext).map(drop)
            }
            request::VIEW_MESSAGE_BY_ID => ViewMessageHeader::read(ext).map(drop),
            request::UNREGISTER_CLIENT => UnregisterClientHeader::read(ext).map(drop),
            request::CONSUMER_SEND_MSG_BACK => SendBackHeader::read(ext).map(drop),
            request::END_TRANSACTION => EndTransactionHeader::read(ext).map(drop),
            request::CHECK_TRANSACTION_STATE => CheckTransactionStateHeader::read(ext).map(drop),
            request::GET_CONSUMER_LIST_BY_GROUP
            | request::NOTIFY_CONSUMER_IDS_CHANGED
            | request::GET_CONSUMER_CONNECTION_LIST => ConsumerGroupHeader::read(ext).map(drop),
            request::PUT_KV_CONFIG => PutKvConfigHeader::read(ext).map(drop),
            request::GET_KV_CONFIG | request::DELETE_KV_CONFIG => KvConfigHeader::read(ext).map(drop),
            request::REGISTER_BROKER => RegisterBrokerHeader::read(ext).map(drop),
            request::UNREGISTER_BROKER | request::QUERY_DATA_VERSION => BrokerIdentityHeader::read(ext).map(drop),
            request::GET_ROUTEINFO_BY_TOPIC => RouteHeader::read(ext).map(drop),
            request::GET_BROKER_MEMBER_GROUP => BrokerMemberGroupHeader::read(ext).map(drop),
            request::BROKER_HEARTBEAT => BrokerHeartbeatHeader::read(ext).map(drop),
            request::GET_CONSUME_STATS => ConsumeStatsHeader::read(ext).map(drop),
            request::INVOKE_BROKER_TO_RESET_OFFSET => ResetOffsetHeader::read(ext).map(drop),
            request::DELETE_SUBSCRIPTIONGROUP => DeleteSubscriptionGroupHeader::read(ext).map(drop),
            request::GET_CONSUMER_RUNNING_INFO => ConsumerRunningInfoHeader::read(ext).map(drop),
            request::PUSH_REPLY_MESSAGE_TO_CLIENT => PushReplyHeader::read(ext).map(drop),
            request::RECALL_MESSAGE => RecallHeader::read(ext).map(drop),
            request::QUERY_CONSUME_QUEUE => QueryConsumeQueueHeader::read(ext).map(drop),
            request::VIEW_BROKER_STATS_DATA => BrokerStatsHeader::read(ext).map(drop),
            request::EXCHANGE_BROKER_HA_INFO => ExchangeHaInfoHeader::read(ext).map(drop),
            _ => Ok(()),
        };
        if let Err(error) = read {
            failures.push(format!("{}: {error}", frame.name()));
        }
    }
    assert_eq!(failures, Vec::<String>::new());
}
