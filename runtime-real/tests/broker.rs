//! A broker on real sockets and files: name server, many connections, a stop in order and a start on the same files.

#[path = "../../runtime-sim/tests/broker/client.rs"]
mod client;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use client::{Client, bodies, field, messages, small_config};
use futures_util::future::join_all;
use orrery_core::broker::Broker;
use orrery_core::config::{BrokerConfig, FlushDiskType, NameServerConfig};
use orrery_core::namesrv::NameServer;
use orrery_core::protocol::Command;
use orrery_core::protocol::body::{Body, TopicRouteData};
use orrery_core::protocol::code::request;
use orrery_core::protocol::message::{BatchMessage, encode_batch_message};
use orrery_runtime_real::Real;

fn config(dir: &Path, flush: FlushDiskType) -> BrokerConfig {
    let mut config = small_config(0);
    config.network.bind_address = "127.0.0.1".parse().expect("an address");
    config.store.root_dir = dir.join("store");
    config.flush.disk_type = flush;
    // However full the disk of whoever tests.
    config.retention.disk_used_percent_warning = 100;
    config
}

fn on_real<F: Future>(main: impl FnOnce(Real) -> F) -> F::Output {
    Real::run(Some(2), main).expect("a runtime")
}

#[test]
fn a_new_topic_is_routed_by_the_name_server_and_its_messages_survive_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    on_real(|rt| async move {
        let name_server_config = NameServerConfig {
            bind_address: "127.0.0.1".parse().expect("an address"),
            listen_port: 0,
            ..NameServerConfig::default()
        };
        let name_server = NameServer::start(rt.clone(), name_server_config)
            .await
            .expect("a name server");
        let mut config = config(dir.path(), FlushDiskType::Sync);
        config.network.namesrv_addresses.0 = vec![name_server.address().to_string()];
        let broker = Broker::start(rt.clone(), config.clone()).await.expect("a broker");
        let client = Client::new(rt.clone(), "c", broker.address());
        for number in 0..20 {
            let reply = client
                .send("Fresh", 1, &format!("m{number}"), "")
                .await
                .expect("a reply");
            assert_eq!(reply.code, 0, "{}", reply.remark_text());
        }
        let route = Client::new(rt.clone(), "r", name_server.address());
        let asked = Command::request(request::GET_ROUTEINFO_BY_TOPIC).with("topic", "Fresh");
        let reply = loop {
            let reply = route.insist(asked.clone()).await;
            if reply.is_success() {
                break reply;
            }
            assert_eq!(reply.code, 17);
        };
        let data = TopicRouteData::read(&reply.body).expect("a route");
        assert_eq!(
            data.queue_datas[0].write_queue_nums, 4,
            "as many as the sender asked for"
        );
        let keyed = client
            .send("Fresh", 1, "keyed", "KEYS\u{1}key-1 key-2\u{2}")
            .await
            .expect("a reply");
        assert_eq!(keyed.code, 0);
        let query = Command::request(request::QUERY_MESSAGE)
            .with("topic", "Fresh")
            .with("key", "key-2")
            .with("maxNum", "32")
            .with("beginTimestamp", "0")
            .with("endTimestamp", &i64::MAX.to_string());
        assert_eq!(bodies(&messages(&client.insist(query.clone()).await)), ["keyed"]);
        let nothing = client.insist(query.with("key", "key-3")).await;
        assert_eq!(nothing.code, 22);
        client.commit("g", "Fresh", 1, 5).await;
        client.heartbeat("g", &["Fresh"]).await;
        client.commit("g", "Fresh", 1, 7).await;
        broker.shutdown().await;
        let gone = route
            .insist(Command::request(request::GET_ROUTEINFO_BY_TOPIC).with("topic", "Fresh"))
            .await;
        assert_eq!(gone.code, 17, "unregistered");

        let broker = Broker::start(rt.clone(), config).await.expect("a broker");
        let client = Client::new(rt.clone(), "c", broker.address());
        let read = client.read_all("g", "Fresh", 1, 0).await;
        assert_eq!(read.len(), 21);
        assert_eq!(read[19].body, "m19");
        assert_eq!(client.committed("g", "Fresh", 1).await, Some(7));
        broker.shutdown().await;
        name_server.shutdown().await;
    });
}

