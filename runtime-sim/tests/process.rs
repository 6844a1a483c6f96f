//! Processes, clocks, sites and facts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use orrery_core::probe::{Fact, OwnedFact};
use orrery_core::runtime::{Disk, File, Listener, OpenMode, Reader, Runtime, Stream, Task, TaskEnd, Writer, site};
use orrery_runtime_sim::{SimFile, SiteCount, run};

fn millis(value: u64) -> Duration {
    Duration::from_millis(value)
}

#[test]
fn a_killed_process_is_dropped_and_cannot_act_while_dying() {
    struct WritesWhenDropped(SimFile);
    impl Drop for WritesWhenDropped {
        fn drop(&mut self) {
            self.0.write_at(0, &[b"clean"]).expect_err("the process has ended");
        }
    }
    run(1, |world| async move {
        let node = world.add_node("node");
        let boots = Arc::new(AtomicUsize::new(0));
        let count = boots.clone();
        world.start(node, move |rt| {
            let count = count.clone();
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                let file = rt.disk().open(Path::new("marker"), OpenMode::Create).await.unwrap();
                assert_eq!(file.len(), 0);
                let _last_will = WritesWhenDropped(file);
                std::future::pending::<()>().await;
            }
        });
        for _ in 0..3 {
            world.sleep(millis(100)).await;
            world.kill(node);
            assert!(!world.is_running(node));
            world.restart(node);
        }
        world.sleep(millis(100)).await;
        assert_eq!(boots.load(Ordering::SeqCst), 4);
        assert_eq!(world.effects().processes_ended, 3);
    });
}

