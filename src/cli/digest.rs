//! `digest`: whether all nodes hold the same content at one index.

use super::context::Context;
use super::failure::CliError;
use super::view::{self, Comparison};
use crate::types::{Code, Failure};

/// Runs it. Exit code 1 if nodes differ; 4 if some could not be compared, which is no pass.
pub async fn run(context: &Context) -> Result<(), CliError> {
    let response = context.patient(&context.default_client()?).digest().await?;
    context.output.result(view::digest_document(&response), &view::digest_text(&response))?;
    match view::compare(&response.digests) {
        Comparison::Equal => Ok(()),
        Comparison::Different => Err(CliError::Negative {
            code: "content_differs",
            message: format!("nodes hold different content at index {}", response.index),
            hint: "replace the node that differs from the majority, and report this as a bug"
                .to_owned(),
        }),
        Comparison::Incomplete => Err(Failure::new(
            Code::Unavailable,
            "not every node could be compared",
        )
        .hint("see the table for the reason; run it again when `ratoon status` shows them all")
        .into()),
    }
}