#[test]
fn many_connections_keep_their_order_and_lose_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    on_real(|rt| async move {
        let broker = Broker::start(rt.clone(), config(dir.path(), FlushDiskType::Async))
            .await
            .expect("a broker");
        let address = broker.address();
        Client::new(rt.clone(), "admin", address).create_topic("T", 4).await;
        let senders = (0..13).map(|sender| {
            let client = Client::new(rt.clone(), "s", address);
            async move {
                for number in 0..50 {
                    let body = format!("{sender} {number}");
                    let reply = client.send("T", sender % 4, &body, "").await.expect("a reply");
                    assert_eq!(reply.code, 0);
                }
            }
        });
        join_all(senders).await;
        let client = Client::new(rt.clone(), "c", address);
        let mut next = [0; 13];
        for queue_id in 0..4 {
            let read = client.read_all("g", "T", queue_id, 0).await;
            for (offset, message) in read.iter().enumerate() {
                assert_eq!(message.offset, offset as i64);
                let (sender, number) = message.body.split_once(' ').expect("two numbers");
                let sender: usize = sender.parse().expect("a number");
                assert_eq!(number, next[sender].to_string(), "order of sender {sender}");
                next[sender] += 1;
            }
        }
        assert_eq!(next, [50; 13]);
        broker.shutdown().await;
    });
}

#[test]
fn a_batch_is_stored_as_its_messages_and_refusals_name_their_reason() {
    let dir = tempfile::tempdir().expect("a folder");
    on_real(|rt| async move {
        let broker = Broker::start(rt.clone(), config(dir.path(), FlushDiskType::Async))
            .await
            .expect("a broker");
        let client = Client::new(rt.clone(), "c", broker.address());
        client.create_topic("T", 1).await;
        let mut body = Vec::new();
        for text in ["one", "two", "three"] {
            let message = BatchMessage {
                flag: 0,
                body: text.as_bytes(),
                properties: "TAGS\u{1}A\u{2}",
            };
            encode_batch_message(&message, &mut body);
        }
        // As the C++ client sends it: code 10 with a flag.
        let mut batch = Client::<Real>::send_command("T", 0, "", "")
            .with_body(Bytes::from(body))
            .with("m", "1");
        batch.code = request::SEND_MESSAGE;
        let reply = client.call(batch).await.expect("a reply");
        assert_eq!(reply.code, 0, "{}", reply.remark_text());
        assert_eq!(reply.ext.get("msgId").expect("ids").split(',').count(), 3);
        assert_eq!(bodies(&client.read_all("g", "T", 0, 0).await), ["one", "two", "three"]);

        let refused = [
            (Client::<Real>::send_command("T", 7, "x", ""), 29),
            (Client::<Real>::send_command("a b", 0, "x", ""), 29),
            (Client::<Real>::send_command("SCHEDULE_TOPIC_XXXX", 0, "x", ""), 16),
            (Client::<Real>::send_command("T", 0, &"x".repeat(300 << 10), ""), 13),
            (Client::<Real>::send_command("T", 0, "x", "TRAN_MSG\u{1}true\u{2}"), 16),
            (
                Client::<Real>::send_command("T", 0, "x", "TIMER_DELAY_MS\u{1}5000\u{2}"),
                13,
            ),
            (
                Client::<Real>::send_command("None", 0, "x", "").with("c", "NoTemplate"),
                17,
            ),
        ];
        for (command, code) in refused {
            let reply = client.call(command).await.expect("a reply");
            assert_eq!(reply.code, code, "{}", reply.remark_text());
            assert_eq!(reply.ext.get("TRACE_ON"), Some("true"), "fields with every answer");
        }
        let unknown = client.call(Command::request(31_337)).await.expect("a reply");
        assert_eq!(unknown.code, 3);
        assert_eq!(unknown.remark_text(), " request type 31337 not supported");
        assert_eq!(client.max("T", 0).await, 3, "nothing refused was stored");
        broker.shutdown().await;
    });
}

#[test]
fn a_held_pull_is_woken_by_a_message() {
    let dir = tempfile::tempdir().expect("a folder");
    on_real(|rt| async move {
        let broker = Broker::start(rt.clone(), config(dir.path(), FlushDiskType::Async))
            .await
            .expect("a broker");
        let client = Client::new(rt.clone(), "c", broker.address());
        let waiting = Client::new(rt.clone(), "w", broker.address());
        client.create_topic("T", 1).await;
        let polling = waiting.poll("g", "T", 0, Duration::from_secs(15));
        let sending = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            client.send("T", 0, "hello", "").await.expect("a reply")
        };
        let (reply, sent) = futures_util::join!(polling, sending);
        assert_eq!(field(&sent, "queueOffset"), 0);
        assert_eq!(bodies(&messages(&reply.expect("a reply"))), ["hello"]);
        broker.shutdown().await;
    });
}
