//! Remoting over a simulated network: what a call's error may promise while hosts die and links are cut.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orrery_core::protocol::Command;
use orrery_core::remoting::{CallError, Connections, Inbound, Limits, Peer, Replies, Server, Service};
use orrery_core::runtime::Runtime;
use orrery_runtime_sim::{NodeId, SimRuntime, World, run};

const PORT: u16 = 9000;
const ADDRESS: &str = "server:9000";
const SECOND: Duration = Duration::from_secs(1);

/// What servers saw, over all their lives.
#[derive(Default)]
struct Seen {
    served: Mutex<BTreeSet<i64>>,
    opened: Mutex<u64>,
    closed: Mutex<u64>,
}

/// Remembers the number in a request's field `n`, answers.
struct Recorder(Arc<Seen>);

impl Service for Recorder {
    fn opened(&self, _: &Peer) {
        *self.0.opened.lock().unwrap() += 1;
    }

    fn closed(&self, _: &Peer) {
        *self.0.closed.lock().unwrap() += 1;
    }

    async fn serve(&self, _: &Peer, commands: &mut Vec<Command>, replies: &mut Replies) {
        for command in commands.drain(..) {
            let number = command.ext.get("n").unwrap().parse().unwrap();
            self.0.served.lock().unwrap().insert(number);
            replies.push(Command::success(&command), Vec::new());
        }
    }
}

struct Nothing;

impl Inbound for Nothing {
    fn request(&self, _: &str, _: &Peer, _: Command) {}
}

fn start_server(world: &World, seen: &Arc<Seen>) -> NodeId {
    let node = world.add_node("server");
    let seen = Arc::clone(seen);
    world.start(node, move |rt| {
        let service = Arc::new(Recorder(Arc::clone(&seen)));
        async move {
            let listener = rt.listen(SocketAddr::from(([0, 0, 0, 0], PORT))).await.unwrap();
            let _server = Server::start(rt.clone(), listener, service, Limits::default());
            rt.sleep(1_000_000 * SECOND).await;
        }
    });
    node
}

fn client(world: &World, name: &str) -> (NodeId, Connections<SimRuntime>) {
    let node = world.add_node(name);
    (node, Connections::new(world.runtime(node), Arc::new(Nothing)))
}

async fn call(client: &Connections<SimRuntime>, number: i64) -> Result<Command, CallError> {
    let mut request = Command::request(1);
    request.ext.push_integer("n", number);
    client.call(ADDRESS, request, 3 * SECOND).await
}

/// Calls, one after the other, that all have ended: numbers of those not sent, of those unknown.
async fn call_often(
    client: Connections<SimRuntime>,
    world: World,
    numbers: std::ops::Range<i64>,
) -> (BTreeSet<i64>, BTreeSet<i64>, usize) {
    let (mut not_sent, mut unknown, mut replied) = (BTreeSet::new(), BTreeSet::new(), 0);
    for number in numbers {
        match call(&client, number).await {
            Ok(_) => replied += 1,
            Err(CallError::NotSent(_)) => drop(not_sent.insert(number)),
            Err(CallError::Unknown(_)) => drop(unknown.insert(number)),
        }
        world.sleep(Duration::from_millis(7)).await;
    }
    (not_sent, unknown, replied)
}

