//! The name server over a simulated network and disk: who is forgotten when, and what survives a power loss.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orrery_core::namesrv::{NameServer, NameServerConfig};
use orrery_core::protocol::Command;
use orrery_core::protocol::body::{Body, RegisterBrokerBody, TopicConfig};
use orrery_core::protocol::code::{request, response};
use orrery_core::remoting::{Connections, Inbound, Peer};
use orrery_core::runtime::Runtime;
use orrery_runtime_sim::{NodeId, SimRuntime, World, run};

const PORT: u16 = 9876;
const TIMEOUT: Duration = Duration::from_secs(3);

struct Nothing;

impl Inbound for Nothing {
    fn request(&self, _: &str, _: &Peer, _: Command) {}
}

fn start_name_server(world: &World) -> NodeId {
    let node = world.add_node("ns");
    world.start(node, |rt| async move {
        let config = NameServerConfig {
            kv_config_path: Some(PathBuf::from("/data/kvConfig.json")),
            ..NameServerConfig::default()
        };
        let server = NameServer::start(rt.clone(), config).await.expect("a free port");
        assert_eq!(server.address().port(), PORT);
        rt.sleep(Duration::from_secs(1_000_000)).await;
    });
    node
}

fn registration() -> Command {
    let mut body = RegisterBrokerBody::default();
    for topic in ["TBW102", "TopicA"] {
        let table = &mut body.topic_config_serialize_wrapper.topic_config_table;
        table.insert(topic.to_owned(), TopicConfig::new(topic, 8));
    }
    Command::request(request::REGISTER_BROKER)
        .with("brokerName", "broker-a")
        .with("brokerAddr", "10.0.0.2:10911")
        .with("clusterName", "C")
        .with("brokerId", "0")
        .with_body(body.write())
}

fn connections(rt: SimRuntime) -> Connections<SimRuntime> {
    Connections::new(rt, Arc::new(Nothing))
}

async fn ask(connections: &Connections<SimRuntime>, command: Command) -> Command {
    let reply = connections.call("ns:9876", command, TIMEOUT).await;
    reply.expect("the name server answers")
}

async fn route_code(connections: &Connections<SimRuntime>) -> i32 {
    let route = Command::request(request::GET_ROUTEINFO_BY_TOPIC).with("topic", "TopicA");
    ask(connections, route).await.code
}

#[test]
fn a_broker_that_stops_registering_is_forgotten_after_120_seconds_though_it_goes_on_asking() {
    let outcome = run(1, |world| async move {
        start_name_server(&world);
        let broker = connections(world.runtime(world.add_node("broker")));
        let client = connections(world.runtime(world.add_node("client")));
        world.sleep(Duration::from_secs(1)).await;
        assert_eq!(ask(&broker, registration()).await.code, response::SUCCESS);
        let registered = world.now();
        while route_code(&client).await == response::SUCCESS {
            ask(&broker, Command::request(request::GET_BROKER_CLUSTER_INFO)).await;
            world.sleep(Duration::from_secs(1)).await;
        }
        (world.now() - registered).as_secs()
    });
    assert!((120..=132).contains(&outcome.value), "after {} s", outcome.value);
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
}

#[test]
fn a_killed_broker_is_forgotten_at_once_and_an_unreachable_one_within_130_seconds() {
    for cut in [false, true] {
        let outcome = run(2, move |world| async move {
            let ns = start_name_server(&world);
            let broker_node = world.add_node("broker");
            let broker = connections(world.runtime(broker_node));
            let client = connections(world.runtime(world.add_node("client")));
            world.sleep(Duration::from_secs(1)).await;
            ask(&broker, registration()).await;
            let from = world.now();
            if cut {
                world.partition(&[ns], &[broker_node]);
            } else {
                world.kill(broker_node);
            }
            while route_code(&client).await == response::SUCCESS {
                world.sleep(Duration::from_millis(500)).await;
            }
            world.now() - from
        });
        let limit = Duration::from_secs(if cut { 132 } else { 2 });
        assert!(outcome.value <= limit, "after {:?}", outcome.value);
        assert_eq!(outcome.value > Duration::from_secs(100), cut);
    }
}

#[test]
fn acknowledged_kv_configuration_survives_a_power_loss_and_routes_do_not() {
    for seed in 0..10 {
        let outcome = run(seed, |world| async move {
            let ns = start_name_server(&world);
            let rt = world.runtime(world.add_node("operator"));
            let operator = connections(rt);
            world.sleep(Duration::from_secs(1)).await;
            ask(&operator, registration()).await;
            for index in 0..3 {
                let put = Command::request(request::PUT_KV_CONFIG)
                    .with("namespace", "ORDER_TOPIC_CONFIG")
                    .with("key", &format!("Topic{index}"))
                    .with("value", "broker-a:4");
                assert_eq!(ask(&operator, put).await.code, response::SUCCESS);
            }
            world.power_loss(ns);
            world.restart(ns);
            world.sleep(Duration::from_secs(5)).await;
            let operator = connections(world.runtime(world.add_node("another")));
            let list = Command::request(request::GET_KVLIST_BY_NAMESPACE).with("namespace", "ORDER_TOPIC_CONFIG");
            let kept = String::from_utf8_lossy(&ask(&operator, list).await.body).into_owned();
            (kept, route_code(&operator).await)
        });
        let (kept, route) = outcome.value;
        let expected = r#"{"table":{"Topic0":"broker-a:4","Topic1":"broker-a:4","Topic2":"broker-a:4"}}"#;
        assert_eq!(kept, expected, "seed {seed}");
        assert_eq!(route, response::TOPIC_NOT_EXIST);
    }
}
