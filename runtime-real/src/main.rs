//! The `orrery` command: production broker, name server, and a client for people at a terminal.
//!
//! Exit codes are a contract: 0 done or held, 1 an operation failed or a property was violated, 2 wrong usage or
//! configuration, 3 inconclusive.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use commands::Failure;
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
    /// Sends messages: arguments, or lines of standard input
    Produce(commands::produce::Arguments),
    /// Joins a consumer group and prints its messages
    Consume(commands::consume::Arguments),
    /// Prints what arrives at a topic, without a group
    Tail(commands::tail::Arguments),
    /// Puts load on a broker, Orrery or Apache RocketMQ
    #[command(subcommand)]
    Bench(commands::bench::Bench),
    /// Judges histories: do the promises hold?
    Check(commands::check::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let code = run(arguments.command).unwrap_or_else(|failure| {
        eprintln!("orrery: {:#}", failure.cause());
        failure.exit_code()
    });
    ExitCode::from(code)
}

fn run(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Produce(arguments) => Real::run(None, |real| commands::produce::run(arguments, real))?,
        Command::Consume(arguments) => Real::run(None, |real| commands::consume::run(arguments, real))?,
        Command::Tail(arguments) => Real::run(None, |real| commands::tail::run(arguments, real))?,
        Command::Bench(bench) => {
            let all_well = Real::run(None, |real| commands::bench::run(bench, real))??;
            Ok(u8::from(!all_well))
        }
        Command::Check(arguments) => commands::check::run(&arguments),
    }
}
