//! The table of a comparison: goal, what was reached, verdict. What was not measured is never "met".

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Met,
    Missed,
    /// There is no figure, or not one of what the goal speaks of.
    NotMeasured,
    /// A figure without a goal.
    Shown,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Verdict::Met => "met",
            Verdict::Missed => "missed",
            Verdict::NotMeasured => "not measured",
            Verdict::Shown => "shown",
        }
    }
}

/// One goal.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    work: String,
    goal: String,
    reached: String,
    ratio: Option<f64>,
    pub(super) verdict: Verdict,
}

impl Row {
    /// `value` must be `goal` times `base`. `unit` stands behind both numbers.
    pub(super) fn ratio(
        work: &str,
        base_name: &str,
        goal: f64,
        value: Option<f64>,
        base: Option<f64>,
        unit: &str,
    ) -> Row {
        let ratio = value
            .zip(base)
            .filter(|(_, base)| *base > 0.0)
            .map(|(value, base)| value / base);
        let text = |number: Option<f64>| number.map_or_else(|| "?".to_owned(), |number| format!("{number:.0}"));
        Row {
            work: work.to_owned(),
            goal: if goal < 1.0 {
                format!("at least {:.0} % of {base_name}", goal * 100.0)
            } else {
                format!("at least {goal}x {base_name}")
            },
            reached: format!("{} against {}{unit}", text(value), text(base)),
            ratio,
            verdict: Row::judge(ratio.map(|ratio| ratio >= goal)),
        }
    }

    /// `value` must be at most `limit`.
    pub(super) fn at_most(work: &str, goal: &str, limit: Option<f64>, value: Option<f64>, unit: &str) -> Row {
        Row {
            work: work.to_owned(),
            goal: goal.to_owned(),
            reached: value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}{unit}")),
            ratio: None,
            verdict: Row::judge(value.zip(limit).map(|(value, limit)| value <= limit)),
        }
    }

    pub(super) fn shown(work: &str, reached: String) -> Row {
        Row {
            work: work.to_owned(),
            goal: "shown".to_owned(),
            reached,
            ratio: None,
            verdict: Verdict::Shown,
        }
    }

    /// Adds to what was reached, such as the ends of a comparison.
    pub(super) fn with(mut self, more: &str) -> Row {
        self.reached.push_str(more);
        self
    }

    /// The figure is one of less than the goal speaks of: it decides nothing.
    pub(super) fn only_if(mut self, is_whole: bool, why: &str) -> Row {
        if !is_whole {
            self.verdict = Verdict::NotMeasured;
            self.reached.push_str(why);
        }
        self
    }

    fn judge(holds: Option<bool>) -> Verdict {
        match holds {
            None => Verdict::NotMeasured,
            Some(true) => Verdict::Met,
            Some(false) => Verdict::Missed,
        }
    }

    fn cells(&self) -> [String; 5] {
        [
            self.work.clone(),
            self.goal.clone(),
            self.reached.clone(),
            self.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            self.verdict.text().to_owned(),
        ]
    }
}

const HEADS: [&str; 5] = ["work", "goal", "reached", "ratio", "verdict"];

/// Columns of equal width, for a terminal.
pub(super) fn text(rows: &[Row]) -> String {
    let all: Vec<[String; 5]> = std::iter::once(HEADS.map(str::to_owned))
        .chain(rows.iter().map(Row::cells))
        .collect();
    let width = |column: usize| all.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
    let mut out = String::new();
    for cells in &all {
        let line: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

pub(super) fn markdown(rows: &[Row]) -> String {
    let mut out = format!("| {} |\n|---|---|---|---|---|\n", HEADS.join(" | "));
    for row in rows {
        out.push_str(&format!("| {} |\n", row.cells().join(" | ")));
    }
    out
}

/// Whether the last three of `windows` lie within `tolerance` of each other: the smallest is at least that share of the largest.
pub(super) fn agree(windows: &[f64], tolerance: f64) -> bool {
    let Some(last) = windows.last_chunk::<3>() else {
        return false;
    };
    let (least, most) = last.iter().fold((f64::MAX, 0.0_f64), |(least, most), rate| {
        (least.min(*rate), most.max(*rate))
    });
    most > 0.0 && least >= most * (1.0 - tolerance)
}

/// The middle one; the mean of the two middle ones where there are as many above as below.
pub(super) fn median(rates: &[f64]) -> Option<f64> {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_never_met() {
        let missing = [
            Row::ratio("w", "stock", 5.0, None, Some(1.0), ""),
            Row::ratio("w", "stock", 5.0, Some(1.0), None, ""),
            Row::ratio("w", "stock", 5.0, Some(1.0), Some(0.0), ""),
            Row::at_most("w", "g", Some(1.0), None, ""),
            Row::at_most("w", "g", None, Some(1.0), ""),
            Row::at_most("w", "g", Some(1.0), Some(0.5), "").only_if(false, " of half"),
        ];
        for row in missing {
            assert_eq!(row.verdict, Verdict::NotMeasured, "{row:?}");
        }
    }

    #[test]
    fn a_goal_is_met_from_exactly_the_goal_on() {
        for (value, verdict) in [(4.99, Verdict::Missed), (5.0, Verdict::Met), (7.0, Verdict::Met)] {
            assert_eq!(
                Row::ratio("w", "stock", 5.0, Some(value), Some(1.0), "").verdict,
                verdict
            );
        }
        for (value, verdict) in [(1.0, Verdict::Met), (1.01, Verdict::Missed)] {
            assert_eq!(Row::at_most("w", "g", Some(1.0), Some(value), "").verdict, verdict);
        }
    }

    #[test]
    fn three_windows_agree_within_the_tolerance_and_only_the_last_count() {
        assert!(!agree(&[100.0, 100.0], 0.05));
        assert!(agree(&[1.0, 95.0, 100.0, 97.0], 0.05));
        assert!(!agree(&[94.9, 100.0, 97.0], 0.05));
        assert!(!agree(&[100.0, 97.0, 94.9], 0.05));
        assert!(!agree(&[0.0, 0.0, 0.0], 0.05));
    }

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn both_tables_show_every_cell() {
        let rows = [
            Row::ratio("send", "stock", 5.0, Some(300.0), Some(50.0), " messages/s"),
            Row::ratio("send", "the floor", 0.6, Some(300.0), None, ""),
            Row::shown("slow reader", "p99 90 µs, 91 µs beside it".to_owned()),
        ];
        let (text, markdown) = (text(&rows), markdown(&rows));
        for table in [&text, &markdown] {
            for cell in [
                "at least 5x stock",
                "300 against 50 messages/s",
                "6.00",
                "met",
                "60 %",
                "not measured",
                "91 µs",
            ] {
                assert!(table.contains(cell), "{cell}: {table}");
            }
        }
        assert_eq!(markdown.lines().count(), 5);
        assert!(text.lines().all(|line| !line.ends_with(' ')));
    }
}
