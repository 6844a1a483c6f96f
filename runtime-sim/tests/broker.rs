//! A broker in simulation: kill, power loss, hand-over of locks, delays and retries over restarts.

#[path = "broker/client.rs"]
mod client;

use std::future::Future;
use std::time::Duration;

use client::{Client, bodies, field, messages, small_config};
use orrery_core::broker::Broker;
use orrery_core::config::{BrokerConfig, FlushDiskType};
use orrery_core::protocol::code::request;
use orrery_runtime_sim::{NodeId, SimRuntime, World, run};

const PORT: u16 = 23_911;

/// A world with one broker and a client's node, and what to do in it.
fn with_broker<T, F, S>(seed: u64, config: BrokerConfig, scenario: F) -> T
where
    T: Send + 'static,
    F: FnOnce(Stage) -> S + Send + 'static,
    S: Future<Output = T> + Send + 'static,
{
    let outcome = run(seed, move |world| async move {
        let broker = world.add_node("broker");
        let clients = world.add_node("clients");
        let ip = world.ip(broker).to_string();
        let mut config = config;
        config.network.broker_ip1 = Some(ip);
        world.start(broker, move |rt| {
            let config = config.clone();
            async move {
                let broker = Broker::start(rt.clone(), config).await.expect("a broker that starts");
                rt.announce_started();
                std::future::pending::<()>().await;
                broker.shutdown().await;
            }
        });
        scenario(Stage { world, broker, clients }).await
    });
    assert!(outcome.panics.is_empty(), "seed {seed}: {:?}", outcome.panics);
    outcome.value
}

trait Started {
    fn announce_started(&self);
}

impl Started for SimRuntime {
    fn announce_started(&self) {
        self.world().note("broker started", &[]);
    }
}

struct Stage {
    world: World,
    broker: NodeId,
    clients: NodeId,
}

impl Stage {
    fn client(&self, id: &str) -> Client<SimRuntime> {
        let rt = self.world.runtime(self.clients);
        Client::new(rt, id, self.world.address(self.broker, PORT))
    }

    async fn sleep(&self, seconds: u64) {
        self.world.sleep(Duration::from_secs(seconds)).await;
    }
}

fn config(flush: FlushDiskType) -> BrokerConfig {
    let mut config = small_config(PORT);
    config.flush.disk_type = flush;
    config
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    with_broker(1, config(FlushDiskType::Async), |stage| async move {
        let client = stage.client("c");
        client.create_topic("T", 2).await;
        for number in 0..40 {
            let reply = client
                .send("T", number % 2, &format!("m{number}"), "TAGS\u{1}A\u{2}")
                .await
                .unwrap();
            assert_eq!(reply.code, 0, "{}", reply.remark_text());
            assert_eq!(field(&reply, "queueOffset"), i64::from(number / 2));
            assert_eq!(reply.ext.get("TRACE_ON"), Some("true"));
        }
        stage.world.kill(stage.broker);
        stage.world.restart(stage.broker);
        let odd = client.read_all("g", "T", 1, 0).await;
        assert_eq!(odd.len(), 20);
        assert_eq!(odd[3].body, "m7");
        assert_eq!(odd[3].property("TAGS"), Some("A"));
        assert_eq!(
            odd[3].property("UNIQ_KEY").map(str::len),
            Some(32),
            "filled in by the broker"
        );
        assert_eq!(client.max("T", 0).await, 20);
    });
}

#[test]
fn under_synchronous_flush_what_was_acknowledged_survives_a_power_loss() {
    for seed in 0..5 {
        with_broker(seed, config(FlushDiskType::Sync), |stage| async move {
            let client = stage.client("c");
            client.create_topic("T", 1).await;
            let mut acknowledged = 0;
            for round in 0..3 {
                for number in 0..10 {
                    let reply = client.send("T", 0, &format!("{round}.{number}"), "").await.unwrap();
                    assert_eq!(reply.code, 0);
                    acknowledged += 1;
                }
                stage.world.power_loss(stage.broker);
                stage.world.restart(stage.broker);
                assert_eq!(client.read_all("g", "T", 0, 0).await.len(), acknowledged);
            }
        });
    }
}

