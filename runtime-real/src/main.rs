//! The `orrery` command: production broker, name server, and a client for people at a terminal.
//!
//! Exit codes are a contract: 0 done or held, 1 an operation failed or a property was violated, 2 wrong usage or
//! configuration, 3 inconclusive.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use commands::Failure;
use orrery_runtime_real::Real;
use rustix::process::{Resource, getrlimit, setrlimit};

/// A RocketMQ-compatible message broker
#[derive(Parser)]
#[command(name = "orrery", version, max_term_width = 100, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts a name server and a broker, without a file or a flag
    Up(commands::serve::Up),
    /// Runs a name server
    Namesrv(commands::serve::NameServer),
    /// Runs a broker
    Broker(commands::serve::Broker),
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
    end_quietly_on_closed_pipe();
    let arguments = Arguments::parse_from(commands::bench::java_options(std::env::args_os()));
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(default_log(&arguments.command))).init();
    let code = run(arguments.command).unwrap_or_else(|failure| {
        eprintln!("orrery: {:#}", failure.cause());
        failure.exit_code()
    });
    ExitCode::from(code)
}

/// A reader that has seen enough, such as `head`, is no failure to be explained with a stack trace.
fn end_quietly_on_closed_pipe() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("");
        if message.starts_with("failed printing to stdout") && message.contains("Broken pipe") {
            std::process::exit(0);
        }
        default(panic);
    }));
}

fn run(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Up(arguments) => serve(|real| commands::serve::up(arguments, real)),
        Command::Namesrv(arguments) => serve(|real| commands::serve::name_server(arguments, real)),
        Command::Broker(arguments) => serve(|real| commands::serve::broker(arguments, real)),
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

/// What is logged unless `RUST_LOG` says otherwise: servers tell what they do, tools only what is wrong.
fn default_log(command: &Command) -> &'static str {
    match command {
        Command::Namesrv(_) | Command::Broker(_) => "info",
        _ => "warn",
    }
}

/// Runs a server with as many open files as the system allows: connections and log files take one each.
fn serve<F>(main: impl FnOnce(Real) -> F) -> Result<u8, Failure>
where
    F: Future<Output = Result<u8, Failure>>,
{
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("limit of open files: {error}");
    }
    Real::run(None, main)?
}
