//! The `orrery` command: production broker, name server, and a client for people at a terminal.
//!
//! Exit codes are a contract: 0 done or held, 1 an operation failed or a property was violated, 2 wrong usage or
//! configuration, 3 inconclusive.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use orrery_runtime_real::Real;

/// A RocketMQ-compatible message broker
#[derive(Parser)]
#[command(name = "orrery", version, max_term_width = 100, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Puts load on a broker, Orrery or Apache RocketMQ
    #[command(subcommand)]
    Bench(commands::bench::Bench),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let done = match arguments.command {
        Command::Bench(bench) => Real::run(None, |real| commands::bench::run(bench, real)),
    };
    match done {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            eprintln!("orrery: {error:#}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("orrery: no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}