#[test]
fn acknowledging_before_fsync_loses_messages_at_a_power_loss() {
    let lost = (0..5)
        .filter(|seed| {
            with_broker(*seed, config(FlushDiskType::Sync), |stage| async move {
                stage.world.switch_site("ack-before-fsync", 1.0);
                let client = stage.client("c");
                client.create_topic("T", 1).await;
                for number in 0..10 {
                    client.send("T", 0, &format!("m{number}"), "").await.unwrap();
                }
                stage.world.power_loss(stage.broker);
                stage.world.restart(stage.broker);
                client.max("T", 0).await < 10
            })
        })
        .count();
    assert!(lost > 0, "the site has no effect");
}

#[test]
fn a_consumer_that_read_past_the_cut_is_set_back_and_misses_nothing() {
    let mut cuts = 0;
    for seed in 0..8 {
        let was_cut = with_broker(seed, config(FlushDiskType::Async), |stage| async move {
            let consumer = stage.client("consumer");
            let producer = stage.client("producer");
            consumer.create_topic("T", 1).await;
            consumer.heartbeat("g", &["T"]).await;
            stage.sleep(2).await;
            for number in 0..30 {
                producer.send("T", 0, &format!("old {number}"), "").await.unwrap();
            }
            assert_eq!(consumer.read_all("g", "T", 0, 0).await.len(), 30);
            consumer.commit("g", "T", 0, 25).await;
            stage.world.power_loss(stage.broker);
            stage.world.restart(stage.broker);
            let cut = producer.max("T", 0).await;
            // New messages take the offsets of the lost ones before the consumer is heard of again.
            for number in 0..40 {
                producer.send("T", 0, &format!("new {number}"), "").await.unwrap();
            }
            assert!(consumer.committed("g", "T", 0).await.is_none_or(|offset| offset <= cut));
            let reply = consumer.pull("g", "T", 0, 30).await.unwrap();
            if cut == 30 {
                assert_eq!(reply.code, 0);
                return false;
            }
            assert_eq!(reply.code, 21, "{}", reply.remark_text());
            assert_eq!(field(&reply, "nextBeginOffset"), cut);
            assert_eq!(field(&reply, "maxOffset"), cut + 40);
            // A commit from before the cut does not skip what took its place.
            consumer.commit("g", "T", 0, 30).await;
            assert_eq!(consumer.committed("g", "T", 0).await, Some(cut));
            let read = consumer.read_all("g", "T", 0, cut).await;
            assert_eq!(read.len(), 40);
            assert_eq!(bodies(&read)[..2], ["new 0", "new 1"]);
            consumer.commit("g", "T", 0, cut + 40).await;
            assert_eq!(consumer.committed("g", "T", 0).await, Some(cut + 40));
            true
        });
        cuts += usize::from(was_cut);
    }
    assert!(cuts > 0, "no seed lost a tail");
}

#[test]
fn a_held_pull_is_answered_by_the_next_message_or_by_time() {
    with_broker(3, config(FlushDiskType::Async), |stage| async move {
        let client = stage.client("c");
        client.create_topic("T", 1).await;
        let started = stage.world.now();
        let reply = client.poll("g", "T", 0, Duration::from_secs(5)).await.unwrap();
        assert_eq!(reply.code, 19);
        assert_eq!(field(&reply, "maxOffset"), 0);
        assert!(stage.world.now() - started >= Duration::from_secs(5));

        let (waiting, started) = (stage.client("waiting"), stage.world.now());
        let producing = async {
            stage.world.sleep(Duration::from_secs(2)).await;
            client.send("T", 0, "hello", "").await.unwrap()
        };
        let polling = waiting.poll("g", "T", 0, Duration::from_secs(15));
        let (reply, _) = futures_util::join!(polling, producing);
        assert_eq!(bodies(&messages(&reply.unwrap())), ["hello"]);
        let took = stage.world.now() - started;
        assert!(took < Duration::from_millis(2500), "woken late: {took:?}");
    });
}

