use super::*;
use crate::generate::generate;
use crate::plan::{Fault, FaultPlan};
use crate::run::run;
use orrery_checker::history::{Content, Queue};
use orrery_checker::{Options, check_history};

/// A second or two of a small cluster.
fn short_run() -> Run {
    let mut plan = generate(1);
    plan.duration_ms = 3_000;
    plan.faults = vec![
        Fault {
            at_ms: 500,
            what: FaultPlan::Kill {
                node: "broker-a".into(),
                for_ms: 700,
            },
        },
        Fault {
            at_ms: 600,
            what: FaultPlan::ClockStep {
                node: "client-1".into(),
                by_ms: -5_000,
            },
        },
        Fault {
            at_ms: 1_500,
            what: FaultPlan::Cut {
                from: vec!["client-1".into()],
                to: vec!["broker-b".into()],
                both: true,
                for_ms: 400,
            },
        },
    ];
    run(&plan)
}

fn page(source: Source<'_>) -> String {
    let mut page = Vec::new();
    write_page(&mut page, source).unwrap();
    String::from_utf8(page).unwrap()
}

/// The payload as a browser finds it: up to the first thing that looks like the element's end.
fn payload(page: &str) -> Payload {
    let (_, rest) = page.split_once("id=\"payload\">").unwrap();
    let (payload, _) = rest.split_once("</script").unwrap();
    serde_json::from_str(payload).unwrap()
}

/// What the script reads: time, kind and fields of each row.
fn decode(payload: &Payload) -> Vec<(u64, String, BTreeMap<String, String>)> {
    let mut decoded = Vec::new();
    let (mut at, mut t) = (0, payload.begin);
    while at < payload.rows.len() {
        let shape = &payload.shapes[payload.rows[at] as usize];
        t += payload.rows[at + 1] as u64;
        let values = &payload.rows[at + 2..at + 2 + shape.fields.len()];
        let fields = shape.fields.iter().zip(values).map(|((name, kind), &value)| {
            let text = match kind {
                'n' => value.to_string(),
                's' => payload.strings[value as usize].clone(),
                'q' => payload.queues[value as usize].name.clone(),
                'b' => (value == 1).to_string(),
                kind => panic!("{kind} is no type of a field"),
            };
            (name.clone(), text)
        });
        decoded.push((t, shape.kind.clone(), fields.collect()));
        at += 2 + shape.fields.len();
    }
    decoded
}

/// The same from the history itself, by another way: its JSON.
fn flat(record: &Record) -> (u64, String, BTreeMap<String, String>) {
    let event = serde_json::to_value(&record.event).unwrap();
    let (kind, fields) = event.as_object().unwrap().iter().next().unwrap();
    let mut flat = BTreeMap::new();
    for (name, value) in fields.as_object().unwrap() {
        match (name.as_str(), value) {
            ("content", Value::Object(content)) => {
                flat.extend(content.iter().map(|(name, value)| (name.clone(), plain(value))));
            }
            ("queue", queue) => {
                let queue: Queue = serde_json::from_value(queue.clone()).unwrap();
                flat.insert(name.clone(), format!("{}@{}:{}", queue.topic, queue.broker, queue.id));
            }
            _ => _ = flat.insert(name.clone(), plain(value)),
        }
    }
    (record.t, kind.clone(), flat)
}

