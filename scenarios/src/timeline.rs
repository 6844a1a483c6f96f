//! A history for people: a line an event, seconds first.

use std::io::{self, BufWriter, Write};

use orrery_checker::history::Record;
use serde_json::Value;

/// Which lines to show.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub from: Option<f64>,
    pub until: Option<f64>,
    pub node: Option<String>,
    /// `topic@broker:id`
    pub queue: Option<String>,
}

/// Prints to standard output; a reader that goes away ends it.
pub fn print_timeline(records: &[Record], filter: &Filter) {
    let mut out = BufWriter::new(io::stdout().lock());
    for record in records {
        if let Some(line) = line(record, filter)
            && writeln!(out, "{line}").is_err()
        {
            return;
        }
    }
}

fn line(record: &Record, filter: &Filter) -> Option<String> {
    let seconds = record.t as f64 / 1e9;
    if filter.from.is_some_and(|from| seconds < from) || filter.until.is_some_and(|until| seconds > until) {
        return None;
    }
    let event = serde_json::to_value(&record.event).ok()?;
    let (kind, fields) = event.as_object()?.iter().next()?;
    let fields: Vec<String> = fields
        .as_object()?
        .iter()
        .map(|(name, value)| field(name, value))
        .collect();
    let line = format!("{seconds:>12.6} {kind:<16} {}", fields.join(" "));
    let shows = |wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| line.contains(wanted.as_str()));
    (shows(&filter.node) && shows(&filter.queue)).then_some(line)
}

fn field(name: &str, value: &Value) -> String {
    match (name, value) {
        ("queue", Value::Object(queue)) => {
            let text = |key: &str| queue.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!(
                "{}@{}:{}",
                text("topic"),
                text("broker"),
                queue.get("id").unwrap_or(&Value::Null)
            )
        }
        ("content", Value::Object(content)) => {
            let size = content.get("size").unwrap_or(&Value::Null);
            format!("size={size}")
        }
        (_, Value::String(text)) => format!("{name}={text}"),
        _ => format!("{name}={value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_checker::history::{Event, Queue};

    #[test]
    fn a_line_can_be_filtered_by_time_node_and_queue() {
        let record = Record {
            t: 1_500_000_000,
            event: Event::CommitInvoke {
                commit: 3,
                group: "g".into(),
                client: "client-1".into(),
                queue: Queue {
                    topic: "T".into(),
                    broker: "b".into(),
                    id: 2,
                },
                offset: 9,
            },
        };
        let shown = line(&record, &Filter::default()).unwrap();
        assert_eq!(
            shown,
            "    1.500000 commit_invoke    commit=3 group=g client=client-1 T@b:2 offset=9"
        );
        let from = |from| Filter {
            from: Some(from),
            ..Filter::default()
        };
        assert!(line(&record, &from(1.0)).is_some());
        assert!(line(&record, &from(2.0)).is_none());
        let queue = |queue: &str| Filter {
            queue: Some(queue.into()),
            ..Filter::default()
        };
        assert!(line(&record, &queue("T@b:2")).is_some());
        assert!(line(&record, &queue("T@b:3")).is_none());
    }
}