#[test]
fn members_are_listed_and_told_of_changes() {
    with_broker(4, config(FlushDiskType::Async), |stage| async move {
        let (one, two) = (stage.client("one"), stage.client("two"));
        assert!(one.members("g").await.is_empty());
        one.heartbeat("g", &["T", "%RETRY%g"]).await;
        two.heartbeat("g", &["T", "%RETRY%g"]).await;
        assert_eq!(one.members("g").await, ["one", "two"]);
        stage.sleep(1).await;
        assert!(one.heard().contains(&request::NOTIFY_CONSUMER_IDS_CHANGED));
        let before = one.heard().len();
        two.connections.shutdown().await;
        stage.sleep(1).await;
        assert_eq!(one.members("g").await, ["one"]);
        assert!(one.heard().len() > before, "told of the member that left");
    });
}

#[test]
fn after_a_restart_a_lock_goes_to_its_owner_at_once_and_to_others_after_a_lease() {
    with_broker(5, config(FlushDiskType::Async), |stage| async move {
        let (owner, other) = (stage.client("owner"), stage.client("other"));
        owner.create_topic("T", 4).await;
        assert_eq!(owner.lock("g", "T", &[0, 1]).await, [0, 1]);
        assert_eq!(other.lock("g", "T", &[1, 2]).await, [2]);
        stage.world.power_loss(stage.broker);
        stage.world.restart(stage.broker);
        assert_eq!(other.lock("g", "T", &[0, 1, 2, 3]).await, [2, 3]);
        assert_eq!(owner.lock("g", "T", &[0]).await, [0]);
        stage.sleep(45).await;
        assert_eq!(owner.lock("g", "T", &[0]).await, [0]);
        assert_eq!(
            other.lock("g", "T", &[1]).await,
            [0; 0],
            "the lease of the lost owner still runs"
        );
        stage.sleep(20).await;
        assert_eq!(
            other.lock("g", "T", &[0, 1]).await,
            [1],
            "one was renewed, one has run out"
        );
        owner.unlock("g", "T", &[0]).await;
        assert_eq!(other.lock("g", "T", &[0]).await, [0]);
    });
}

#[test]
fn a_lost_connection_keeps_the_lock_unless_the_defect_is_on() {
    for (is_on, expected) in [(false, vec![]), (true, vec![0])] {
        with_broker(6, config(FlushDiskType::Async), move |stage| async move {
            if is_on {
                stage.world.switch_site("drop-lock-on-reconnect", 1.0);
            }
            let (owner, other) = (stage.client("owner"), stage.client("other"));
            owner.create_topic("T", 1).await;
            owner.heartbeat("g", &["T"]).await;
            assert_eq!(owner.lock("g", "T", &[0]).await, [0]);
            owner.connections.shutdown().await;
            stage.sleep(1).await;
            assert_eq!(other.lock("g", "T", &[0]).await, expected);
        });
    }
}

#[test]
fn a_delayed_message_comes_after_its_delay_and_once_more_at_most_after_a_kill() {
    with_broker(7, config(FlushDiskType::Async), |stage| async move {
        let client = stage.client("c");
        client.create_topic("T", 2).await;
        let sent = stage.world.now();
        let reply = client.send("T", 1, "later", "DELAY\u{1}2\u{2}").await.unwrap();
        assert_eq!(reply.code, 0);
        assert_eq!(field(&reply, "queueId"), 1, "the queue that was asked for");
        stage.sleep(2).await;
        stage.world.kill(stage.broker);
        stage.world.restart(stage.broker);
        assert!(client.read_all("g", "T", 1, 0).await.is_empty());
        while client.max("T", 1).await == 0 {
            stage.world.sleep(Duration::from_millis(50)).await;
        }
        let took = stage.world.now() - sent;
        assert!(took >= Duration::from_secs(5), "early: {took:?}");
        assert!(took < Duration::from_secs(7), "late: {took:?}");
        let read = client.read_all("g", "T", 1, 0).await;
        assert_eq!(bodies(&read), ["later"]);
        assert_eq!(read[0].property("DELAY"), None);
        // Delivered and saved: not again.
        stage.sleep(12).await;
        stage.world.power_loss(stage.broker);
        stage.world.restart(stage.broker);
        stage.sleep(3).await;
        assert_eq!(client.read_all("g", "T", 1, 0).await.len(), 1);
    });
}

