//! The JSON Schema of what each command prints.

use std::io::Write;

use anyhow::{Context, Result};

use crate::core::event::{AuditLine, Diagnosis, Event, Explanation, ListLine};

/// The command whose lines a schema describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SchemaOf {
    Trace,
    List,
    Explain,
    Audit,
    Doctor,
}

/// Prints the JSON Schema of the lines of a command.
///
/// # Errors
/// If the writer fails.
pub fn schema(of: SchemaOf, writer: &mut impl Write) -> Result<()> {
    let schema = serde_json::to_string_pretty(&match of {
        SchemaOf::Trace => schemars::schema_for!(Event),
        SchemaOf::List => schemars::schema_for!(ListLine),
        SchemaOf::Explain => schemars::schema_for!(Explanation),
        SchemaOf::Audit => schemars::schema_for!(AuditLine),
        SchemaOf::Doctor => schemars::schema_for!(Diagnosis),
    })?;
    writeln!(writer, "{schema}").context("cannot write")
}
