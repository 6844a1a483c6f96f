use proptest::prelude::*;

use super::*;

const FULL: &[&str] = &["TBW102", "SELF_TEST_TOPIC"];

fn version(counter: i64) -> DataVersion {
    DataVersion {
        state_version: 0,
        timestamp: 1_700_000_000_000,
        counter,
    }
}

fn queues(count: i32) -> Queues {
    Queues {
        read_count: count,
        write_count: count,
        permission: 6,
        system_flag: 0,
    }
}

fn broker(name: &str, id: i64, address: &str) -> Registration {
    Registration {
        cluster: "C".to_owned(),
        broker_name: name.to_owned(),
        broker_id: id,
        address: address.to_owned(),
        ha_address: format!("ha-{address}"),
        acting_master: Some(false),
        zone_name: None,
        timeout: MEMBER_TIMEOUT,
        data_version: version(1),
        topics: FULL.iter().map(|topic| ((*topic).to_owned(), queues(8))).collect(),
        connection: 1,
    }
}

fn at(seconds: u64) -> Mono {
    Mono(seconds * 1_000_000_000)
}

fn accepted(registered: Registered) -> Option<MasterAddresses> {
    match registered {
        Registered::Accepted { master } => master,
        other => panic!("not accepted: {other:?}"),
    }
}

#[test]
fn a_registered_broker_is_found_by_topic_and_cluster() {
    let mut routes = Routes::default();
    assert_eq!(accepted(routes.register(broker("a", 0, "a0"), at(0))), None);
    let route = routes.route("TBW102").expect("registered");
    assert_eq!(route.queues, [("a".to_owned(), queues(8))]);
    assert_eq!(route.brokers[0].addresses[&0], "a0");
    assert_eq!(
        routes.topic_list(TopicListView::Cluster("C")),
        ["SELF_TEST_TOPIC", "TBW102"]
    );
    assert!(routes.topic_list(TopicListView::Cluster("D")).is_empty());
    assert!(routes.clusters()["C"].contains("a"));
    assert_eq!(routes.route("unknown"), None);
    routes.check_invariants();
}

#[test]
fn a_replica_learns_its_primary_and_registers_no_topics() {
    let mut routes = Routes::default();
    accepted(routes.register(broker("a", 0, "a0"), at(0)));
    let mut replica = broker("a", 1, "a1");
    replica.topics.push(("OnlyOnReplica".to_owned(), queues(1)));
    let master = accepted(routes.register(replica, at(0))).expect("the primary is alive");
    assert_eq!((master.address.as_str(), master.ha_address.as_str()), ("a0", "ha-a0"));
    assert_eq!(routes.route("OnlyOnReplica"), None);
    assert_eq!(
        routes.route("TBW102").expect("registered").brokers[0].addresses.len(),
        2
    );
}

#[test]
fn a_single_topic_may_not_come_first() {
    let mut routes = Routes::default();
    let mut incremental = broker("a", 0, "a0");
    incremental.topics.truncate(1);
    assert_eq!(routes.register(incremental.clone(), at(0)), Registered::Incomplete);
    assert!(routes.brokers().is_empty());
    accepted(routes.register(broker("a", 0, "a0"), at(0)));
    incremental.topics[0] = ("New".to_owned(), queues(4));
    incremental.data_version = version(2);
    accepted(routes.register(incremental, at(1)));
    assert!(routes.route("New").is_some());
    assert!(routes.route("TBW102").is_some());
    routes.check_invariants();
}

#[test]
fn an_unchanged_data_version_changes_only_unknown_topics() {
    let mut routes = Routes::default();
    accepted(routes.register(broker("a", 0, "a0"), at(0)));
    let mut again = broker("a", 0, "a0");
    again.topics[0].1 = queues(2);
    again.topics.push(("New".to_owned(), queues(1)));
    accepted(routes.register(again.clone(), at(1)));
    assert_eq!(routes.route("TBW102").expect("known").queues[0].1, queues(8));
    assert!(routes.route("New").is_some());
    again.data_version = version(2);
    accepted(routes.register(again, at(2)));
    assert_eq!(routes.route("TBW102").expect("known").queues[0].1, queues(2));
}

#[test]
fn topics_stay_when_a_broker_no_longer_names_them_unless_asked_otherwise() {
    let mut routes = Routes::default();
    let mut first = broker("a", 0, "a0");
    first.topics.push(("Old".to_owned(), queues(1)));
    accepted(routes.register(first, at(0)));
    accepted(routes.register(broker("a", 0, "a0"), at(1)));
    assert!(routes.route("Old").is_some());
    routes.set_options(RouteOptions {
        delete_missing_topics: true,
        ..RouteOptions::default()
    });
    accepted(routes.register(broker("a", 0, "a0"), at(2)));
    assert!(routes.route("Old").is_none());
    routes.check_invariants();
}

