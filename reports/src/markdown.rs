//! A summary for people.

use std::fmt::Write;

use crate::Summary;

/// Tables of what was run and what was found.
pub fn markdown(summaries: &[Summary]) -> String {
    let mut out = String::from("# Fuzz summary\n\n");
    out.push_str("| seeds from | shard | sites | run | held | violated | inconclusive | simulated s | simulated s per s and thread | median acks | median faults |\n");
    out.push_str("|---|---|---|---|---|---|---|---|---|---|---|\n");
    for summary in summaries {
        let sites: Vec<&str> = summary.sites.keys().map(String::as_str).collect();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {:.0} | {:.0} | {} | {} |",
            summary.from,
            summary.shard,
            if sites.is_empty() {
                "-".to_owned()
            } else {
                sites.join(" ")
            },
            summary.seeds_run,
            summary.held,
            summary.violated,
            summary.inconclusive,
            summary.simulated_seconds,
            summary.ratio_per_thread,
            summary.acks_median,
            summary.faults_with_effect_median,
        );
    }
    let findings: Vec<_> = summaries.iter().flat_map(|summary| &summary.findings).collect();
    if !findings.is_empty() {
        out.push_str("\n## Violations\n\n| seed | property | what | replay |\n|---|---|---|---|\n");
        for finding in findings {
            let _ = writeln!(
                out,
                "| {} | {} {} | {} | `orrery-sim replay {}` |",
                finding.seed,
                finding.property,
                finding.title,
                finding.explanation.replace('|', "\\|").replace('\n', " "),
                finding.directory
            );
        }
    }
    let inconclusive: Vec<_> = summaries
        .iter()
        .flat_map(|summary| &summary.inconclusive_seeds)
        .collect();
    if !inconclusive.is_empty() {
        out.push_str("\n## Inconclusive\n\n");
        for (seed, reasons) in inconclusive {
            let _ = writeln!(out, "- seed {seed}: {}", reasons.join("; "));
        }
    }
    out.push_str("\n## Faults with effect\n\n| kind | count |\n|---|---|\n");
    let mut effects = std::collections::BTreeMap::<&str, u64>::new();
    for (kind, count) in summaries.iter().flat_map(|summary| &summary.fault_effects) {
        *effects.entry(kind).or_default() += count;
    }
    for (kind, count) in effects {
        let _ = writeln!(out, "| {kind} | {count} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn violations_come_with_their_replay_and_inconclusive_seeds_with_their_reason() {
        let text = markdown(&[example()]);
        assert!(text.contains("| 1 | C05 lost acknowledged message |"), "{text}");
        assert!(text.contains("`orrery-sim replay out/seed-1`"), "{text}");
        assert!(text.contains("- seed 2: 3 acknowledgements"), "{text}");
        assert!(text.contains("| power_loss | 1 |"), "{text}");
    }
}