#[test]
fn a_process_exits_when_its_main_future_ends() {
    let outcome = run(2, |world| async move {
        let node = world.add_node("node");
        let turns = Arc::new(AtomicUsize::new(0));
        let count = turns.clone();
        world.start(node, move |rt| {
            let count = count.clone();
            async move {
                let clock = rt.clone();
                let background = rt.spawn("background", async move {
                    loop {
                        clock.sleep(millis(10)).await;
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                });
                rt.sleep(millis(105)).await;
                std::mem::forget(background);
            }
        });
        world.sleep(millis(500)).await;
        assert!(!world.is_running(node));
        turns.load(Ordering::SeqCst)
    });
    assert!((9..=11).contains(&outcome.value), "{}", outcome.value);
}

#[test]
fn a_panic_is_a_finding_and_ends_only_its_task() {
    let outcome = run(3, |world| async move {
        let node = world.add_node("node");
        let rt = world.runtime(node);
        let task = rt.spawn("fragile", async { panic!("queue offset went back to {}", 7) });
        assert_eq!(task.await, Err::<(), _>(TaskEnd::Panicked));
        assert_eq!(rt.spawn("next", async { 1 }).await, Ok(1));
        world.start(world.add_node("other"), |_| async { panic!("start failed") });
        world.sleep(millis(10)).await;
    });
    assert_eq!(outcome.panics.len(), 2);
    assert_eq!(outcome.panics[0].node, "node");
    assert_eq!(outcome.panics[0].task, "fragile");
    assert_eq!(outcome.panics[0].message, "queue offset went back to 7");
    assert_eq!(outcome.panics[1].task, "main");
}

#[test]
fn a_drifting_node_sleeps_longer_or_shorter() {
    run(4, |world| async move {
        let (fast, slow) = (world.add_node("fast"), world.add_node("slow"));
        world.set_drift(fast, 100_000);
        world.set_drift(slow, -100_000);
        let started = world.now();
        world.runtime(fast).sleep(millis(11_000)).await;
        let took = world.now() - started;
        assert!((millis(9_999)..millis(10_010)).contains(&took), "{took:?}");
        let rt = world.runtime(slow);
        let sleeper = rt
            .clone()
            .spawn("sleeper", async move { rt.sleep(millis(9_000)).await });
        world.sleep(millis(5_000)).await;
        world.set_drift(slow, 0); // half of it slow, half of it right
        let started = world.now();
        sleeper.await.unwrap();
        let took = world.now() - started;
        assert!((millis(4_499)..millis(4_510)).contains(&took), "{took:?}");
    });
}

#[test]
fn wall_clocks_step_and_monotonic_clocks_start_again_after_power_loss() {
    run(5, |world| async move {
        let node = world.add_node("node");
        let before = world.clocks(node);
        world.step_wall(node, -3_600_000);
        let after = world.clocks(node);
        assert!(after.0 >= before.0);
        assert_eq!(after.1.millis_since(before.1), -3_600_000);
        world.sleep(millis(100_000)).await;
        world.kill(node);
        let rt = world.runtime(node);
        assert!(
            rt.mono().since(before.0) >= millis(100_000),
            "a new process, the same boot"
        );
        world.power_loss(node);
        let rt = world.runtime(node);
        assert!(rt.mono() < before.0 + millis(50_000), "a new boot");
        assert!(
            rt.wall().millis_since(after.1) >= 100_000,
            "a battery keeps the wall clock"
        );
    });
}

#[test]
fn a_cancelled_sleeper_leaves_no_timer() {
    run(6, |world| async move {
        let rt = world.runtime(world.add_node("node"));
        for _ in 0..100_000 {
            let ready = rt.timeout(Duration::from_secs(3_600), std::future::ready(()));
            ready.await.unwrap();
        }
        let sleeper = rt
            .clone()
            .spawn("sleeper", async move { rt.sleep(Duration::from_secs(100)).await });
        world.sleep(millis(10)).await;
        sleeper.cancel();
        assert_eq!(sleeper.await, Err(TaskEnd::Cancelled));
        assert_eq!(world.pending_events(), 0);
    });
}

#[test]
fn sites_are_asked_counted_and_taken_when_switched_on() {
    let outcome = run(7, |world| async move {
        world.switch_site("always", 1.0);
        world.switch_site("sometimes", 0.3);
        let rt = world.runtime(world.add_node("node"));
        let sometimes = (0..1000).filter(|_| site(&rt, "sometimes")).count();
        assert!(site(&rt, "always"));
        assert!(!site(&rt, "never"));
        sometimes as u64
    });
    let counts = outcome.sites;
    assert!((200..400).contains(&outcome.value));
    assert_eq!(counts["sometimes"].taken, outcome.value);
    assert_eq!(counts["always"], SiteCount { asked: 1, taken: 1 });
    assert_eq!(counts["never"], SiteCount { asked: 1, taken: 0 });
}

#[test]
fn facts_are_kept_with_node_and_time_and_hashed() {
    let run_with = |upto| {
        run(8, move |world| async move {
            let node = world.add_node("node");
            let rt = world.runtime(node);
            world.sleep(millis(5)).await;
            rt.announce(Fact::Flushed { upto });
            rt.announce(Fact::Role {
                broker: "a",
                role: "master",
            });
            let drained = world.drain_facts();
            assert_eq!(drained[0].fact, OwnedFact::Flushed { upto });
            assert_eq!(drained[0].node, node);
            assert!(drained[0].time >= millis(5));
            rt.announce(Fact::Flushed { upto });
        })
    };
    let (one, other) = (run_with(1), run_with(2));
    assert_eq!(one.facts.len(), 1);
    assert_ne!(one.trace_hash, other.trace_hash);
    assert_eq!(one.trace_hash, run_with(1).trace_hash);
}

#[test]
fn what_a_process_does_after_a_stall_never_happens_if_it_dies_during_it() {
    for power_loss in [false, true] {
        run(9, move |world| async move {
            let (server, client) = (world.add_node("server"), world.add_node("client"));
            let (rt, client) = (world.runtime(server), world.runtime(client));
            let listener = rt.listen(world.address(server, 1)).await.unwrap();
            let stream = client.connect(listener.local_address(), millis(1_000)).await.unwrap();
            let (mut reader, _writer) = stream.split();
            let (_server_reader, mut server_writer) = listener.accept().await.unwrap().split();
            server_writer
                .write_all(&mut [Bytes::from_static(b"before")].into())
                .await
                .unwrap();
            let file = rt.disk().open(Path::new("log"), OpenMode::Create).await.unwrap();
            world.stall_disk(server, millis(1_000));
            let clock = rt.clone();
            let worker = rt.spawn("worker", async move {
                file.write_at(0, &[b"message"]).unwrap();
                clock.announce(Fact::Flushed { upto: 7 });
                server_writer
                    .write_all(&mut [Bytes::from_static(b"after")].into())
                    .await
                    .unwrap();
                std::future::pending::<()>().await;
            });
            world.sleep(millis(500)).await;
            if power_loss {
                world.power_loss(server);
            } else {
                world.kill(server);
            }
            let mut buffer = BytesMut::new();
            let end = client.timeout(millis(5_000), async {
                while let Ok(1..) = reader.read(&mut buffer, 100).await {}
            });
            assert_eq!(
                end.await.is_err(),
                power_loss,
                "a kernel closes, a dead machine does not"
            );
            assert_eq!(buffer, "before");
            assert!(world.drain_facts().is_empty());
            drop(worker);
        });
    }
}
