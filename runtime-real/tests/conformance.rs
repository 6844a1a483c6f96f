//! The Runtime suite on sockets and files of this machine.

use std::net::{IpAddr, Ipv4Addr};

use orrery_core::runtime::conformance::{self, Stage};
use orrery_core::runtime::{Runtime, TaskEnd};
use orrery_runtime_real::Real;

/// Runs a case as a task on two workers, as everything in a broker runs.
fn with_stage<F, S>(case: F)
where
    F: FnOnce(Stage<Real>) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().to_path_buf();
    let ended = Real::run(Some(2), |real| async move {
        let stage = Stage {
            server: real.clone(),
            client: real.clone(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            dir: path,
        };
        real.spawn("case", case(stage)).await
    });
    assert_eq!(ended.expect("a runtime"), Ok::<(), TaskEnd>(()));
}

macro_rules! tests {
    ($($case:ident)*) => { $(#[test] fn $case() { with_stage(conformance::$case) })* };
}

orrery_core::conformance_cases!(tests);