#[test]
fn a_higher_state_version_keeps_its_place() {
    let mut routes = Routes::default();
    let mut newer = broker("a", 0, "a0");
    newer.data_version.state_version = 2;
    accepted(routes.register(newer, at(0)));
    assert_eq!(routes.register(broker("a", 0, "b0"), at(1)), Registered::Outdated);
    assert_eq!(routes.broker("a").expect("known").addresses[&0], "a0");
    let mut newest = broker("a", 0, "b0");
    newest.data_version.state_version = 3;
    accepted(routes.register(newest, at(2)));
    assert_eq!(routes.broker("a").expect("known").addresses[&0], "b0");
}

#[test]
fn a_replica_that_becomes_primary_leaves_its_old_id() {
    let mut routes = Routes::default();
    accepted(routes.register(broker("a", 0, "a0"), at(0)));
    accepted(routes.register(broker("a", 1, "a1"), at(0)));
    accepted(routes.register(broker("a", 0, "a1"), at(1)));
    let addresses = routes.broker("a").expect("known").addresses;
    assert_eq!(addresses, BTreeMap::from([(0, "a1".to_owned())]));
    routes.check_invariants();
}

#[test]
fn silence_removes_a_broker_with_its_topics_after_120_seconds() {
    let mut routes = Routes::default();
    accepted(routes.register(broker("a", 0, "a0"), at(0)));
    accepted(routes.register(broker("b", 0, "b0"), at(0)));
    assert!(routes.heard("b", "b0", at(60)));
    assert!(routes.expire(at(120)).is_empty());
    let removed = routes.expire(at(121));
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].address, "a0");
    assert_eq!(routes.route("TBW102").expect("b has it").queues.len(), 1);
    assert_eq!(routes.expire(at(181)).len(), 1);
    assert!(routes.topic_list(TopicListView::All).is_empty());
    assert!(!routes.heard("b", "b0", at(182)));
    routes.check_invariants();
}

#[test]
fn an_old_connection_that_closes_late_does_not_remove_a_broker_that_came_back() {
    let mut routes = Routes::default();
    accepted(routes.register(broker("a", 0, "a0"), at(0)));
    let mut again = broker("a", 0, "a0");
    again.connection = 2;
    accepted(routes.register(again, at(1)));
    assert!(routes.connection_closed(1).is_empty());
    assert_eq!(routes.connection_closed(2).len(), 1);
    assert!(routes.brokers().is_empty());
}

#[test]
fn write_permission_is_wiped_and_restored() {
    let mut routes = Routes::default();
    accepted(routes.register(broker("a", 0, "a0"), at(0)));
    assert_eq!(routes.wipe_write_permission("a"), 2);
    assert_eq!(routes.route("TBW102").expect("known").queues[0].1.permission, 4);
    accepted(routes.register(broker("a", 0, "a0"), at(1)));
    assert_eq!(routes.route("TBW102").expect("known").queues[0].1.permission, 4);
    assert_eq!(routes.add_write_permission("a"), 2);
    assert_eq!(routes.route("TBW102").expect("known").queues[0].1.permission, 6);
    assert_eq!(routes.wipe_write_permission("unknown"), 0);
}

#[test]
fn a_lone_replica_acts_as_a_read_only_primary() {
    let mut routes = Routes::new(RouteOptions {
        support_acting_master: true,
        ..RouteOptions::default()
    });
    for (id, address) in [(0, "a0"), (1, "a1")] {
        let mut member = broker("a", id, address);
        member.acting_master = Some(true);
        accepted(routes.register(member, at(0)));
    }
    routes.unregister("a", "a0").expect("registered");
    let route = routes.route("TBW102").expect("known");
    assert_eq!(route.brokers[0].addresses, BTreeMap::from([(0, "a1".to_owned())]));
    assert_eq!(route.queues[0].1.permission, 4);
    let mut replica = broker("a", 1, "a1");
    replica.acting_master = Some(true);
    replica.data_version = version(9);
    accepted(routes.register(replica, at(1)));
    assert_eq!(routes.route("TBW102").expect("known").queues[0].1.permission, 4);
    routes.check_invariants();
}

#[test]
fn topics_are_registered_and_deleted_by_hand() {
    let mut routes = Routes::default();
    accepted(routes.register(broker("a", 0, "a0"), at(0)));
    let unknown = vec![("a".to_owned(), queues(1)), ("x".to_owned(), queues(1))];
    routes.register_topic("T", unknown).expect("ignored");
    assert!(routes.route("T").is_none());
    routes
        .register_topic("T", vec![("a".to_owned(), queues(1))])
        .expect("known broker");
    assert!(routes.route("T").is_some());
    routes.delete_topic("T", Some("other"));
    assert!(routes.route("T").is_some());
    routes.delete_topic("T", Some("C"));
    assert!(routes.route("T").is_none());
    routes.delete_topic("TBW102", None);
    assert_eq!(routes.topic_list(TopicListView::All), ["SELF_TEST_TOPIC"]);
    routes.check_invariants();
}

#[test]
fn a_broker_name_belongs_to_one_cluster_while_another_member_lives() {
    let mut routes = Routes::default();
    accepted(routes.register(broker("a", 0, "a0"), at(0)));
    let mut moved = broker("a", 0, "a0");
    moved.cluster = "D".to_owned();
    accepted(routes.register(moved, at(1)));
    assert_eq!(routes.clusters().into_keys().collect::<Vec<_>>(), ["D"]);
    let refused = routes.register(broker("a", 1, "a1"), at(2));
    assert!(matches!(
        refused,
        Registered::Refused(RefusedRegistration::OtherCluster { .. })
    ));
}

