//! The only place that writes to stdout and stderr: data on stdout, all else on stderr.
//!
//! Never panics on a closed pipe: `ratoon scan ... | head` ends quietly.

use std::io::{self, IsTerminal, Write};

use serde_json::{Value, json};

use super::failure::{CliError, ErrorReport};

/// Where and how a command prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Output {
    /// JSON documents instead of text.
    pub json: bool,
}

impl Output {
    /// Prints the one result of a command: `document` with --json, otherwise `text`.
    pub fn result(&self, document: Value, text: &str) -> Result<(), CliError> {
        match self.json {
            true => self.line(&document.to_string()),
            false => self.line(text),
        }
    }

    /// One line of data; no line at all if `text` is empty.
    pub fn line(&self, text: &str) -> Result<(), CliError> {
        if text.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'\n');
        self.bytes(&bytes)
    }

    /// Raw bytes of data.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(output_error)
    }

    /// A remark for the person; with --json nothing, because results carry it.
    pub fn note(&self, text: &str) {
        if !self.json {
            self.stderr(text);
        }
    }

    /// The error that ends the command.
    pub fn error(&self, report: &ErrorReport) {
        if self.json {
            let document = json!({
                "code": report.code,
                "message": report.message,
                "hint": report.hint,
                "retry": report.retry,
            });
            return self.stderr(&document.to_string());
        }
        self.stderr(&format!("error: {}", report.message));
        if !report.hint.is_empty() {
            self.stderr(&format!("hint: {}", report.hint));
        }
    }

    /// Whether a person watches stdout, so that the screen may be redrawn.
    pub fn is_terminal(&self) -> bool {
        !self.json && io::stdout().is_terminal()
    }

    fn stderr(&self, text: &str) {
        // Nobody is left to tell if stderr is closed, and the exit code still speaks.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// A closed stdout ends a command quietly; anything else is an error of the file behind it.
pub fn output_error(cause: io::Error) -> CliError {
    match cause.kind() {
        io::ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::File { attempted: "could not write to stdout".to_owned(), cause },
    }
}
