//! Replays requests that real brokers, clients and tools sent to the name server of Apache RocketMQ 5.5.0, in one
//! conversation, and compares our answers with its: code, names of extension fields, shape of the body.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde_json::Value;

use super::kv::{KvConfig, ORDER_TOPIC_CONFIG};
use super::state::{Answer, State, kv_change_reply};
use crate::config::NameServerConfig;
use crate::protocol::body::{Body, KvTable, QueueData, RegisterBrokerBody, TopicConfig, TopicRouteData};
use crate::protocol::code::{request, response};
use crate::protocol::{Command, frame};
use crate::runtime::Mono;

const CONVERSATION: &str = include_str!("testdata/conversation.jsonl");

fn ask(state: &mut State, connection: u64, command: &Command) -> Command {
    match state.answer(connection, Mono(0), command) {
        Answer::Reply(reply) => reply,
        Answer::Change(change) => {
            let mut kv = state.kv().clone();
            let changed = change.apply(&mut kv).map_err(|refused| refused.to_string());
            state.set_kv(kv);
            kv_change_reply(command, changed)
        }
    }
}

fn unhex(text: &str) -> BytesMut {
    let digits = text.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hex"));
    bytes.collect()
}

/// The official server writes integer keys without quotes.
fn quote_bare_keys(text: &str) -> String {
    let mut quoted = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(['{', ',']) {
        let (before, after) = rest.split_at(start + 1);
        quoted.push_str(before);
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 && after[digits..].starts_with(':') {
            quoted.push_str(&format!("\"{}\"", &after[..digits]));
            rest = &after[digits..];
        } else {
            rest = after;
        }
    }
    quoted + rest
}

/// Member names and kinds, values left out; a list has the shape of its first entry.
fn shape(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{key}:{}", shape(value)))
                .collect();
            members.sort();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(entries) => format!("[{}]", entries.first().map(shape).unwrap_or_default()),
        Value::String(_) => "text".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Null => "null".to_owned(),
    }
}