#[test]
fn a_message_sent_back_comes_through_the_retry_topic_and_ends_as_a_dead_letter() {
    with_broker(8, config(FlushDiskType::Sync), |stage| async move {
        let client = stage.client("c");
        client.create_topic("T", 1).await;
        client.heartbeat("g", &["T", "%RETRY%g"]).await;
        client.send("T", 0, "difficult", "UNIQ_KEY\u{1}ABC\u{2}").await.unwrap();
        let mut message = client.read_all("g", "T", 0, 0).await.remove(0);
        for attempt in 0..2 {
            assert_eq!(client.send_back("g", &message, 1, 2).await.code, 0);
            // What was acknowledged as sent back survives.
            stage.world.power_loss(stage.broker);
            stage.world.restart(stage.broker);
            // A retry delivered before the power loss may come again.
            message = loop {
                stage.world.sleep(Duration::from_millis(100)).await;
                let retries = client.read_all("g", "%RETRY%g", 0, 0).await;
                if let Some(next) = retries.into_iter().find(|retry| retry.reconsume_times == attempt + 1) {
                    break next;
                }
            };
            assert_eq!(message.body, "difficult");
            assert_eq!(message.property("RETRY_TOPIC"), Some("T"));
            assert_eq!(message.property("UNIQ_KEY"), Some("ABC"));
        }
        assert_eq!(client.send_back("g", &message, 1, 2).await.code, 0);
        let dead = client.read_all("g", "%DLQ%g", 0, 0).await;
        assert_eq!(bodies(&dead), ["difficult"]);
        assert_eq!(dead[0].property("DLQ_ORIGIN_TOPIC"), Some("T"));
    });
}

#[test]
fn a_topic_survives_a_power_loss_as_soon_as_its_creation_is_answered() {
    for seed in 0..4 {
        with_broker(seed, config(FlushDiskType::Async), |stage| async move {
            let client = stage.client("c");
            assert_eq!(client.create_topic("T", 3).await.code, 0);
            stage.world.power_loss(stage.broker);
            stage.world.restart(stage.broker);
            assert_eq!(
                client
                    .insist(Client::<SimRuntime>::send_command("T", 2, "x", ""))
                    .await
                    .code,
                0
            );
            let refused = client.send("T", 3, "x", "").await.unwrap();
            assert_eq!(refused.code, 29, "{}", refused.remark_text());
        });
    }
}

#[test]
fn a_former_owner_does_not_take_back_what_the_present_one_committed() {
    with_broker(9, config(FlushDiskType::Async), |stage| async move {
        let (former, present) = (stage.client("former"), stage.client("present"));
        present.create_topic("T", 1).await;
        for number in 0..10 {
            present.send("T", 0, &format!("m{number}"), "").await.unwrap();
        }
        former.heartbeat("g", &["T"]).await;
        present.heartbeat("g", &["T"]).await;
        former.commit("g", "T", 0, 3).await;
        present.commit("g", "T", 0, 8).await;
        former.commit("g", "T", 0, 4).await;
        assert_eq!(present.committed("g", "T", 0).await, Some(8));
        present.commit("g", "T", 0, 5).await;
        assert_eq!(present.committed("g", "T", 0).await, Some(5), "its own rewind counts");
        present.commit("g", "T", 0, 99).await;
        assert_eq!(present.committed("g", "T", 0).await, Some(10), "not past the end");
    });
}
