//! Orderly consumption: locks, failures, hand-over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orrery_core::client::observer::RevokeReason;
use orrery_core::client::{ListenerFn, MessageView, PushConsumer, Verdict};
use orrery_core::protocol::code::request;

use super::scripted::Act;
use super::stage::{Event, Recorder, SECOND, Stage, consumer, consumer_config, processed, simulate};

/// Intervals of deliveries by client: start and end in true time.
fn intervals(recorder: &Recorder) -> Vec<(Duration, Duration)> {
    let mut open: BTreeMap<(i32, i64), Duration> = BTreeMap::new();
    let mut intervals = Vec::new();
    for (time, event) in recorder.timed() {
        match event {
            Event::Started(queue_id, offset) => drop(open.insert((queue_id, offset), time)),
            Event::Ended(queue_id, offset, _) => intervals.push((open.remove(&(queue_id, offset)).unwrap(), time)),
            _ => {}
        }
    }
    intervals
}

#[test]
fn an_orderly_consumer_stops_when_its_lock_lapses_and_the_next_owner_does_not_overlap() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let (one, two) = (Recorder::new(&world), Recorder::new(&world));
        let (node_one, rt_one) = stage.node("one");
        let (_, rt_two) = stage.node("two");
        stage.fill(0, 1000);
        let pause = Duration::from_millis(100);
        let first = consumer(&stage, &rt_one, &one, consumer_config().orderly(), pause).await;
        stage.until("ten are processed", || processed(&one).len() >= 10).await;
        // The first is cut off: it still has a thousand messages, but its lock cannot be renewed.
        world.partition(&[node_one], &stage.broker_nodes);
        stage.brokers[0].script().members.clear();
        let second = consumer(&stage, &rt_two, &two, consumer_config().orderly(), pause).await;
        let cut_off = world.now();
        stage.until("the second works", || processed(&two).len() >= 100).await;
        let last_of_first = intervals(&one).last().unwrap().1;
        let first_of_second = intervals(&two).first().unwrap().0;
        assert!(last_of_first < first_of_second, "{last_of_first:?} {first_of_second:?}");
        assert!(last_of_first > cut_off + 5 * SECOND, "the lock counts for a while");
        assert!(one.events().contains(&Event::Revoked(0, RevokeReason::LockLost)));
        assert!(one.events().contains(&Event::Lock(0, "lapsed")));
        // In order, from what was committed.
        let offsets: Vec<i64> = processed(&two).iter().map(|(_, offset)| *offset).collect();
        assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert!(offsets[0] <= processed(&one).len() as i64);
        drop((first, second));
    });
}

#[test]
fn an_orderly_queue_holds_at_a_failed_message_and_is_unlocked_at_the_end() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.fill(0, 20);
        let (_, rt) = stage.node("one");
        let client = stage.client(&rt, &recorder);
        let listener = ListenerFn(|messages: Vec<MessageView>| {
            let message = &messages[0];
            let fails = message.queue_offset == 5 && message.reconsume_times < 3;
            async move { if fails { Verdict::Later } else { Verdict::Success } }
        });
        let consumer = PushConsumer::start(&client, consumer_config().orderly(), listener)
            .await
            .unwrap();
        stage
            .until("all are processed", || processed(&recorder).len() == 20)
            .await;
        consumer.shutdown().await;
        let started: Vec<i64> = recorder
            .events()
            .iter()
            .filter_map(|event| match event {
                Event::Started(_, offset) => Some(*offset),
                _ => None,
            })
            .collect();
        let expected: Vec<i64> = (0..5).chain([5, 5, 5, 5]).chain(6..20).collect();
        assert_eq!(started, expected);
        assert_eq!(stage.brokers[0].committed("g", "T", 0), Some(20));
        assert!(stage.brokers[0].script().locks.is_empty());
        assert!(stage.brokers[0].script().members["g"].is_empty());
    });
}

#[test]
fn an_orderly_queue_changes_hands_only_after_the_delivery_in_progress() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let (one, two) = (Recorder::new(&world), Recorder::new(&world));
        // The one queue belongs to the client that sorts first: it comes second.
        let (_, rt_one) = stage.node("a-one");
        let (_, rt_two) = stage.node("b-two");
        stage.fill(0, 30);
        let pause = 3 * SECOND;
        let second = consumer(&stage, &rt_two, &two, consumer_config().orderly(), pause).await;
        stage.until("three are processed", || processed(&two).len() >= 3).await;
        let first = consumer(&stage, &rt_one, &one, consumer_config().orderly(), pause).await;
        stage
            .until("all are processed", || {
                processed(&one).len() + processed(&two).len() >= 30
            })
            .await;
        let last_of_two = intervals(&two).last().unwrap().1;
        let first_of_one = intervals(&one).first().unwrap().0;
        assert!(last_of_two < first_of_one, "{last_of_two:?} {first_of_one:?}");
        assert!(two.events().contains(&Event::Revoked(0, RevokeReason::Rebalance)));
        assert!(two.events().contains(&Event::Lock(0, "released")));
        // The delivery that was in progress counts: nothing comes twice.
        let handed_over = processed(&two).len() as i64;
        assert!(one.events().contains(&Event::Assigned(0, handed_over)));
        assert_eq!(processed(&one).len() + processed(&two).len(), 30);
        drop((first, second));
    });
}

#[test]
fn an_orderly_message_past_its_limit_becomes_a_dead_letter_and_frees_its_queue() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        let levels: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = levels.clone();
        stage.brokers[0].rule(move |command| {
            if command.code == request::CONSUMER_SEND_MSG_BACK {
                let level = command.ext.get("delayLevel").unwrap().to_owned();
                seen.lock().unwrap().push(level);
            }
            Act::Serve
        });
        stage.fill(0, 3);
        let (_, rt) = stage.node("one");
        let client = stage.client(&rt, &recorder);
        let listener = ListenerFn(|messages: Vec<MessageView>| {
            let fails = messages[0].queue_offset == 1;
            async move { if fails { Verdict::Later } else { Verdict::Success } }
        });
        let mut config = consumer_config().orderly();
        config.reconsume_count_max = Some(2);
        let _consumer = PushConsumer::start(&client, config, listener).await.unwrap();
        stage
            .until("the others are processed", || processed(&recorder).len() == 2)
            .await;
        let started = |event: &&Event| matches!(event, Event::Started(0, 1));
        assert_eq!(recorder.events().iter().filter(started).count(), 3);
        assert_eq!(*levels.lock().unwrap(), ["-1"]);
    });
}