#[test]
fn unit_flags_choose_topics() {
    let mut routes = Routes::default();
    let mut member = broker("a", 0, "a0");
    member.topics = [("plain", 0), ("unit", 1), ("subscribed", 2), ("both", 3)]
        .map(|(topic, system_flag)| {
            (
                topic.to_owned(),
                Queues {
                    system_flag,
                    ..queues(1)
                },
            )
        })
        .to_vec();
    accepted(routes.register(member, at(0)));
    assert_eq!(routes.topic_list(TopicListView::Unit), ["both", "unit"]);
    assert_eq!(
        routes.topic_list(TopicListView::UnitSubscription),
        ["both", "subscribed"]
    );
    assert_eq!(routes.topic_list(TopicListView::UnitSubscriptionOnly), ["subscribed"]);
}

#[derive(Clone, Debug)]
enum Step {
    Register {
        name: u8,
        id: i64,
        address: u8,
        connection: u64,
        counter: i64,
        topics: Vec<u8>,
    },
    Unregister {
        name: u8,
        address: u8,
    },
    Closed(u64),
    Heard {
        name: u8,
        address: u8,
    },
    Delete {
        topic: u8,
        cluster: bool,
    },
    RegisterTopic {
        topic: u8,
        name: u8,
    },
    Wait(u64),
    Wipe(u8),
    Options(bool, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let topics = prop::collection::vec(0u8..6, 0..5);
    prop_oneof![
        6 => (0u8..3, 0i64..3, 0u8..5, 0u64..4, 0i64..3, topics).prop_map(
            |(name, id, address, connection, counter, topics)| Step::Register { name, id, address, connection, counter, topics }
        ),
        1 => (0u8..3, 0u8..5).prop_map(|(name, address)| Step::Unregister { name, address }),
        1 => (0u64..4).prop_map(Step::Closed),
        1 => (0u8..3, 0u8..5).prop_map(|(name, address)| Step::Heard { name, address }),
        1 => (0u8..6, any::<bool>()).prop_map(|(topic, cluster)| Step::Delete { topic, cluster }),
        1 => (0u8..6, 0u8..3).prop_map(|(topic, name)| Step::RegisterTopic { topic, name }),
        1 => (0u64..80).prop_map(Step::Wait),
        1 => (0u8..3).prop_map(Step::Wipe),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(delete, acting)| Step::Options(delete, acting)),
    ]
}

proptest! {
    #[test]
    fn no_sequence_of_steps_breaks_the_table(steps in prop::collection::vec(step(), 1..60)) {
        let mut routes = Routes::default();
        let mut now = at(0);
        for step in steps {
            match step {
                Step::Register { name, id, address, connection, counter, topics } => {
                    let mut registration = broker(&format!("b{name}"), id, &format!("a{address}"));
                    registration.connection = connection;
                    registration.data_version = version(counter);
                    registration.acting_master = [None, Some(false), Some(true)][usize::from(address) % 3];
                    registration.cluster = format!("C{}", counter % 2);
                    registration.topics = topics.iter().map(|topic| (format!("T{topic}"), queues(4))).collect();
                    routes.register(registration, now);
                }
                Step::Unregister { name, address } => {
                    routes.unregister(&format!("b{name}"), &format!("a{address}"));
                }
                Step::Closed(connection) => {
                    routes.connection_closed(connection);
                    prop_assert!(routes.connection_closed(connection).is_empty());
                }
                Step::Heard { name, address } => {
                    routes.heard(&format!("b{name}"), &format!("a{address}"), now);
                }
                Step::Delete { topic, cluster } => routes.delete_topic(&format!("T{topic}"), cluster.then_some("C0")),
                Step::RegisterTopic { topic, name } => {
                    let queues = vec![(format!("b{name}"), queues(1))];
                    routes.register_topic(&format!("T{topic}"), queues).expect("within limits");
                }
                Step::Wait(seconds) => {
                    now = now + Duration::from_secs(seconds);
                    routes.expire(now);
                }
                Step::Wipe(name) => {
                    routes.wipe_write_permission(&format!("b{name}"));
                }
                Step::Options(delete_missing_topics, support_acting_master) => {
                    routes.set_options(RouteOptions { delete_missing_topics, support_acting_master });
                }
            }
            routes.check_invariants();
            for topic in routes.topic_list(TopicListView::All) {
                let route = routes.route(&topic).expect("a listed topic has a route");
                prop_assert_eq!(route.brokers.len(), route.queues.len());
                prop_assert!(route.brokers.iter().all(|broker| !broker.addresses.is_empty()));
            }
        }
        routes.expire(now + Duration::from_secs(1_000));
        prop_assert!(routes.brokers().is_empty());
        prop_assert!(routes.topic_list(TopicListView::All).is_empty());
    }
}
