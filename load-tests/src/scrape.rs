//! What a service says of itself: a look at its metrics, and what was added between two looks.

use std::collections::HashMap;

/// The series of one look.
#[derive(Debug, Clone, Default)]
pub struct Metrics(HashMap<String, f64>);

impl Metrics {
    /// Reads what `/metrics` answered.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(line).collect())
    }

    /// The sum of the series that begin like this.
    #[must_use]
    pub fn sum(&self, begin: &str) -> f64 {
        let series = self.0.iter().filter(|(name, _)| name.starts_with(begin));
        series.map(|(_, value)| value).sum()
    }

    /// What these counters have grown by since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self, begin: &str) -> f64 {
        self.sum(begin) - earlier.sum(begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_name_are_added_up() {
        let text = "# HELP a of\na{b=\"1\"} 2\na{b=\"2\"} 3.5\nother 7\n\n";
        let (before, after) = (Metrics::default(), Metrics::parse(text));
        assert_eq!(after.sum("a{"), 5.5);
        assert_eq!(after.since(&before, "a{b=\"2\"}"), 3.5);
        assert_eq!(after.sum("nothing"), 0.0);
    }
}
