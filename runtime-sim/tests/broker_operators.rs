//! What operators and administrators ask a broker: each request is answered with the body that the official tools parse.

#[path = "broker/client.rs"]
mod client;

use std::time::Duration;

use client::{Client, field, messages, small_config};
use orrery_core::broker::Broker;
use orrery_core::protocol::Command;
use orrery_core::protocol::body::{Body, KvTable, TopicConfigSerializeWrapper};
use orrery_core::protocol::code::{request, response};
use orrery_core::protocol::message::{BatchMessage, encode_batch_message};
use orrery_runtime_sim::{SimRuntime, run};

const PORT: u16 = 25_911;

/// A broker with topic `orders` (two queues, three messages in queue 0) and a member of `readers` that committed offset 2.
fn with_broker<F>(scenario: impl FnOnce(Client<SimRuntime>) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let outcome = run(5, |world| async move {
        let node = world.add_node("broker");
        let mut config = small_config(PORT);
        config.network.broker_ip1 = Some(world.ip(node).to_string());
        world.start(node, move |rt| {
            let config = config.clone();
            async move {
                let broker = Broker::start(rt.clone(), config).await.expect("a broker that starts");
                std::future::pending::<()>().await;
                broker.shutdown().await;
            }
        });
        let rt = world.runtime(world.add_node("operator"));
        let client = Client::new(rt, "c1", world.address(node, PORT));
        assert_eq!(client.create_topic("orders", 2).await.code, response::SUCCESS);
        for body in ["one", "two", "three"] {
            client.send("orders", 0, body, "").await.expect("stored");
        }
        client.heartbeat("readers", &["orders"]).await;
        client.commit("readers", "orders", 0, 2).await;
        scenario(client).await;
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
}

async fn ask(client: &Client<SimRuntime>, command: Command) -> Command {
    let code = command.code;
    let reply = client.call(command).await.expect("an answer");
    assert_eq!(reply.code, response::SUCCESS, "request {code}: {}", reply.remark_text());
    reply
}

async fn ask_text(client: &Client<SimRuntime>, command: Command) -> String {
    let reply = ask(client, command).await;
    String::from_utf8_lossy(&reply.body).into_owned()
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

fn on_queue(code: i32) -> Command {
    Command::request(code).with("topic", "orders").with("queueId", "0")
}

#[test]
fn bounds_times_and_single_messages_are_found() {
    with_broker(|client| async move {
        assert_eq!(
            field(&ask(&client, on_queue(request::GET_MAX_OFFSET)).await, "offset"),
            3
        );
        assert_eq!(
            field(&ask(&client, on_queue(request::GET_MIN_OFFSET)).await, "offset"),
            0
        );
        let by_time = on_queue(request::SEARCH_OFFSET_BY_TIMESTAMP).with("timestamp", "0");
        assert_eq!(field(&ask(&client, by_time).await, "offset"), 0);
        let late = on_queue(request::SEARCH_OFFSET_BY_TIMESTAMP).with("timestamp", &i64::MAX.to_string());
        assert!((2..=3).contains(&field(&ask(&client, late).await, "offset")));
        let earliest = ask(&client, on_queue(request::GET_EARLIEST_MSG_STORETIME)).await;
        assert!(field(&earliest, "timestamp") > 0);
        let stored = client.read_all("readers", "orders", 0, 0).await;
        let view = Command::request(request::VIEW_MESSAGE_BY_ID)
            .with("topic", "orders")
            .with("offset", &stored[1].physical_offset.to_string());
        assert_eq!(messages(&ask(&client, view).await)[0].body, "two");
    });
}

#[test]
fn topics_are_listed_described_and_removed() {
    with_broker(|client| async move {
        let all = ask(&client, Command::request(request::GET_ALL_TOPIC_CONFIG)).await;
        let all = TopicConfigSerializeWrapper::read(&all.body).expect("a table");
        assert_eq!(all.topic_config_table["orders"].read_queue_nums, 2);
        let topic = |code| Command::request(code).with("topic", "orders");
        says(
            &ask_text(&client, topic(request::GET_TOPIC_CONFIG)).await,
            &["\"orders\"", "\"writeQueueNums\":2"],
        );
        says(
            &ask_text(&client, topic(request::GET_TOPIC_STATS_INFO)).await,
            &["\"offsetTable\"", "\"maxOffset\":3"],
        );
        says(
            &ask_text(&client, topic(request::QUERY_TOPIC_CONSUME_BY_WHO)).await,
            &["\"groupList\"", "readers"],
        );
        let system = Command::request(request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER);
        says(&ask_text(&client, system).await, &["\"topicList\"", "TBW102"]);
        ask(&client, topic(request::DELETE_TOPIC_IN_BROKER)).await;
        let gone = client.call(topic(request::GET_TOPIC_CONFIG)).await.expect("an answer");
        assert_eq!(gone.code, response::TOPIC_NOT_EXIST);
    });
}

#[test]
fn groups_are_made_described_and_removed() {
    with_broker(|client| async move {
        let make = Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP)
            .with_body(r#"{"groupName":"late","consumeEnable":true,"retryMaxTimes":3,"retryQueueNums":1}"#);
        ask(&client, make).await;
        let one = Command::request(request::GET_SUBSCRIPTIONGROUP_CONFIG).with("group", "late");
        says(
            &ask_text(&client, one.clone()).await,
            &["\"late\"", "\"retryMaxTimes\":3"],
        );
        let all = Command::request(request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG);
        says(
            &ask_text(&client, all).await,
            &["\"subscriptionGroupTable\"", "\"late\""],
        );
        ask(
            &client,
            Command::request(request::DELETE_SUBSCRIPTIONGROUP).with("groupName", "late"),
        )
        .await;
        let all = Command::request(request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG);
        let text = ask_text(&client, all).await;
        assert!(!text.contains("\"late\""));
    });
}

#[test]
fn connections_and_progress_of_a_group_are_shown() {
    with_broker(|client| async move {
        let consumers = Command::request(request::GET_CONSUMER_CONNECTION_LIST).with("consumerGroup", "readers");
        says(
            &ask_text(&client, consumers).await,
            &["\"connectionSet\"", "\"c1\"", "\"subscriptionTable\""],
        );
        let progress = Command::request(request::GET_CONSUME_STATS)
            .with("consumerGroup", "readers")
            .with("topic", "orders");
        says(
            &ask_text(&client, progress).await,
            &["\"offsetTable\"", "\"brokerOffset\":3", "\"consumerOffset\":2"],
        );
        let nobody = Command::request(request::GET_PRODUCER_CONNECTION_LIST).with("producerGroup", "nobody");
        assert_eq!(
            client.call(nobody).await.expect("an answer").code,
            response::SYSTEM_ERROR
        );
        for code in [request::GET_CONSUMER_RUNNING_INFO, request::CONSUME_MESSAGE_DIRECTLY] {
            let offline = Command::request(code)
                .with("consumerGroup", "readers")
                .with("clientId", "not-here")
                .with("msgId", "0A0000010000277F0000000000000000");
            let reply = client.call(offline).await.expect("an answer");
            assert_ne!(reply.code, response::SUCCESS);
            assert_ne!(reply.code, response::REQUEST_CODE_NOT_SUPPORTED);
        }
    });
}

#[test]
fn configuration_and_running_figures_are_shown_and_unknown_codes_are_refused() {
    with_broker(|client| async move {
        let config = ask_text(&client, Command::request(request::GET_BROKER_CONFIG)).await;
        says(&config, &["brokerName=broker-a\n", "flushDiskType=ASYNC_FLUSH\n"]);
        let figures = ask(&client, Command::request(request::GET_BROKER_RUNTIME_INFO)).await;
        let figures = KvTable::read(&figures.body).expect("a table");
        assert!(figures.table.contains_key("brokerVersionDesc"), "{figures:?}");
        let tags = r#"{"clientId":"c1","group":"readers","subscriptionData":{"topic":"orders","subString":"*","expressionType":"TAG"}}"#;
        ask(&client, Command::request(request::CHECK_CLIENT_CONFIG).with_body(tags)).await;
        for code in [request::POP_MESSAGE, request::QUERY_ASSIGNMENT, 9_999] {
            let reply = client.call(Command::request(code)).await.expect("an answer");
            assert_eq!(reply.code, response::REQUEST_CODE_NOT_SUPPORTED);
        }
        let end = client
            .call(Command::request(request::END_TRANSACTION))
            .await
            .expect("an answer");
        assert_eq!(end.code, response::NO_PERMISSION);
    });
}

#[test]
fn a_batch_takes_offsets_one_after_another() {
    with_broker(|client| async move {
        let mut body = Vec::new();
        for text in ["four", "five"] {
            let message = BatchMessage {
                flag: 0,
                body: text.as_bytes(),
                properties: "",
            };
            encode_batch_message(&message, &mut body);
        }
        let mut batch = Client::<SimRuntime>::send_command("orders", 0, "", "").with_body(body);
        batch.code = request::SEND_BATCH_MESSAGE;
        let batch = batch.with("m", "true");
        assert_eq!(field(&ask(&client, batch).await, "queueOffset"), 3);
        let stored = client.read_all("readers", "orders", 0, 3).await;
        let bodies: Vec<&str> = stored.iter().map(|message| message.body.as_str()).collect();
        assert_eq!(bodies, ["four", "five"]);
        client.rt.world().sleep(Duration::from_millis(1)).await;
    });
}