#[test]
fn captured_requests_are_answered_as_the_official_name_server_does() {
    let mut servers: BTreeMap<String, State> = BTreeMap::new();
    for line in CONVERSATION.lines() {
        let entry: Value = serde_json::from_str(line).expect("a line of JSON");
        let state = servers.entry(entry["server"].to_string()).or_default();
        let what = format!("{}:{} {}", entry["file"], entry["seq"], entry["name"]);
        let mut bytes = unhex(entry["request"].as_str().expect("hex"));
        let command = frame::decode(&mut bytes, &frame::Limits::default())
            .expect(&what)
            .expect(&what);
        let reply = ask(state, entry["conn"].as_u64().expect("a number"), &command);
        state.routes().check_invariants();
        let Some(code) = entry["code"].as_i64() else {
            assert!(command.is_one_way(), "{what}");
            continue;
        };
        assert_eq!(i64::from(reply.code), code, "{what}: {}", reply.remark_text());
        assert_eq!(reply.opaque, command.opaque, "{what}");
        let mut fields: Vec<&str> = reply.ext.iter().map(|(key, _)| key).collect();
        fields.sort_unstable();
        let expected: Vec<&str> = entry["ext"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(fields, expected, "{what}");
        match entry["body"].as_str() {
            None => assert!(reply.body.is_empty(), "{what}"),
            Some(text) if text.starts_with('{') => {
                let ours: Value = serde_json::from_slice(&reply.body).expect("standard JSON");
                let theirs: Value = serde_json::from_str(&quote_bare_keys(text)).expect("JSON with quoted keys");
                assert_eq!(shape(&ours), shape(&theirs), "{what}");
                assert!(
                    !reply.body.contains(&b' ') && !reply.body.contains(&b'\n'),
                    "{what}: white space breaks the Go client"
                );
            }
            Some(_) => assert!(
                reply.body.starts_with(b"bindAddress="),
                "{what}: configuration is properties text"
            ),
        }
    }
}

fn registration(name: &str) -> Command {
    let mut body = RegisterBrokerBody::default();
    for topic in ["TBW102", "SELF_TEST_TOPIC", "TopicA"] {
        let config = TopicConfig::new(topic, 8);
        body.topic_config_serialize_wrapper
            .topic_config_table
            .insert(topic.to_owned(), config);
    }
    Command::request(request::REGISTER_BROKER)
        .with("brokerName", name)
        .with("brokerAddr", "127.0.0.1:10911")
        .with("clusterName", "C")
        .with("haServerAddr", "127.0.0.1:10912")
        .with("brokerId", "0")
        .with_body(body.write())
}

#[test]
fn a_compressed_registration_and_a_wrong_checksum_are_told_apart() {
    let mut state = State::default();
    let plain = registration("a");
    let body = RegisterBrokerBody::read(&plain.body)
        .expect("own body")
        .write_compressed(plain.version);
    let crc = crc32fast::hash(&body) & 0x7FFF_FFFF;
    let compressed = plain.clone().with("compressed", "true").with_body(body);
    let wrong = ask(
        &mut state,
        1,
        &compressed.clone().with("bodyCrc32", &(crc ^ 1).to_string()),
    );
    assert_eq!(
        (wrong.code, wrong.remark_text()),
        (response::SYSTEM_ERROR, "crc32 not match")
    );
    let right = ask(&mut state, 1, &compressed.with("bodyCrc32", &crc.to_string()));
    assert_eq!(right.code, response::SUCCESS, "{}", right.remark_text());
    assert!(state.routes().route("TopicA").is_some());
}

#[test]
fn order_topics_are_told_to_brokers_and_to_clients_when_switched_on() {
    let mut state = State::default();
    let put = Command::request(request::PUT_KV_CONFIG)
        .with("namespace", ORDER_TOPIC_CONFIG)
        .with("key", "TopicA")
        .with("value", "a:4");
    assert_eq!(ask(&mut state, 9, &put).code, response::SUCCESS);
    let registered = ask(&mut state, 1, &registration("a"));
    let told = KvTable::read(&registered.body).expect("a table");
    assert_eq!(told.table["TopicA"], "a:4");

    let route = Command::request(request::GET_ROUTEINFO_BY_TOPIC).with("topic", "TopicA");
    let body = TopicRouteData::read(&ask(&mut state, 9, &route).body).expect("a route");
    assert_eq!(body.order_topic_conf, None);
    let switch_on = Command::request(request::UPDATE_NAMESRV_CONFIG).with_body("orderMessageEnable=true\n");
    assert_eq!(ask(&mut state, 9, &switch_on).code, response::SUCCESS);
    let body = TopicRouteData::read(&ask(&mut state, 9, &route).body).expect("a route");
    assert_eq!(body.order_topic_conf.as_deref(), Some("a:4"));
}

#[test]
fn settings_that_may_not_change_are_refused() {
    let mut state = State::default();
    for (text, code) in [
        ("kvConfigPath=/tmp/x", response::NO_PERMISSION),
        ("listenPort=1", response::SYSTEM_ERROR),
        ("orderMessageEnable=perhaps", response::SYSTEM_ERROR),
    ] {
        let update = Command::request(request::UPDATE_NAMESRV_CONFIG).with_body(text);
        assert_eq!(ask(&mut state, 1, &update).code, code, "{text}");
    }
    let config = ask(&mut state, 1, &Command::request(request::GET_NAMESRV_CONFIG));
    let text = std::str::from_utf8(&config.body).expect("text");
    let (read, unknown) = NameServerConfig::from_properties("reply", text).expect("own text");
    assert_eq!(read, NameServerConfig::default());
    assert!(unknown.is_empty());
}

#[test]
fn lists_can_be_switched_off() {
    let (config, _) =
        NameServerConfig::from_properties("n", "enableTopicList=false\nenableAllTopicList=false").expect("valid");
    let mut state = State::new(config, KvConfig::default());
    for code in [
        request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER,
        request::GET_SYSTEM_TOPIC_LIST_FROM_NS,
        request::GET_UNIT_TOPIC_LIST,
    ] {
        assert_eq!(ask(&mut state, 1, &Command::request(code)).code, response::SYSTEM_ERROR);
    }
}

#[test]
fn topics_by_cluster_and_system_topics_are_listed() {
    let mut state = State::default();
    ask(&mut state, 1, &registration("a"));
    let of_cluster = Command::request(request::GET_TOPICS_BY_CLUSTER).with("cluster", "C");
    let reply = ask(&mut state, 2, &of_cluster);
    assert_eq!(
        &reply.body[..],
        br#"{"topicList":["SELF_TEST_TOPIC","TBW102","TopicA"]}"#
    );
    let reply = ask(&mut state, 2, &Command::request(request::GET_SYSTEM_TOPIC_LIST_FROM_NS));
    assert_eq!(
        &reply.body[..],
        br#"{"brokerAddr":"127.0.0.1:10911","topicList":["C","a"]}"#
    );
}

#[test]
fn a_topic_is_registered_by_hand_on_known_brokers() {
    let mut state = State::default();
    ask(&mut state, 1, &registration("a"));
    let data = TopicRouteData {
        queue_datas: vec![QueueData {
            broker_name: "a".to_owned(),
            perm: 6,
            read_queue_nums: 2,
            topic_sys_flag: 0,
            write_queue_nums: 2,
        }],
        ..TopicRouteData::default()
    };
    let register = Command::request(request::REGISTER_TOPIC_IN_NAMESRV)
        .with("topic", "ByHand")
        .with_body(data.write());
    assert_eq!(ask(&mut state, 2, &register).code, response::SUCCESS);
    assert_eq!(
        state.routes().route("ByHand").expect("registered").queues[0]
            .1
            .read_count,
        2
    );
}

fn any_request() -> impl Strategy<Value = Command> {
    let code = prop::sample::select(request::ALL).prop_map(|(code, _)| code);
    let key = prop::sample::select(vec![
        "brokerName",
        "brokerAddr",
        "clusterName",
        "haServerAddr",
        "brokerId",
        "topic",
        "cluster",
        "namespace",
        "key",
        "value",
        "compressed",
        "enableActingMaster",
        "heartbeatTimeoutMillis",
    ]);
    let value = prop_oneof!["[a-c0-2]{0,2}", "true|false|-1|9223372036854775807", "\\PC{0,12}"];
    let body = prop_oneof![
        Just(Bytes::new()),
        Just(registration("a").body),
        Just(Bytes::from_static(b"{\"counter\":1}")),
        prop::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from),
    ];
    (code, prop::collection::vec((key, value), 0..10), body).prop_map(|(code, fields, body)| {
        let command = Command::request(code).with_body(body);
        fields
            .iter()
            .fold(command, |command, (key, value)| command.with(key, value))
    })
}

proptest! {
    #[test]
    fn hostile_requests_get_answers_and_leave_the_table_sound(requests in prop::collection::vec(any_request(), 1..40)) {
        let mut state = State::default();
        for (index, command) in requests.iter().enumerate() {
            let reply = ask(&mut state, index as u64 % 3, command);
            prop_assert!(reply.is_reply());
            state.routes().check_invariants();
        }
    }
}
