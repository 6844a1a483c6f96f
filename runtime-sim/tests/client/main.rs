//! The client in simulation, against brokers that answer by a script: lost replies, moved offsets, lapsed locks, crashes.

mod consuming;
mod orderly;
mod producing;
#[path = "../scripted/mod.rs"]
mod scripted;
mod stage;
