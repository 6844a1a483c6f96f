//! A run as one HTML file: lanes, messages, faults, records of a queue, the moment a property broke. `docs/timeline.md` says
//! how to read it.
//!
//! This file packs a history into the page's payload; `timeline_page/` holds the page that draws it. The page loads nothing from
//! anywhere.
//!
//! Invariants: every event of the history is a row of the payload, whatever its kind (up to [`EVENTS_MAX`]; beyond that the page
//! says what it leaves out); text from the run stands in the page only inside the payload, where no `<` is left.
//!
//! ```text
//! rows:  shape, nanoseconds since the row before, value, value, …
//! shape: kind of event, and for each value its field and type: n number, s string, q queue, b 0 or 1
//! ```
//! Strings and queues are numbers in a row: their places in `strings` and `queues`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use orrery_checker::history::{Event, FaultKind, FaultPhase, History, Record};
use orrery_checker::{Report, Verdict, Violation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::plan::Plan;
use crate::run::Run;

/// Most events in a page: about 40 MB, which a browser opens in some 5 s. Of a longer history the page keeps those up to the first violation and some after.
pub const EVENTS_MAX: usize = 1_000_000;
/// Longest text made of a nested field, in bytes; the rest is cut. The history has it whole.
const NESTED_TEXT_MAX: usize = 300;
/// Numbers beyond this are not exact in JavaScript and travel as text.
const EXACT_MAX: u64 = 1 << 53;

const TEMPLATE: &str = include_str!("timeline_page/page.html");
const STYLE: &str = include_str!("timeline_page/style.css");
const MODEL: &str = include_str!("timeline_page/model.js");
const CANVAS: &str = include_str!("timeline_page/canvas.js");
const LISTS: &str = include_str!("timeline_page/lists.js");

/// What a page shows.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub plan: &'a Plan,
    pub history: &'a History,
    pub report: &'a Report,
}

