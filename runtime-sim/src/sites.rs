//! Switched-on sites: seeded defects and legal-but-unlikely choices. Each asking of a site is one keyed draw.

use std::collections::BTreeMap;

use crate::random::Draw;

/// How often a site was asked, and how often it said yes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteCount {
    pub asked: u64,
    pub taken: u64,
}

#[derive(Default)]
pub(crate) struct Sites {
    on: BTreeMap<String, f64>,
    counts: BTreeMap<(&'static str, u64), SiteCount>,
}

impl Sites {
    pub(crate) fn switch(&mut self, name: &str, probability: f64) {
        self.on.insert(name.to_owned(), probability);
    }

    pub(crate) fn ask(&mut self, seed: u64, node: u64, name: &'static str) -> bool {
        let count = self.counts.entry((name, node)).or_default();
        count.asked += 1;
        let probability = self.on.get(name).copied().unwrap_or(0.0);
        let taken = Draw::new(seed, "site")
            .with(Draw::new(0, name).bits())
            .with(node)
            .with(count.asked)
            .happens(probability);
        count.taken += u64::from(taken);
        taken
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, SiteCount> {
        let mut sums = BTreeMap::<_, SiteCount>::new();
        for (&(name, _), count) in &self.counts {
            let sum = sums.entry(name).or_default();
            sum.asked += count.asked;
            sum.taken += count.taken;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_switched_on_sites_are_taken_and_all_are_counted() {
        let mut sites = Sites::default();
        sites.switch("early", 0.5);
        for _ in 0..1000 {
            sites.ask(1, 0, "early");
            assert!(!sites.ask(1, 0, "never"));
        }
        let counts = sites.counts();
        assert_eq!(counts["never"], SiteCount { asked: 1000, taken: 0 });
        assert!((400..600).contains(&counts["early"].taken));
    }
}
