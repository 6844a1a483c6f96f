//! Plans, workloads, faults and the fuzzer.
//!
//! A [`plan`](plan::Plan) is data; [`generate`](generate::generate) makes one from a seed. [`run`](run::run) boots the plan's
//! nodes in simulation, drives its producers and consumers, lets its faults strike, reads everything back and asks the
//! checker.

mod cluster;
pub mod corpus;
pub mod determinism;
mod drain;
mod faults;
pub mod fuzz;
pub mod generate;
pub mod message;
pub mod output;
pub mod plan;
mod recorder;
pub mod run;
pub mod shrink;
mod stores;
pub mod timeline;
pub mod timeline_page;
mod workload;
