//! Store directories of the stock broker (Apache RocketMQ 5.5.0), whole and damaged, opened by ours: the content must be
//! what the stock broker shows, or more where it loses messages without need.
//!
//! `core/tests/vectors/store/NAME.files.gz` holds a directory (`path \n size \n bytes`, again and again), `NAME.json.gz`
//! what the stock broker holds after opening it.

#[path = "../../../runtime-sim/tests/broker/client.rs"]
mod client;
mod directory;
mod extension_files;
mod kept;
mod recovered;