impl<'a> Source<'a> {
    pub fn of(run: &'a Run) -> Source<'a> {
        Source {
            plan: &run.plan,
            history: &run.history,
            report: &run.report,
        }
    }
}

/// Writes the page into a file.
pub fn write_page_file(path: &Path, source: Source<'_>) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    write_page(&mut out, source)?;
    out.flush()
}

/// Writes the page.
pub fn write_page(out: &mut impl Write, source: Source<'_>) -> io::Result<()> {
    let parts = [
        ("/*STYLE*/", STYLE),
        ("/*PAYLOAD*/", ""),
        ("/*MODEL*/", MODEL),
        ("/*CANVAS*/", CANVAS),
        ("/*LISTS*/", LISTS),
    ];
    let mut rest = TEMPLATE;
    for (mark, part) in parts {
        let (before, after) = rest
            .split_once(mark)
            .expect("the template has each mark, in this order");
        out.write_all(before.as_bytes())?;
        if part.is_empty() {
            serde_json::to_writer(Escaped(&mut *out), &Payload::of(source))?;
        }
        out.write_all(part.as_bytes())?;
        rest = after;
    }
    out.write_all(rest.as_bytes())
}

/// Writes JSON so that no text in it can end the script element it stands in: `<` appears in JSON inside strings only.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for (index, part) in bytes.split(|&byte| byte == b'<').enumerate() {
            if index > 0 {
                self.0.write_all(b"\\u003c")?;
            }
            self.0.write_all(part)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Everything that the script draws.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Payload {
    source: String,
    seed: Option<u64>,
    story: String,
    /// `held`, `violated` or `inconclusive`.
    verdict: String,
    /// Why it is inconclusive.
    reasons: Vec<String>,
    /// Name and number.
    counts: Vec<(String, u64)>,
    /// Time of the history's first event, nanoseconds.
    begin: u64,
    /// Time of its last event.
    end: u64,
    /// Events before and after those of the page.
    left_out: (usize, usize),
    nodes: Vec<Node>,
    queues: Vec<ShownQueue>,
    strings: Vec<String>,
    shapes: Vec<Shape>,
    rows: Vec<i64>,
    faults: Vec<ShownFault>,
    violations: Vec<ShownViolation>,
}

/// A lane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Node {
    name: String,
    role: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ShownQueue {
    /// `topic@broker:id`
    name: String,
    /// Place of the broker in `nodes`.
    node: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Shape {
    kind: String,
    fields: Vec<(String, char)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ShownFault {
    kind: String,
    nodes: Vec<usize>,
    begin: u64,
    /// When it was undone; equal to `begin` for what happens at once and stays.
    end: u64,
    /// As in the plan.
    parameters: String,
    /// How far the wall clock jumped.
    by_ms: Option<i64>,
    /// How much faster the clocks run.
    parts_per_million: Option<i64>,
    /// What it did; empty: nothing.
    effect: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ShownViolation {
    property: String,
    title: String,
    t: u64,
    explanation: String,
    /// Queues that the explanation names, as places in `queues`.
    queues: Vec<usize>,
    /// Messages that it names, as places in `strings`.
    uids: Vec<usize>,
}

impl Payload {
    fn of(source: Source<'_>) -> Payload {
        let Source { plan, history, report } = source;
        let records = &history.records;
        let window = window(records, report.violations(), EVENTS_MAX);
        let mut packer = Packer::new(source);
        let mut last = records.first().map_or(0, |record| record.t);
        let begin = last;
        for record in &records[window.clone()] {
            packer.pack(record, last);
            last = record.t;
        }
        let reasons = match &report.verdict {
            Verdict::Inconclusive(reasons) => reasons.clone(),
            Verdict::Held | Verdict::Violated(_) => Vec::new(),
        };
        let verdict = match &report.verdict {
            Verdict::Held => "held",
            Verdict::Violated(_) => "violated",
            Verdict::Inconclusive(_) => "inconclusive",
        };
        Payload {
            source: history.header.source.clone(),
            seed: history.header.seed,
            story: plan.story.clone(),
            verdict: verdict.into(),
            reasons,
            counts: counts(report),
            begin,
            end: records.last().map_or(begin, |record| record.t),
            left_out: (window.start, records.len() - window.end),
            faults: faults(plan, records, &mut packer),
            violations: report
                .violations()
                .iter()
                .map(|violation| packer.violation(violation))
                .collect(),
            nodes: packer
                .nodes
                .names
                .into_iter()
                .zip(packer.roles)
                .map(|(name, role)| Node { name, role })
                .collect(),
            queues: packer.queues,
            strings: packer.strings.names,
            shapes: packer.shapes,
            rows: packer.rows,
        }
    }
}

/// Which records fit: all, or `most` of which three quarters come before the first violation (or the end).
fn window(records: &[Record], violations: &[Violation], most: usize) -> Range<usize> {
    let first = violations.iter().map(|violation| violation.t).min();
    let center = first.map_or(records.len(), |t| records.partition_point(|record| record.t < t));
    let start = center.saturating_sub(most / 4 * 3);
    let start = start.min(records.len().saturating_sub(most));
    start..records.len().min(start + most)
}

fn counts(report: &Report) -> Vec<(String, u64)> {
    let Ok(Value::Object(counts)) = serde_json::to_value(&report.counts) else {
        return Vec::new();
    };
    let numbers = counts
        .into_iter()
        .filter_map(|(name, count)| Some((name.replace('_', " "), count.as_u64()?)));
    numbers.collect()
}

/// Faults with begin, end and effect, in order of their beginning.
fn faults(plan: &Plan, records: &[Record], packer: &mut Packer) -> Vec<ShownFault> {
    let mut faults: Vec<ShownFault> = Vec::new();
    let mut open: HashMap<u32, usize> = HashMap::new();
    let mut is_open: Vec<bool> = Vec::new();
    let mut healed = None;
    for record in records {
        let Event::Fault {
            id,
            fault,
            phase,
            nodes,
            effect,
        } = &record.event
        else {
            if let Event::Mark { name } = &record.event
                && name == "healed"
            {
                healed = Some(record.t);
            }
            continue;
        };
        if let (FaultPhase::End, Some(index)) = (phase, open.remove(id)) {
            faults[index].end = record.t;
            is_open[index] = false;
            for (name, count) in effect {
                *faults[index].effect.entry(name.clone()).or_default() += count;
            }
            continue;
        }
        let planned = plan
            .faults
            .get(*id as usize)
            .and_then(|fault| serde_json::to_value(fault).ok());
        let planned = planned.as_ref().and_then(Value::as_object);
        let number = |name: &str| planned.and_then(|fields| fields.get(name)?.as_i64());
        let is_instant = matches!(fault, FaultKind::ClockStep | FaultKind::Restart);
        let lasts = !is_instant && (number("for_ms").is_some() || planned.is_none());
        open.insert(*id, faults.len());
        is_open.push(lasts && *phase == FaultPhase::Begin);
        faults.push(ShownFault {
            kind: text_of(serde_json::to_value(fault).ok().as_ref()),
            nodes: nodes.iter().map(|node| packer.node(node, "node")).collect(),
            begin: record.t,
            end: record.t,
            parameters: planned.map(parameters).unwrap_or_default(),
            by_ms: number("by_ms"),
            parts_per_million: number("parts_per_million"),
            effect: effect.clone(),
        });
    }
    let end = records.last().map_or(0, |record| record.t);
    for (fault, _) in faults.iter_mut().zip(is_open).filter(|(_, is_open)| *is_open) {
        fault.end = healed.filter(|&healed| healed >= fault.begin).unwrap_or(end);
    }
    faults
}

fn parameters(planned: &Map<String, Value>) -> String {
    let shown = planned
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "fault" | "at_ms" | "node"));
    shown
        .map(|(name, value)| format!("{name} {}", plain(value)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Strings as their places in a list.
#[derive(Default)]
struct Names {
    places: HashMap<String, usize>,
    names: Vec<String>,
}

impl Names {
    fn place(&mut self, name: &str) -> usize {
        if let Some(&place) = self.places.get(name) {
            return place;
        }
        self.places.insert(name.to_owned(), self.names.len());
        self.names.push(name.to_owned());
        self.names.len() - 1
    }
}

/// Turns events into rows.
struct Packer {
    nodes: Names,
    roles: Vec<String>,
    /// Broker name to node name.
    brokers: HashMap<String, String>,
    strings: Names,
    queue_places: HashMap<String, usize>,
    queues: Vec<ShownQueue>,
    shape_places: HashMap<Shape, usize>,
    shapes: Vec<Shape>,
    /// Places in `strings` that are uids.
    uids: HashSet<usize>,
    rows: Vec<i64>,
}

impl Packer {
    fn new(source: Source<'_>) -> Packer {
        let Source { plan, history, .. } = source;
        let mut packer = Packer {
            nodes: Names::default(),
            roles: Vec::new(),
            brokers: HashMap::new(),
            strings: Names::default(),
            queue_places: HashMap::new(),
            queues: Vec::new(),
            shape_places: HashMap::new(),
            shapes: Vec::new(),
            uids: HashSet::new(),
            rows: Vec::new(),
        };
        let planned = plan.nodes();
        for name in planned.iter().take(plan.name_servers as usize) {
            packer.node(name, "name server");
        }
        for broker in &history.header.brokers {
            let flush = text_of(serde_json::to_value(broker.flush).ok().as_ref());
            packer.node(&broker.node, &format!("broker, {flush}"));
            packer.brokers.insert(broker.name.clone(), broker.node.clone());
        }
        for name in &planned {
            packer.node(name, "client");
        }
        packer
    }

    /// The lane of a node, with this role if it is new.
    fn node(&mut self, name: &str, role: &str) -> usize {
        let place = self.nodes.place(name);
        if place == self.roles.len() {
            self.roles.push(role.to_owned());
        }
        place
    }

    fn pack(&mut self, record: &Record, last: u64) {
        let Ok(Value::Object(event)) = serde_json::to_value(&record.event) else {
            unreachable!("an event is an object with its kind as only key");
        };
        let (kind, fields) = event.into_iter().next().expect("an event has a kind");
        let mut shape = Shape {
            kind,
            fields: Vec::new(),
        };
        let mut values = Vec::new();
        if let Value::Object(fields) = fields {
            for (name, value) in fields {
                self.field(name, value, &mut shape, &mut values);
            }
        }
        let place = match self.shape_places.get(&shape) {
            Some(&place) => place,
            None => {
                self.shapes.push(shape.clone());
                self.shape_places.insert(shape, self.shapes.len() - 1);
                self.shapes.len() - 1
            }
        };
        self.rows.push(place as i64);
        self.rows.push(record.t.saturating_sub(last) as i64);
        self.rows.append(&mut values);
    }

    fn field(&mut self, name: String, value: Value, shape: &mut Shape, values: &mut Vec<i64>) {
        let (kind, number) = match value {
            Value::Null => return,
            Value::Bool(value) => ('b', i64::from(value)),
            Value::Number(ref number) => match number.as_i64().filter(|number| number.unsigned_abs() <= EXACT_MAX) {
                Some(number) => ('n', number),
                None => ('s', self.strings.place(&number.to_string()) as i64),
            },
            Value::String(text) => {
                let place = self.strings.place(&text);
                match name.as_str() {
                    "uid" => _ = self.uids.insert(place),
                    "client" | "producer" => _ = self.node(&text, "client"),
                    "node" => _ = self.node(&text, "node"),
                    _ => {}
                }
                ('s', place as i64)
            }
            Value::Object(fields) if name == "content" => {
                for (name, value) in fields {
                    self.field(name, value, shape, values);
                }
                return;
            }
            Value::Object(ref fields) => match queue_name(fields) {
                Some((broker, queue)) => ('q', self.queue(broker, queue) as i64),
                None => ('s', self.strings.place(&plain(&value)) as i64),
            },
            Value::Array(_) => ('s', self.strings.place(&plain(&value)) as i64),
        };
        shape.fields.push((name, kind));
        values.push(number);
    }

    fn queue(&mut self, broker: &str, name: String) -> usize {
        if let Some(&place) = self.queue_places.get(&name) {
            return place;
        }
        let node = self
            .brokers
            .get(broker)
            .and_then(|node| self.nodes.places.get(node))
            .copied();
        self.queues.push(ShownQueue {
            name: name.clone(),
            node,
        });
        self.queue_places.insert(name, self.queues.len() - 1);
        self.queues.len() - 1
    }

    /// A violation with the queues and messages that its words name.
    fn violation(&self, violation: &Violation) -> ShownViolation {
        let mut queues = Vec::new();
        let mut uids = Vec::new();
        for word in violation.explanation.split_whitespace() {
            let word = word.trim_matches(|letter: char| ",.:;()[]\"'".contains(letter));
            queues.extend(self.queue_places.get(word));
            uids.extend(self.strings.places.get(word).filter(|&place| self.uids.contains(place)));
        }
        ShownViolation {
            property: violation.property.clone(),
            title: violation.title.clone(),
            t: violation.t,
            explanation: violation.explanation.clone(),
            queues,
            uids,
        }
    }
}

/// Broker and `topic@broker:id`, if these are the fields of a queue.
fn queue_name(fields: &Map<String, Value>) -> Option<(&str, String)> {
    let topic = fields.get("topic")?.as_str()?;
    let broker = fields.get("broker")?.as_str()?;
    let id = fields.get("id")?.as_i64()?;
    (fields.len() == 3).then(|| (broker, format!("{topic}@{broker}:{id}")))
}

fn text_of(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A nested value in words: one level of it, cut at [`NESTED_TEXT_MAX`].
fn plain(value: &Value) -> String {
    let is_nested = |value: &Value| value.is_object() || value.is_array();
    let brief = |value: &Value| match value {
        Value::Array(values) => format!("{} entries", values.len()),
        Value::Object(fields) => format!("{} entries", fields.len()),
        value => plain(value),
    };
    let mut text = match value {
        Value::String(text) => text.clone(),
        Value::Array(values) if values.iter().any(is_nested) => brief(value),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name} {}", brief(value)));
            fields.collect::<Vec<_>>().join(", ")
        }
        value => value.to_string(),
    };
    if text.len() > NESTED_TEXT_MAX {
        let cut = (0..=NESTED_TEXT_MAX).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(cut.unwrap_or(0));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
