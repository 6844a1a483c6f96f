//! Push consumption: assignment, commits, retries, crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orrery_core::client::observer::{RevokeReason, SendBackOutcome};
use orrery_core::client::{ListenerFn, Message, MessageView, Producer, ProducerConfig, PushConsumer, Verdict};
use orrery_core::protocol::code::{request, response};
use orrery_runtime_sim::{LinkProfile, SimRuntime, run};

use super::scripted::Act;
use super::stage::{Event, Recorder, SECOND, Stage, consumer, consumer_config, processed, simulate};

#[test]
fn two_members_share_and_the_survivor_of_a_kill_takes_all_from_what_was_committed() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 4);
        let (one, two) = (Recorder::new(&world), Recorder::new(&world));
        let (node_one, rt_one) = stage.node("one");
        let (_, rt_two) = stage.node("two");
        let pause = Duration::from_millis(20);
        let first = consumer(&stage, &rt_one, &one, consumer_config(), pause).await;
        let second = consumer(&stage, &rt_two, &two, consumer_config(), pause).await;
        let share = |consumer: &PushConsumer<SimRuntime>| {
            let queues = consumer.assignment();
            queues.iter().filter(|queue| queue.topic == "T").count()
        };
        // The script sends no notifications: the periodic rebalance must do.
        stage
            .until("two queues each", || share(&first.0) == 2 && share(&second.0) == 2)
            .await;
        for queue_id in 0..4 {
            stage.fill(queue_id, 1500);
        }
        world.sleep(Duration::from_millis(700)).await;
        world.kill(node_one);
        drop(first);
        let member = stage.brokers[0].script().members["g"].first().unwrap().clone();
        assert!(member.ends_with("@one"));
        stage.brokers[0].script().members.get_mut("g").unwrap().remove(&member);
        let all = || {
            let by_two: BTreeSet<(i32, i64)> = processed(&two);
            processed(&one).union(&by_two).count() == 6000
        };
        stage.until("everything is processed", all).await;
        second.0.shutdown().await;
        for queue_id in 0..4 {
            assert_eq!(stage.brokers[0].committed("g", "T", queue_id), Some(1500));
        }
        // Nothing was committed that nobody had processed.
        let mut done: BTreeSet<(i32, i64)> = BTreeSet::new();
        let mut timed = one.timed();
        timed.extend(two.timed());
        timed.sort_by_key(|(time, _)| *time);
        for (_, event) in timed {
            match event {
                Event::Ended(queue_id, offset, _) => drop(done.insert((queue_id, offset))),
                Event::Commit(_, queue_id, offset) => {
                    assert!(
                        (0..offset).all(|below| done.contains(&(queue_id, below))),
                        "commit {offset}"
                    );
                }
                _ => {}
            }
        }
    });
}

#[test]
fn the_seeded_defect_commits_what_is_not_processed() {
    simulate(|world| async move {
        world.switch_site("commit-before-processing", 1.0);
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        let (_, rt) = stage.node("one");
        stage.fill(0, 500);
        let _consumer = consumer(&stage, &rt, &recorder, consumer_config(), SECOND).await;
        stage
            .until("a commit", || {
                recorder.events().iter().any(|event| matches!(event, Event::Commit(..)))
            })
            .await;
        let committed = stage.brokers[0].committed("g", "T", 0).unwrap();
        assert!(committed > processed(&recorder).len() as i64, "{committed}");
    });
}

#[test]
fn an_offset_out_of_range_is_taken_again_where_the_broker_says() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.fill(0, 100);
        stage.brokers[0].script().min_offsets.insert(("T".into(), 0), 40);
        let (_, rt) = stage.node("one");
        let (consumer, _client) = consumer(&stage, &rt, &recorder, consumer_config(), Duration::ZERO).await;
        stage
            .until("the rest is processed", || processed(&recorder).len() == 60)
            .await;
        consumer.shutdown().await;
        let events = recorder.events();
        let sessions: Vec<&Event> = events
            .iter()
            .filter(|event| matches!(event, Event::Assigned(..) | Event::Revoked(..)))
            .collect();
        let moved = RevokeReason::OffsetMoved { to: 40 };
        let expected = [
            &Event::Assigned(0, 0),
            &Event::Revoked(0, moved),
            &Event::Assigned(0, 40),
            &Event::Revoked(0, RevokeReason::Shutdown),
        ];
        assert_eq!(sessions, expected);
        assert_eq!(stage.brokers[0].committed("g", "T", 0), Some(100));
    });
}

