//! A summary for CI: a test case a violated or inconclusive seed, and one for all that held.

use std::fmt::Write;

use crate::Summary;

/// JUnit XML, one suite a summary.
pub fn junit(summaries: &[Summary]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for summary in summaries {
        let name = format!("orrery-sim fuzz from {} shard {}", summary.from, summary.shard);
        let _ = writeln!(
            out,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{:.3}\">",
            escape(&name),
            summary.seeds_run,
            summary.violated,
            summary.inconclusive,
            summary.wall_seconds
        );
        let _ = writeln!(
            out,
            "    <testcase classname=\"fuzz\" name=\"{} seeds held\"/>",
            summary.held
        );
        for finding in &summary.findings {
            let _ = writeln!(
                out,
                "    <testcase classname=\"fuzz\" name=\"seed {}\"><failure type=\"{}\" message=\"{}\">{}\nreplay: orrery-sim replay {}</failure></testcase>",
                finding.seed,
                escape(&finding.property),
                escape(&finding.title),
                escape(&finding.explanation),
                escape(&finding.directory)
            );
        }
        for (seed, reasons) in &summary.inconclusive_seeds {
            let _ = writeln!(
                out,
                "    <testcase classname=\"fuzz\" name=\"seed {seed}\"><skipped message=\"{}\"/></testcase>",
                escape(&reasons.join("; "))
            );
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

/// Text that XML can carry: markup escaped, control characters replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(character),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn a_violation_is_a_failure_and_markup_is_escaped() {
        let text = junit(&[example()]);
        assert!(text.contains("tests=\"3\" failures=\"1\" skipped=\"1\""), "{text}");
        assert!(text.contains("client-1-7 &lt;gone&gt; &amp; more"), "{text}");
        assert!(
            text.contains("<skipped message=\"3 acknowledgements, at least 200 required\"/>"),
            "{text}"
        );
        assert_eq!(text.matches("<testcase").count(), 3);
    }

    #[test]
    fn control_characters_do_not_break_the_file() {
        assert_eq!(escape("a\u{1}b\"c"), "a\u{fffd}b&quot;c");
    }
}
