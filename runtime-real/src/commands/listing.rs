//! How commands print what they list: a line for people, or a JSON object per line for programs.

use std::io::{self, ErrorKind, Write};

use clap::ValueEnum;
use orrery_core::client::MessageView;
use orrery_core::protocol::properties;
use serde_json::{Map, Value, json};

use super::bench::time_text;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
}

pub(crate) fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

pub(crate) fn json(value: &Value) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{value}")
}

/// A reader that has seen enough, such as `head`, ends a listing without an error.
pub(crate) fn quiet_on_closed_pipe(printed: io::Result<()>) -> io::Result<()> {
    match printed {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

/// Prints one received message.
pub(crate) fn message(format: Format, broker_name: &str, message: &MessageView) -> io::Result<()> {
    let body = String::from_utf8_lossy(&message.body);
    let property = |name: &str| properties::get(&*message.properties, name);
    quiet_on_closed_pipe(match format {
        Format::Table => {
            let labels: Vec<String> = [("tag", properties::TAGS), ("keys", properties::KEYS)]
                .iter()
                .filter_map(|(label, name)| Some(format!("{label}={} ", property(name)?)))
                .collect();
            line(&format!(
                "{}  {broker_name}/{}@{}  {}{body}",
                time_text(message.store_time.0),
                message.queue_id,
                message.queue_offset,
                labels.concat()
            ))
        }
        Format::Json => {
            let all: Map<String, Value> = properties::iterate(&*message.properties)
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect();
            json(&json!({
                "topic": &*message.topic,
                "brokerName": broker_name,
                "queueId": message.queue_id,
                "offset": message.queue_offset,
                "bornTimestamp": message.born_time.0,
                "storeTimestamp": message.store_time.0,
                "reconsumeTimes": message.reconsume_times,
                "properties": all,
                "body": body,
            }))
        }
    })
}