#[test]
fn every_event_of_a_run_is_in_its_page_with_all_its_fields() {
    let run = short_run();
    let page = page(Source::of(&run));
    let payload = payload(&page);
    let rows = decode(&payload);
    assert_eq!(rows.len(), run.history.records.len());
    for (row, record) in rows.iter().zip(&run.history.records) {
        assert_eq!(*row, flat(record));
    }
    let mut kinds: Vec<&str> = payload.shapes.iter().map(|shape| shape.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert!(kinds.len() >= 20, "{kinds:?}");
    let count = |name: &str| payload.counts.iter().find(|(count, _)| count == name).unwrap().1;
    let of_kind = |kind: &str| rows.iter().filter(|row| row.1 == kind).count() as u64;
    assert_eq!(count("acks"), of_kind("send_ok"));
    assert_eq!(count("deliveries"), of_kind("deliver_start"));
    assert_eq!(count("scanned"), of_kind("scan_entry"));
    let lanes: Vec<&str> = payload.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(lanes, run.plan.nodes());
    let overhead = [TEMPLATE, STYLE, MODEL, CANVAS, LISTS]
        .iter()
        .map(|part| part.len())
        .sum::<usize>()
        + 4_000;
    let size = (page.len() - overhead) / rows.len();
    assert!(size < 60, "{size} bytes an event");
}

#[test]
fn faults_have_their_ends_their_effects_and_what_the_plan_says() {
    let run = short_run();
    let payload = payload(&page(Source::of(&run)));
    let [kill, step, cut] = payload.faults.as_slice() else {
        panic!("{:?}", payload.faults);
    };
    assert_eq!((kill.kind.as_str(), kill.parameters.as_str()), ("kill", "for_ms 700"));
    assert_eq!((kill.end - kill.begin + 500_000) / 1_000_000, 700, "milliseconds");
    assert_eq!(kill.effect["processes_ended"], 1);
    assert_eq!(payload.nodes[kill.nodes[0]].name, "broker-a");
    assert!(payload.nodes[kill.nodes[0]].role.starts_with("broker, "));
    assert_eq!(
        (step.kind.as_str(), step.by_ms, step.end),
        ("clock_step", Some(-5_000), step.begin)
    );
    // What a cut did is known when it ends.
    assert!(cut.effect["packets_cut"] > 0, "{cut:?}");
    assert_eq!(cut.parameters, "from client-1, to broker-b, both true, for_ms 400");
}

/// A history of one message, with these names.
fn written(uid: &str, producer: &str, topic: &str) -> (Plan, History) {
    let mut plan = generate(1);
    plan.faults.clear();
    plan.story = format!("the story of {uid}");
    let queue = Queue {
        topic: topic.into(),
        broker: "broker-a".into(),
        id: 0,
    };
    let content = Content {
        keys: Some(uid.into()),
        ..Content::default()
    };
    let events = [
        Event::SendInvoke {
            uid: uid.into(),
            attempt: 1,
            tries: 1,
            producer: producer.into(),
            topic: topic.into(),
            content: content.clone(),
            wait_store: true,
        },
        Event::SendInfo {
            uid: uid.into(),
            attempt: 1,
            error: format!("{uid}\u{2028}\0"),
        },
        Event::Seek {
            session: producer.into(),
            offset: i64::MAX,
            reason: uid.into(),
        },
        Event::Gap {
            node: producer.into(),
            queue: queue.clone(),
            offset: -1,
        },
        Event::ScanEntry {
            queue,
            offset: 0,
            uid: Some(uid.into()),
            content,
        },
    ];
    let records = events
        .into_iter()
        .zip(1..)
        .map(|(event, t)| Record { t: t * 1_000, event });
    let mut history = run_header(&plan);
    history.records = records.collect();
    (plan, history)
}

fn run_header(plan: &Plan) -> History {
    let text = r#"{"history":1,"source":"a test","records":["sends"],"brokers":[{"name":"broker-a","node":"broker-a","flush":"sync"}],"groups":[]}"#;
    let mut header: orrery_checker::history::Header = serde_json::from_str(text).unwrap();
    header.seed = Some(plan.seed);
    History {
        header,
        records: Vec::new(),
    }
}

#[test]
fn hostile_names_stay_text() {
    let uid = "</script><script>alert(1)</script>";
    let (plan, history) = written(uid, "<!--<script>\"'&", "]]>&lt;</SCRIPT >");
    let mut report = check_history(&history, &Options::default());
    report.verdict = Verdict::Violated(vec![Violation {
        property: "C01".into(),
        title: uid.into(),
        t: 2_000,
        explanation: format!("{uid} came from nowhere"),
    }]);
    let page = page(Source {
        plan: &plan,
        history: &history,
        report: &report,
    });
    let count = |text: &str| page.to_lowercase().matches(text).count();
    let own = |text: &str| TEMPLATE.to_lowercase().matches(text).count();
    assert_eq!(count("</script"), own("</script"));
    assert_eq!(count("<script"), own("<script"));
    assert_eq!(count("<!--"), 0);
    let payload = payload(&page);
    for (row, record) in decode(&payload).iter().zip(&history.records) {
        assert_eq!(*row, flat(record));
    }
    assert!(payload.rows.iter().all(|value| value.unsigned_abs() <= EXACT_MAX));
    assert_eq!(payload.violations[0].explanation, format!("{uid} came from nowhere"));
    assert_eq!(payload.strings[payload.violations[0].uids[0]], uid);
    assert!(payload.nodes.iter().any(|node| node.name == "<!--<script>\"'&"));
}

#[test]
fn a_violation_knows_the_queue_and_the_messages_of_its_words() {
    let (plan, history) = written("client-1-7", "client-1", "orders");
    let mut report = check_history(&history, &Options::default());
    report.verdict = Verdict::Violated(vec![Violation {
        property: "C05".into(),
        title: "lost".into(),
        t: 2_000,
        explanation: "orders@broker-a:0: client-1-7, not client-1-77, of client-1 (acknowledged).".into(),
    }]);
    let payload = Payload::of(Source {
        plan: &plan,
        history: &history,
        report: &report,
    });
    let violation = &payload.violations[0];
    let queues: Vec<&str> = violation
        .queues
        .iter()
        .map(|&at| payload.queues[at].name.as_str())
        .collect();
    let uids: Vec<&str> = violation.uids.iter().map(|&at| payload.strings[at].as_str()).collect();
    assert_eq!((queues, uids), (vec!["orders@broker-a:0"], vec!["client-1-7"]));
    assert_eq!(
        payload.queues[violation.queues[0]]
            .node
            .map(|at| payload.nodes[at].name.as_str()),
        Some("broker-a")
    );
}

#[test]
fn a_page_loads_nothing() {
    for part in [TEMPLATE, STYLE, MODEL, CANVAS, LISTS] {
        for word in [
            "http:",
            "https:",
            " src=",
            "@import",
            "url(",
            "fetch(",
            "innerHTML",
            "insertAdjacentHTML",
            "document.write",
        ] {
            assert!(!part.contains(word), "{word}");
        }
    }
}

#[test]
fn of_a_long_history_the_page_keeps_what_is_around_the_violation() {
    let records: Vec<Record> = (0..100)
        .map(|t| Record {
            t,
            event: Event::Mark { name: "m".into() },
        })
        .collect();
    let broken = |t| {
        [Violation {
            property: "C01".into(),
            title: String::new(),
            t,
            explanation: String::new(),
        }]
    };
    assert_eq!(window(&records, &[], 100), 0..100);
    assert_eq!(window(&records, &[], 20), 80..100);
    assert_eq!(window(&records, &broken(50), 20), 35..55);
    assert_eq!(window(&records, &broken(3), 20), 0..20);
    assert_eq!(window(&records, &broken(99), 20), 80..100);
    assert_eq!(window(&[], &[], 20), 0..0);
}

#[test]
fn nested_fields_are_words_and_not_endless() {
    let value = serde_json::json!({"a": 1, "b": ["x", "y"], "c": {"d": [1]}});
    assert_eq!(plain(&value), "a 1, b 2 entries, c 1 entries");
    assert_eq!(plain(&serde_json::json!([{"a": 1}, 2])), "2 entries");
    assert_eq!(plain(&serde_json::json!(["x", 2])), "x, 2");
    assert_eq!(plain(&serde_json::json!({"bytes_lost": 512})), "bytes_lost 512");
    let long = plain(&serde_json::json!("ä".repeat(1_000)));
    assert!(
        long.len() <= NESTED_TEXT_MAX + 3 && long.ends_with('…'),
        "{}",
        long.len()
    );
}
