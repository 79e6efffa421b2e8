//! What became of every failpoint, as lines that a person reads.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use super::Story;

/// One point, struck in one story.
pub struct Row {
    /// The story.
    pub story: Story,
    /// The point, and at which passing it was struck.
    pub place: String,
    /// How its node came back; or what went wrong.
    pub outcome: Result<String>,
    /// From the beginning of the story to the end of its checks.
    pub took: Duration,
}

impl Row {
    pub(super) fn new(story: Story, place: &str, outcome: Result<String>, took: Duration) -> Row {
        Row { story, place: place.to_owned(), outcome, took }
    }

    /// The point alone.
    pub fn point(&self) -> &str {
        self.place.split(':').next().unwrap_or(&self.place)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let story = format!("{:?}", self.story).to_lowercase();
        let seconds = self.took.as_secs_f64();
        match &self.outcome {
            Ok(how) => write!(f, "ok      {:30} {story:8} {seconds:5.1} s  {how}", self.place),
            Err(error) => {
                write!(f, "FAILED  {:30} {story:8} {seconds:5.1} s  {error:#}", self.place)
            }
        }
    }
}

/// The whole run.
#[derive(Default)]
pub struct Table {
    /// In the order in which they were struck.
    pub rows: Vec<Row>,
    /// Points of the program that no story strikes.
    pub unreached: Vec<String>,
}

impl Table {
    /// Whether every point was reached and every node came back.
    pub fn is_ok(&self) -> bool {
        self.unreached.is_empty()
            && !self.rows.is_empty()
            && self.rows.iter().all(|row| row.outcome.is_ok())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.rows.iter().filter(|row| row.outcome.is_err()).count();
        for point in &self.unreached {
            writeln!(f, "FAILED  {point:30} no story reaches it")?;
        }
        let seconds: f64 = self.rows.iter().map(|row| row.took.as_secs_f64()).sum();
        let points: std::collections::BTreeSet<&str> = self.rows.iter().map(Row::point).collect();
        write!(
            f,
            "{} points struck in {} stories, {failed} failed, {} never reached, {seconds:.0} s",
            points.len(),
            self.rows.len(),
            self.unreached.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(outcome: Result<String>) -> Row {
        Row::new(Story::Pull, "install.begun:2", outcome, Duration::from_secs(1))
    }

    #[test]
    fn a_run_passes_only_if_every_point_was_reached_and_every_node_came_back() {
        let good = || Table { rows: vec![row(Ok("came back".into()))], unreached: Vec::new() };
        assert!(good().is_ok());
        assert!(!Table::default().is_ok(), "nothing was struck");
        let mut unreached = good();
        unreached.unreached.push("log.append.begun".into());
        assert!(!unreached.is_ok() && unreached.to_string().contains("log.append.begun"));
        let mut failed = good();
        failed.rows.push(row(Err(anyhow::anyhow!("a write is gone"))));
        assert!(!failed.is_ok());
        assert!(failed.rows[1].to_string().starts_with("FAILED"));
        assert_eq!(failed.rows[1].point(), "install.begun");
    }
}
