use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::types::MessageQueue;

fn queue(queue_id: i32) -> MessageQueue {
    MessageQueue {
        topic: "T".into(),
        broker_name: "b".into(),
        queue_id,
    }
}

#[test]
fn a_route_is_written_compactly_with_quoted_ids() {
    let route = TopicRouteData {
        broker_datas: vec![BrokerData {
            broker_addrs: [(0, "10.0.0.1:10911".to_owned()), (1, "10.0.0.2:10911".to_owned())].into(),
            broker_name: "broker-a".into(),
            cluster: "C".into(),
            ..BrokerData::default()
        }],
        queue_datas: vec![QueueData {
            broker_name: "broker-a".into(),
            perm: 6,
            read_queue_nums: 8,
            topic_sys_flag: 0,
            write_queue_nums: 8,
        }],
        ..TopicRouteData::default()
    };
    let expected = concat!(
        r#"{"brokerDatas":[{"brokerAddrs":{"0":"10.0.0.1:10911","1":"10.0.0.2:10911"},"brokerName":"broker-a","#,
        r#""cluster":"C","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","#,
        r#""perm":6,"readQueueNums":8,"topicSysFlag":0,"writeQueueNums":8}]}"#
    );
    assert_eq!(route.write(), expected);
    let bare = expected.replace("\"0\":", "0:").replace("\"1\":", "1:");
    assert_eq!(TopicRouteData::read(bare.as_bytes()).unwrap(), route);
}

#[test]
fn heartbeats_of_odd_clients_are_read() {
    let cpp = concat!(
        r#"{"clientID":"c","consumerDataSet":[{"consumeFromWhere":0,"consumeType":1,"groupName":"g","messageModel":1,"#,
        r#""subscriptionDataSet":[{"codeSet":[0],"subString":"A","subVersion":"1795331206489","tagsSet":["A"],"topic":"T"}]}]}"#,
        "\n"
    );
    let heartbeat = HeartbeatData::read(cpp.as_bytes()).unwrap();
    let consumer = &heartbeat.consumer_data_set[0];
    assert_eq!(consumer.consume_from_where, ConsumeFromWhere::LastOffset);
    assert_eq!(consumer.consume_type, ConsumeType::Passively);
    assert_eq!(consumer.message_model, MessageModel::Clustering);
    assert_eq!(consumer.subscription_data_set[0].sub_version, 1_795_331_206_489);
    assert!(consumer.subscription_data_set[0].is_tag());

    let go = concat!(
        r#"{"clientID":"c","consumerDataSet":[{"groupName":"g","messageModel":"BROADCASTING","subscriptionDataSet":"#,
        r#"[{"codeSet":["65","-7"],"subVersion":1795331206489000000,"topic":"T","tagsSet":null}]}],"producerDataSet":null}"#
    );
    let heartbeat = HeartbeatData::read(go.as_bytes()).unwrap();
    let consumer = &heartbeat.consumer_data_set[0];
    assert_eq!(consumer.message_model, MessageModel::Broadcasting);
    assert_eq!(consumer.subscription_data_set[0].code_set, [-7, 65].into());
}

#[test]
fn member_names_are_those_of_java() {
    let lock = LockBatchResponseBody {
        lock_ok_mq_set: vec![queue(0)],
    };
    assert_eq!(
        lock.write(),
        r#"{"lockOKMQSet":[{"brokerName":"b","queueId":0,"topic":"T"}]}"#
    );
    let stats = ConsumeStats {
        consume_tps: 0.0,
        offset_table: [(queue(0), OffsetWrapper::default())].into_iter().collect(),
    };
    let expected = concat!(
        r#"{"consumeTps":0.0,"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:"#,
        r#"{"brokerOffset":0,"consumerOffset":0,"lastTimestamp":0,"pullOffset":0}}}"#
    );
    assert_eq!(stats.write(), expected);
    let group = concat!(
        r#"{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,"consumeFromMinEnable":true,"#,
        r#""consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"g","groupRetryPolicy":{"type":"CUSTOMIZED"},"#,
        r#""groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,"#,
        r#""whichBrokerWhenConsumeSlowly":1}"#
    );
    assert_eq!(SubscriptionGroupConfig::new("g").write(), group);
    let topic = concat!(
        r#"{"attributes":{},"order":false,"perm":6,"readQueueNums":8,"topicFilterType":"SINGLE_TAG","topicName":"T","#,
        r#""topicSysFlag":0,"writeQueueNums":8}"#
    );
    assert_eq!(TopicConfig::new("T", 8).write(), topic);
}

#[test]
fn a_bomb_in_a_compressed_registration_is_refused() {
    let zeros = vec![0; 80 << 20];
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &zeros).unwrap();
    let bomb = encoder.finish().unwrap();
    assert!(matches!(
        RegisterBrokerBody::read_from(479, &bomb, true),
        Err(BodyError::TooLong { .. })
    ));
}

fn any_registration() -> impl Strategy<Value = RegisterBrokerBody> {
    let topic = ("[a-zA-Z%_-]{1,20}", 0..99i32, 0..99i32, 0..8i32, any::<bool>());
    let topics = proptest::collection::vec(topic, 0..20);
    (topics, any::<i64>(), any::<i64>()).prop_map(|(topics, counter, timestamp)| {
        let mut body = RegisterBrokerBody::default();
        let wrapper = &mut body.topic_config_serialize_wrapper;
        wrapper.data_version = DataVersion {
            counter,
            state_version: 0,
            timestamp,
        };
        for (name, read, write, perm, typed) in topics {
            let mut config = TopicConfig::new(&name, read);
            config.write_queue_nums = write;
            config.perm = perm;
            if typed {
                config.attributes = BTreeMap::from([("message.type".to_owned(), "FI FO\"".to_owned())]);
            }
            wrapper.topic_config_table.insert(name, config);
        }
        body
    })
}

proptest! {
    #[test]
    fn registrations_survive_both_forms(body in any_registration(), version in 37..600i32) {
        let compressed = body.write_compressed(version);
        prop_assert_eq!(&RegisterBrokerBody::read_from(version, &compressed, true).unwrap(), &body);
        prop_assert_eq!(&RegisterBrokerBody::read_from(version, &body.write(), false).unwrap(), &body);
        let bare = body.topic_config_serialize_wrapper.write();
        prop_assert_eq!(&RegisterBrokerBody::read_from(36, &bare, false).unwrap(), &body);
    }

    #[test]
    fn arbitrary_registrations_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &bytes).unwrap();
        let _ = RegisterBrokerBody::read_from(479, &encoder.finish().unwrap(), true);
        let _ = RegisterBrokerBody::read_from(479, &bytes, true);
        let _ = RegisterBrokerBody::read_from(479, &bytes, false);
        let _ = HeartbeatData::read(&bytes);
    }
}