#[test]
fn a_failed_message_comes_again_even_if_the_broker_does_not_put_it_back() {
    for is_refused in [false, true] {
        simulate(move |world| async move {
            let stage = Stage::new(&world, 1, 1);
            let recorder = Recorder::new(&world);
            stage.brokers[0].rule(move |command| match command.code {
                request::CONSUMER_SEND_MSG_BACK if is_refused => Act::Refuse(response::SYSTEM_ERROR),
                _ => Act::Serve,
            });
            stage.brokers[0].script().topics.insert("%RETRY%g".into(), 1);
            stage.fill(0, 3);
            let (_, rt) = stage.node("one");
            let client = stage.client(&rt, &recorder);
            let seen: Arc<Mutex<Vec<(String, String, i32)>>> = Arc::default();
            let listener = {
                let seen = seen.clone();
                ListenerFn(move |messages: Vec<MessageView>| {
                    let message = &messages[0];
                    let body = String::from_utf8_lossy(&message.body).into_owned();
                    let verdict = if message.reconsume_times < 2 {
                        Verdict::Later
                    } else {
                        Verdict::Success
                    };
                    seen.lock()
                        .unwrap()
                        .push((message.topic.to_string(), body, message.reconsume_times));
                    async move { verdict }
                })
            };
            let consumer = PushConsumer::start(&client, consumer_config(), listener).await.unwrap();
            stage
                .until("three deliveries of three messages", || seen.lock().unwrap().len() == 9)
                .await;
            consumer.shutdown().await;
            let mut counts: BTreeMap<(String, i32), i32> = BTreeMap::new();
            for (topic, body, times) in seen.lock().unwrap().iter() {
                assert_eq!(topic, "T");
                *counts.entry((body.clone(), *times)).or_default() += 1;
            }
            assert_eq!(counts.len(), 9, "{counts:?}");
            let stored = |event: &&Event| matches!(event, Event::SentBack(_, SendBackOutcome::Stored));
            assert_eq!(recorder.events().iter().filter(stored).count(), 6);
            assert_eq!(stage.brokers[0].committed("g", "T", 0), Some(3));
        });
    }
}

#[test]
fn a_broadcasting_member_goes_on_where_it_was_after_a_kill() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.fill(0, 10);
        let (node, rt) = stage.node("one");
        let config = || consumer_config().broadcasting("/offsets/g.json");
        let first = consumer(&stage, &rt, &recorder, config(), Duration::ZERO).await;
        stage
            .until("all are processed", || processed(&recorder).len() == 10)
            .await;
        world.sleep(6 * SECOND).await;
        world.kill(node);
        drop(first);
        stage.fill(0, 10);
        let later = Recorder::new(&world);
        let rt = world.runtime(node);
        let _second = consumer(&stage, &rt, &later, config(), Duration::ZERO).await;
        stage
            .until("the new ones are processed", || processed(&later).len() == 10)
            .await;
        assert!(later.events().contains(&Event::Assigned(0, 10)));
        assert_eq!(stage.brokers[0].committed("g", "T", 0), None);
    });
}

#[test]
fn a_full_process_queue_stops_the_pull() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.fill(0, 5000);
        let (_, rt) = stage.node("one");
        let (consumer, _client) = consumer(&stage, &rt, &recorder, consumer_config(), 3600 * SECOND).await;
        world.sleep(10 * SECOND).await;
        let pulls = |stage: &Stage| {
            let script = stage.brokers[0].script();
            script
                .seen
                .iter()
                .filter(|code| **code == request::PULL_MESSAGE)
                .count()
        };
        let count = pulls(&stage);
        // 1,000 messages by 32 a pull, and a long poll of the retry topic.
        assert!((32..=36).contains(&count), "{count} pulls");
        drop(consumer);
        world.sleep(20 * SECOND).await;
        assert_eq!(pulls(&stage), count);
    });
}

#[test]
fn a_restarted_broker_hears_of_the_group_again_at_once() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        let (_, rt) = stage.node("one");
        let (consumer, _client) = consumer(&stage, &rt, &recorder, consumer_config(), Duration::ZERO).await;
        stage.until("it works", || !consumer.assignment().is_empty()).await;
        world.kill(stage.broker_nodes[0]);
        stage.brokers[0].script().members.clear();
        world.sleep(SECOND).await;
        world.restart(stage.broker_nodes[0]);
        let restarted = world.now();
        stage
            .until("it is known", || !stage.brokers[0].script().members.is_empty())
            .await;
        assert!(world.now() - restarted < 5 * SECOND);
        stage.fill(0, 10);
        stage.until("it works again", || processed(&recorder).len() == 10).await;
    });
}

