//! The table of a comparison: goal, what was reached, whether the goal is met. What was not measured is never "met", and says why.

use serde::Serialize;

use super::measure::Found;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Met,
    Missed,
    /// There is no figure.
    Failed,
    /// A figure, but not of what the goal speaks of.
    NotMeasured,
    /// A figure without a goal.
    Shown,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Verdict::Met => "yes",
            Verdict::Missed => "no",
            Verdict::Failed => "failed",
            Verdict::NotMeasured => "not measured",
            Verdict::Shown => "-",
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
    /// `value` must be `goal` times `base`; both are messages a second.
    pub(super) fn ratio(work: &str, base_name: &str, goal: f64, value: &Found<f64>, base: &Found<f64>) -> Row {
        let row = Row::share(work, base_name, value, base);
        Row {
            goal: if goal < 1.0 {
                format!("at least {:.0} % of {base_name}", goal * 100.0)
            } else {
                format!("at least {goal}x {base_name}")
            },
            verdict: match row.ratio {
                None => Verdict::Failed,
                Some(ratio) if ratio >= goal => Verdict::Met,
                Some(_) => Verdict::Missed,
            },
            ..row
        }
    }

    /// `value` beside `base`, without a goal.
    pub(super) fn share(work: &str, base_name: &str, value: &Found<f64>, base: &Found<f64>) -> Row {
        let ratio = match (value, base) {
            (Ok(value), Ok(base)) if *base > 0.0 => Some(value / base),
            _ => None,
        };
        let text = |found: &Found<f64>| match found {
            Ok(number) => format!("{number:.0}"),
            Err(reason) => format!("[{}]", one_line(reason)),
        };
        Row {
            work: work.to_owned(),
            goal: format!("shown: share of {base_name}"),
            reached: format!("{} against {} messages/s", text(value), text(base)),
            ratio,
            verdict: if ratio.is_some() {
                Verdict::Shown
            } else {
                Verdict::Failed
            },
        }
    }

    /// `value` must be at most `limit`.
    pub(super) fn at_most(work: &str, goal: &str, limit: &Found<f64>, value: &Found<f64>, unit: &str) -> Row {
        let (reached, verdict) = match (value, limit) {
            (Ok(value), Ok(limit)) if value <= limit => (format!("{value:.1}{unit}"), Verdict::Met),
            (Ok(value), Ok(_)) => (format!("{value:.1}{unit}"), Verdict::Missed),
            (Err(reason), _) | (_, Err(reason)) => (format!("[{}]", one_line(reason)), Verdict::Failed),
        };
        Row {
            work: work.to_owned(),
            goal: goal.to_owned(),
            reached,
            ratio: None,
            verdict,
        }
    }

    pub(super) fn shown(work: &str, reached: Found<String>) -> Row {
        Row {
            work: work.to_owned(),
            goal: "shown".to_owned(),
            verdict: if reached.is_ok() {
                Verdict::Shown
            } else {
                Verdict::Failed
            },
            reached: reached.unwrap_or_else(|reason| format!("[{}]", one_line(&reason))),
            ratio: None,
        }
    }

    /// Adds to what was reached, such as the ends of a comparison.
    pub(super) fn with(mut self, more: &str) -> Row {
        self.reached.push_str(more);
        self
    }

    /// The figure is one of less than the goal speaks of: it decides nothing.
    pub(super) fn only_if(mut self, is_whole: bool, why: &str) -> Row {
        if !is_whole && self.has_figure() {
            self.verdict = Verdict::NotMeasured;
            self.reached.push_str(why);
        }
        self
    }

    pub(super) fn has_figure(&self) -> bool {
        self.verdict != Verdict::Failed
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

/// A reason as a cell: the end of a server's log has lines and bars.
fn one_line(reason: &str) -> String {
    let words: Vec<&str> = reason.split_whitespace().collect();
    words.join(" ").replace('|', "/")
}

const HEADS: [&str; 5] = ["work", "goal", "reached", "ratio", "met"];

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
pub(super) fn median(rates: &[f64]) -> Found<f64> {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => Err("not measured".to_owned()),
        count if count % 2 == 1 => Ok(sorted[middle]),
        _ => Ok(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed<T>() -> Found<T> {
        Err("the broker\nended | with 1".to_owned())
    }

    #[test]
    fn what_failed_is_never_met_and_says_why() {
        let failed_rows = [
            Row::ratio("w", "stock", 5.0, &failed(), &Ok(1.0)),
            Row::ratio("w", "stock", 5.0, &Ok(1.0), &failed()),
            Row::share("w", "stock", &failed(), &failed()),
            Row::at_most("w", "g", &Ok(1.0), &failed(), ""),
            Row::at_most("w", "g", &failed(), &Ok(1.0), ""),
            Row::at_most("w", "g", &Ok(1.0), &failed(), "").only_if(false, " of half"),
            Row::shown("w", failed()),
        ];
        for row in failed_rows {
            assert_eq!(row.verdict, Verdict::Failed, "{row:?}");
            assert!(row.reached.contains("[the broker ended / with 1]"), "{row:?}");
        }
        let nothing = Row::ratio("w", "stock", 5.0, &Ok(1.0), &Ok(0.0));
        assert_eq!(nothing.verdict, Verdict::Failed);
    }

    #[test]
    fn a_figure_of_less_than_the_goal_speaks_of_decides_nothing() {
        let row = Row::at_most("w", "g", &Ok(1.0), &Ok(0.5), "").only_if(false, " (of half)");
        assert_eq!(
            (row.verdict, row.reached.as_str()),
            (Verdict::NotMeasured, "0.5 (of half)")
        );
    }

    #[test]
    fn a_goal_is_met_from_exactly_the_goal_on() {
        for (value, verdict) in [(4.99, Verdict::Missed), (5.0, Verdict::Met), (7.0, Verdict::Met)] {
            assert_eq!(Row::ratio("w", "stock", 5.0, &Ok(value), &Ok(1.0)).verdict, verdict);
        }
        for (value, verdict) in [(1.0, Verdict::Met), (1.01, Verdict::Missed)] {
            assert_eq!(Row::at_most("w", "g", &Ok(1.0), &Ok(value), "").verdict, verdict);
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
        assert!(median(&[]).is_err());
        assert_eq!(median(&[3.0, 1.0, 2.0]), Ok(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Ok(2.5));
    }

    #[test]
    fn both_tables_show_every_cell() {
        let rows = [
            Row::ratio("send", "stock", 5.0, &Ok(300.0), &Ok(50.0)),
            Row::ratio("send", "the floor", 0.6, &Ok(300.0), &failed()),
            Row::shown("slow reader", Ok("p99 90 µs, 91 µs beside it".to_owned())),
        ];
        let (text, markdown) = (text(&rows), markdown(&rows));
        for table in [&text, &markdown] {
            for cell in [
                "at least 5x stock",
                "300 against 50 messages/s",
                "6.00",
                "yes",
                "60 %",
                "failed",
                "91 µs",
            ] {
                assert!(table.contains(cell), "{cell}: {table}");
            }
        }
        assert_eq!(markdown.lines().count(), 5);
        assert!(text.lines().all(|line| !line.ends_with(' ')));
    }
}
