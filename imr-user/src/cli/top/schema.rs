//! The JSON Schema of what `imr-top --json` prints, made from the types that are printed.

use schemars::generate::SchemaSettings;

use crate::model::snapshot::Snapshot;

/// The schema, for people and programs; the last line ends with a line feed.
///
/// # Errors
/// None that can happen: a schema is always JSON.
pub fn text() -> serde_json::Result<String> {
    // As it is written, not as it would be read: fields that may be left out are not required.
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<Snapshot>();
    schema.insert("title".to_owned(), "A sample of imr-top --json".into());
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

#[cfg(test)]
mod tests;
