//! `COMPAT.md` says the truth: every request code stands in it, what is handled is not denied, what is not handled is not
//! claimed, and the tests it names exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use orrery_core::protocol::code::request;

struct Row {
    name: String,
    support: String,
    note: String,
    test: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows `| code | NAME | answered by | support | note | test |`.
fn rows() -> BTreeMap<i32, Row> {
    let mut rows = BTreeMap::new();
    for line in read("COMPAT.md").lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let (Some(Ok(code)), 6) = (cells.first().map(|cell| cell.parse()), cells.len()) else {
            continue;
        };
        let row = Row {
            name: cells[1].to_owned(),
            support: cells[3].to_owned(),
            note: cells[4].to_owned(),
            test: cells[5].to_owned(),
        };
        assert!(rows.insert(code, row).is_none(), "code {code} stands twice");
    }
    rows
}

/// Codes named as `request::NAME` in the files that decide what a request means.
fn handled() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let deciders = [
        "core/src/broker/dispatch.rs",
        "core/src/namesrv/state.rs",
        "core/src/client/inbound.rs",
    ];
    for source in deciders {
        for mention in read(source).split("request::").skip(1) {
            let is_name = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
            let end = mention.find(|letter| !is_name(letter)).unwrap_or(mention.len());
            if end > 0 {
                names.insert(mention[..end].to_owned());
            }
        }
    }
    names
}

#[test]
fn every_request_code_stands_in_compat_with_its_name() {
    let rows = rows();
    for (code, name) in request::ALL {
        let row = rows.get(code).unwrap_or_else(|| panic!("{code} {name} is missing"));
        assert_eq!(row.name, *name);
        assert!(
            ["yes", "partly", "no"].contains(&row.support.as_str()),
            "{name}: {}",
            row.support
        );
    }
    assert_eq!(
        rows.len(),
        request::ALL.len(),
        "COMPAT.md names codes that do not exist"
    );
}

#[test]
fn what_is_handled_is_not_denied_and_the_rest_is_not_claimed() {
    let handled = handled();
    for row in rows().values() {
        match row.support.as_str() {
            "no" => assert!(
                !handled.contains(&row.name) || !row.note.is_empty(),
                "{} is handled: why no?",
                row.name
            ),
            _ => assert!(handled.contains(&row.name), "{} is handled nowhere", row.name),
        }
        assert!(
            row.support != "partly" || !row.note.is_empty(),
            "{}: what is missing?",
            row.name
        );
    }
}

#[test]
fn the_tests_that_compat_names_exist() {
    for row in rows().values().filter(|row| row.support != "no") {
        let quoted: Vec<&str> = row.test.split('`').skip(1).step_by(2).collect();
        let [file, test] = quoted[..] else {
            panic!(
                "{}: a file and a test are named, each in back quotes, not {:?}",
                row.name, row.test
            );
        };
        let found = match file {
            "interop/run" => read(file).contains(&format!("client_{}()", test.replace('-', "_"))),
            _ => read(file).contains(&format!("fn {test}(")),
        };
        assert!(found, "{}: there is no {test} in {file}", row.name);
    }
}
