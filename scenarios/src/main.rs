//! The `orrery-sim` command.
fn main() {}
