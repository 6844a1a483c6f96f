//! The Runtime suite in simulation: over a network of two nodes, and on one node with itself.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use orrery_core::runtime::conformance::{self, Stage};
use orrery_core::runtime::{Disk, Runtime};
use orrery_runtime_sim::{LinkProfile, SimRuntime, run};

/// Runs a case as a task of the server, for several seeds, on a lossy network and on loopback.
fn with_stage<F, S>(case: F)
where
    F: Fn(Stage<SimRuntime>) -> S + Copy + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    for seed in 0..6 {
        let outcome = run(seed, move |world| async move {
            let server = world.add_node("server");
            let client = if seed % 2 == 0 {
                world.add_node("client")
            } else {
                server
            };
            world.set_default_link(LinkProfile {
                jitter: Duration::from_millis(seed),
                loss: if seed >= 4 { 0.1 } else { 0.0 },
                ..LinkProfile::default()
            });
            let dir = Path::new("/stage").to_owned();
            let rt = world.runtime(server);
            rt.disk().create_dir_all(&dir).await.expect("an empty disk");
            let stage = Stage {
                server: rt.clone(),
                client: world.runtime(client),
                ip: world.ip(server),
                dir,
            };
            rt.spawn("case", case(stage)).await
        });
        assert_eq!(outcome.value, Ok(()), "seed {seed}: {:?}", outcome.panics);
    }
}

macro_rules! tests {
    ($($case:ident)*) => { $(#[test] fn $case() { with_stage(conformance::$case) })* };
}

orrery_core::conformance_cases!(tests);