#[test]
fn what_was_not_sent_is_never_served() {
    let mut totals = (0, 0, 0);
    for seed in 0..40 {
        let outcome = run(seed, |world| async move {
            let seen = Arc::new(Seen::default());
            let server = start_server(&world, &seen);
            world.sleep(SECOND).await;
            let mut tasks = Vec::new();
            for index in 0..5 {
                let (node, client) = client(&world, &format!("client-{index}"));
                let numbers = index * 1000..index * 1000 + 150;
                tasks.push(
                    world
                        .runtime(node)
                        .spawn("caller", call_often(client, world.clone(), numbers)),
                );
            }
            let draw = world.draw("faults");
            for round in 0..8 {
                let draw = draw.with(round);
                world
                    .sleep(draw.between(Duration::from_millis(50), Duration::from_millis(600)))
                    .await;
                let clients: Vec<NodeId> = world.nodes().into_iter().filter(|node| *node != server).collect();
                let victim = clients[draw.with(1).below(clients.len() as u64) as usize];
                match draw.with(2).below(4) {
                    0 => world.kill(server),
                    1 => world.power_loss(server),
                    2 => world.cut(victim, server),
                    _ => world.cut(server, victim),
                }
                world
                    .sleep(draw.with(3).between(Duration::from_millis(1), 2 * SECOND))
                    .await;
                world.heal_all();
                if !world.is_running(server) {
                    world.restart(server);
                }
            }
            let mut total = (0, 0, 0);
            for task in tasks {
                let (not_sent, unknown, replied) = task.await.unwrap();
                let served = seen.served.lock().unwrap().clone();
                let lies: Vec<_> = not_sent.intersection(&served).collect();
                assert!(lies.is_empty(), "not sent, but served: {lies:?}");
                total = (total.0 + not_sent.len(), total.1 + unknown.len(), total.2 + replied);
            }
            total
        });
        let total = outcome.value;
        totals = (totals.0 + total.0, totals.1 + total.1, totals.2 + total.2);
    }
    let (not_sent, unknown, replied) = totals;
    assert!(not_sent > 100, "{totals:?}");
    assert!(unknown > 100, "{totals:?}");
    assert!(replied > 10_000, "{totals:?}");
}

#[test]
fn a_host_that_vanished_is_noticed_and_found_again() {
    let outcome = run(7, |world| async move {
        let seen = Arc::new(Seen::default());
        let server = start_server(&world, &seen);
        let (_, client) = client(&world, "client");
        world.sleep(SECOND).await;
        call(&client, 1).await.unwrap();
        world.power_loss(server);
        let lost = world.now();
        let mut number = 2;
        // At first calls go out on the old connection, and nobody knows.
        while !matches!(call(&client, number).await, Err(CallError::NotSent(_))) {
            number += 1;
            world.sleep(Duration::from_millis(100)).await;
        }
        let noticed = world.now() - lost;
        assert!(noticed < 20 * SECOND, "{noticed:?}");
        world.restart(server);
        world.sleep(SECOND).await;
        call(&client, 1000).await.unwrap();
        number
    });
    assert!(outcome.value > 2);
}

#[test]
fn a_client_that_vanished_is_closed_after_the_idle_time() {
    let outcome = run(8, |world| async move {
        let seen = Arc::new(Seen::default());
        start_server(&world, &seen);
        let node = world.add_node("client");
        world.start(node, |rt| async move {
            let client = Connections::new(rt.clone(), Arc::new(Nothing));
            call(&client, 1).await.unwrap();
            rt.sleep(1_000_000 * SECOND).await;
        });
        world.sleep(5 * SECOND).await;
        assert_eq!(*seen.opened.lock().unwrap(), 1);
        world.power_loss(node);
        world.sleep(100 * SECOND).await;
        let before = *seen.closed.lock().unwrap();
        world.sleep(30 * SECOND).await;
        (before, *seen.closed.lock().unwrap())
    });
    assert_eq!(outcome.value, (0, 1));
}

#[test]
fn a_thousand_connections_are_served_and_closed_once() {
    let outcome = run(9, |world| async move {
        let seen = Arc::new(Seen::default());
        start_server(&world, &seen);
        world.sleep(SECOND).await;
        let (node, _) = client(&world, "many");
        let rt = world.runtime(node);
        let mut tasks = Vec::new();
        for index in 0..1000 {
            let client = Connections::new(rt.clone(), Arc::new(Nothing));
            tasks.push(rt.spawn("caller", async move {
                for round in 0..3 {
                    call(&client, index * 3 + round).await.unwrap();
                }
                client.shutdown().await;
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        world.sleep(SECOND).await;
        let counts = (*seen.opened.lock().unwrap(), *seen.closed.lock().unwrap());
        (counts, seen.served.lock().unwrap().len())
    });
    assert_eq!(outcome.value, ((1000, 1000), 3000));
}
