//! Sends, routes and name servers.

use futures_util::future::join_all;
use orrery_core::client::{Admin, Message, Producer, ProducerConfig, RequestError, SendStatus, Target};
use orrery_core::protocol::code::{request, response};
use orrery_core::types::MessageQueue;
use orrery_runtime_sim::SimRuntime;

use super::scripted::Act;
use super::stage::{Event, Recorder, SECOND, Stage, simulate};

fn sends(events: &[Event]) -> Vec<(String, &'static str)> {
    let attempts = events.iter().filter_map(|event| match event {
        Event::Attempt(broker, outcome) => Some((broker.clone(), *outcome)),
        _ => None,
    });
    attempts.collect()
}

async fn send_with(
    stage: &Stage,
    rt: &SimRuntime,
    recorder: &Recorder,
    target: Target<'_>,
) -> Result<SendStatus, RequestError> {
    let client = stage.client(rt, recorder);
    let mut config = ProducerConfig::new("p");
    config.attempt_timeout = Some(SECOND);
    let producer = Producer::start(&client, config).unwrap();
    let receipt = producer.send_to(&Message::new("T", "body"), target).await?;
    Ok(receipt.status)
}

#[test]
fn a_send_without_answer_goes_to_another_broker_and_both_attempts_are_told() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 2, 1);
        let recorder = Recorder::new(&world);
        for broker in &stage.brokers {
            let mut count = 0;
            broker.rule(move |command| match command.code {
                request::SEND_MESSAGE_V2 if count == 0 => {
                    count += 1;
                    Act::LoseReply
                }
                _ => Act::Serve,
            });
        }
        let (_, rt) = stage.node("client");
        let sent = send_with(&stage, &rt, &recorder, Target::Any).await;
        assert_eq!(sent, Ok(SendStatus::SendOk));
        let attempts = sends(&recorder.events());
        assert_eq!(
            attempts.iter().map(|attempt| attempt.1).collect::<Vec<_>>(),
            ["unknown", "unknown", "stored"]
        );
        assert_ne!(attempts[0].0, attempts[1].0);
        let stored: usize = stage.brokers.iter().map(|broker| broker.script().queues.len()).sum();
        assert_eq!(stored, 2);
    });
}

#[test]
fn a_lost_answer_is_unknown_and_a_send_to_a_given_queue_is_not_repeated() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 2);
        let recorder = Recorder::new(&world);
        stage.brokers[0].rule(|command| match command.code {
            request::SEND_MESSAGE_V2 => Act::LoseReply,
            _ => Act::Serve,
        });
        let queue = MessageQueue {
            topic: "T".into(),
            broker_name: "broker-0".into(),
            queue_id: 1,
        };
        let (_, rt) = stage.node("client");
        let sent = send_with(&stage, &rt, &recorder, Target::Queue(&queue)).await;
        assert!(matches!(sent, Err(RequestError::Unknown { .. })), "{sent:?}");
        assert_eq!(stage.brokers[0].script().queues[&("T".to_owned(), 1)].len(), 1);
    });
}

#[test]
fn a_refusal_keeps_its_code_and_a_dead_broker_means_not_sent() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.brokers[0].rule(|command| match command.code {
            request::SEND_MESSAGE_V2 => Act::Refuse(response::MESSAGE_ILLEGAL),
            _ => Act::Serve,
        });
        let (_, rt) = stage.node("client");
        let sent = send_with(&stage, &rt, &recorder, Target::Any).await;
        assert_eq!(sent.unwrap_err().code(), Some(response::MESSAGE_ILLEGAL));
        assert_eq!(sends(&recorder.events()).len(), 1);

        let client = stage.client(&rt, &recorder);
        let producer = Producer::start(&client, ProducerConfig::new("q")).unwrap();
        stage.brokers[0].rule(|_| Act::Serve);
        producer.send(&Message::new("T", "first")).await.unwrap();
        world.kill(stage.broker_nodes[0]);
        world.sleep(SECOND).await;
        let sent = producer.send(&Message::new("T", "second")).await;
        assert!(matches!(sent, Err(RequestError::NotSent { .. })), "{sent:?}");
    });
}

#[test]
fn the_next_name_server_is_asked_when_one_does_not_answer() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 2, 1);
        let recorder = Recorder::new(&world);
        stage.brokers[0].rule(|command| match command.code {
            request::GET_ROUTEINFO_BY_TOPIC => Act::Swallow,
            _ => Act::Serve,
        });
        stage.brokers[1].rule(|command| match command.code {
            request::GET_ROUTEINFO_BY_TOPIC => Act::Refuse(response::SYSTEM_ERROR),
            _ => Act::Serve,
        });
        let (_, rt) = stage.node("client");
        let admin = Admin::new(&stage.client(&rt, &recorder));
        assert!(admin.route("T").await.is_err());
        for index in [0, 1] {
            stage.brokers[index].rule(|_| Act::Serve);
            assert_eq!(admin.route("T").await.unwrap().publish.len(), 2);
            stage.brokers[index].rule(|command| match command.code {
                request::GET_ROUTEINFO_BY_TOPIC => Act::Swallow,
                _ => Act::Serve,
            });
        }
        assert!(admin.route("T").await.is_err());
    });
}

#[test]
fn a_topic_that_does_not_exist_borrows_the_route_of_the_default_topic() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        let (_, rt) = stage.node("client");
        let client = stage.client(&rt, &recorder);
        let producer = Producer::start(&client, ProducerConfig::new("p")).unwrap();
        let sent = producer.send(&Message::new("New", "x")).await;
        assert!(matches!(sent, Err(RequestError::NotSent { .. })), "{sent:?}");
        stage.brokers[0].script().topics.insert("TBW102".into(), 8);
        let message = Message::new("New", "x");
        let sends = (0..8).map(|_| producer.send(&message));
        let receipts = join_all(sends).await;
        let mut queues: Vec<i32> = receipts
            .into_iter()
            .map(|receipt| receipt.unwrap().queue.queue_id)
            .collect();
        queues.sort_unstable();
        assert_eq!(queues, [0, 0, 1, 1, 2, 2, 3, 3]);
    });
}
