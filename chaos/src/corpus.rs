//! Seeds worth keeping: one a line, with what it found or reaches.
//!
//! `SEED [steps=N] [# note]`; empty lines and lines of a note alone are passed over.

/// A seed and how to run it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// The seed.
    pub seed: u64,
    /// Events of the phase of faults; 0: the default.
    pub steps: u64,
}

/// The cases of a corpus; Err: which line is none, and why.
pub fn parse(text: &str) -> Result<Vec<Case>, String> {
    let lines = text.lines().enumerate();
    let cases =
        lines.map(|(at, line)| parse_line(line).map_err(|e| format!("line {}: {e}", at + 1)));
    cases.filter_map(Result::transpose).collect()
}

fn parse_line(line: &str) -> Result<Option<Case>, String> {
    let words = line.split('#').next().unwrap_or_default();
    let mut words = words.split_whitespace();
    let Some(seed) = words.next() else { return Ok(None) };
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let mut case = Case { seed: number(seed)?, steps: 0 };
    for word in words {
        match word.split_once('=') {
            Some(("steps", steps)) => case.steps = number(steps)?,
            _ => return Err(format!("{word} means nothing here")),
        }
    }
    Ok(Some(case))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_has_a_seed_a_line_and_may_say_what_it_found() {
        let text = "# words\n\n7 # a lost write\n8 steps=900\n";
        let cases = [Case { seed: 7, steps: 0 }, Case { seed: 8, steps: 900 }];
        assert_eq!(parse(text).unwrap(), cases);
    }

    #[test]
    fn a_line_that_is_no_case_is_named() {
        assert!(parse("1\nseven\n").unwrap_err().starts_with("line 2"));
        assert!(parse("1 speed=2").unwrap_err().contains("speed=2"));
    }
}