#[test]
fn the_last_commit_of_a_session_is_the_highest_even_while_answers_are_late() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.brokers[0].rule(|command| match command.code {
            request::UPDATE_CONSUMER_OFFSET => Act::LoseReply,
            _ => Act::Serve,
        });
        stage.fill(0, 2000);
        let (_, rt) = stage.node("one");
        let pause = Duration::from_millis(100);
        let (consumer, _client) = consumer(&stage, &rt, &recorder, consumer_config(), pause).await;
        // In the middle of a commit whose answer is lost.
        world.sleep(Duration::from_millis(7_100)).await;
        consumer.shutdown().await;
        let commits = recorder.events().into_iter().filter_map(|event| match event {
            Event::Commit(_, _, offset) => Some(offset),
            _ => None,
        });
        let commits: Vec<i64> = commits.collect();
        assert!(commits.len() >= 2, "{commits:?}");
        assert!(commits.is_sorted(), "{commits:?}");
        let done = processed(&recorder).len() as i64;
        assert_eq!(stage.brokers[0].committed("g", "T", 0), Some(done));
    });
}

#[test]
fn a_listener_that_panics_or_hangs_says_later() {
    let outcome = run(7, |world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.fill(0, 3);
        let (_, rt) = stage.node("one");
        let client = stage.client(&rt, &recorder);
        let listener = ListenerFn(|messages: Vec<MessageView>| {
            let message = messages[0].clone();
            async move {
                match (message.queue_offset, message.reconsume_times) {
                    (1, 0) => panic!("as the test wants"),
                    (2, 0) => std::future::pending().await,
                    _ => Verdict::Success,
                }
            }
        });
        let mut config = consumer_config();
        config.consume_timeout = 5 * SECOND;
        let consumer = PushConsumer::start(&client, config, listener).await.unwrap();
        let back = |event: &&Event| matches!(event, Event::SentBack(_, SendBackOutcome::Stored));
        stage
            .until("two come again", || recorder.events().iter().filter(back).count() == 2)
            .await;
        consumer.shutdown().await;
        assert_eq!(stage.brokers[0].committed("g", "T", 0), Some(3));
    });
    assert_eq!(outcome.seed, 7);
}

#[test]
fn many_seeds_of_lossy_networks_and_broker_restarts_lose_and_skip_nothing() {
    for seed in 0..20 {
        let outcome = run(seed, move |world| async move {
            world.set_default_link(LinkProfile {
                jitter: Duration::from_millis(5),
                loss: 0.02,
                ..LinkProfile::default()
            });
            let stage = Stage::new(&world, 2, 2);
            let recorder = Recorder::new(&world);
            let (_, rt_p) = stage.node("producer");
            let producer_client = stage.client(&rt_p, &recorder);
            let producer = Producer::start(&producer_client, ProducerConfig::new("p")).unwrap();
            let pause = Duration::from_millis(5);
            let (_, rt_one) = stage.node("one");
            let (_, rt_two) = stage.node("two");
            let first = consumer(&stage, &rt_one, &recorder, consumer_config(), pause).await;
            let second = consumer(&stage, &rt_two, &recorder, consumer_config(), pause).await;
            let mut sent = 0;
            for round in 0..3u64 {
                for index in 0..40 {
                    sent += usize::from(
                        producer
                            .send(&Message::new("T", format!("{round}-{index}")))
                            .await
                            .is_ok(),
                    );
                }
                let broker = stage.broker_nodes[(seed + round) as usize % 2];
                world.kill(broker);
                world.sleep(2 * SECOND).await;
                world.restart(broker);
            }
            assert!(sent > 60, "{sent} of 120 sent");
            let stored = |stage: &Stage| -> BTreeSet<(usize, i32, i64)> {
                let mut stored = BTreeSet::new();
                for (index, broker) in stage.brokers.iter().enumerate() {
                    for ((topic, queue_id), records) in &broker.script().queues {
                        if topic == "T" {
                            stored.extend((0..records.len() as i64).map(|offset| (index, *queue_id, offset)));
                        }
                    }
                }
                stored
            };
            let committed_all = || {
                let stored = stored(&stage);
                let ends = stored.iter().map(|(broker, queue_id, _)| (*broker, *queue_id));
                let ends: BTreeSet<(usize, i32)> = ends.collect();
                ends.into_iter().all(|(broker, queue_id)| {
                    let count = stored.iter().filter(|at| (at.0, at.1) == (broker, queue_id)).count() as i64;
                    stage.brokers[broker].committed("g", "T", queue_id) == Some(count)
                })
            };
            stage.until("everything is committed", committed_all).await;
            drop((first, second));
        });
        assert!(outcome.panics.is_empty(), "seed {seed}: {:?}", outcome.panics);
    }
}
