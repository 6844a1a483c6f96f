//! `orrery check`: the checker's verdict on histories that anyone wrote.

use std::path::PathBuf;

use clap::Args;
use orrery_checker::Options;
use orrery_checker::history::History;

use super::Failure;

#[derive(Args)]
pub(crate) struct Arguments {
    /// History files of one run, JSON Lines; several are merged by time
    #[arg(required = true, value_name = "HISTORY.jsonl")]
    histories: Vec<PathBuf>,
    /// Prints the whole report as JSON
    #[arg(long)]
    json: bool,
    /// Evaluates these properties only
    #[arg(long, value_delimiter = ',', value_name = "C01,C05,…")]
    only: Vec<String>,
}

/// The verdict's exit code: 0 held, 1 violated, 3 inconclusive.
pub(crate) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let history = History::read(&arguments.histories).map_err(Failure::usage)?;
    let options = Options {
        only: arguments.only.clone(),
    };
    let report = orrery_checker::check_history(&history, &options);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(Failure::operation)?);
    } else {
        println!("{report}");
    }
    Ok(report.exit_code())
}
