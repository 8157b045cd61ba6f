//! Rows of text from a file: only the requested columns, in the requested order. CSV has a file of its own, Parquet is
//! read here.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Context;
use parquet::basic::{Compression, ConvertedType, LogicalType, TimeUnit};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use super::csv_source::read_csv;
use super::requested::{OnRow, positions};
use crate::failure::usage_error;
use crate::output;
use crate::parse::is_parquet;
use inroad_assignment::Timestamp;

/// Reads a file: Parquet by its extension, CSV otherwise. Returns what a person should know about its form.
pub(super) fn read(path: &Path, columns: &[&str], on_row: &mut OnRow<'_>) -> anyhow::Result<Vec<String>> {
    let file = File::open(path).map_err(|e| usage_error(format!("cannot read the file: {e}")))?;
    if is_parquet(path) {
        return read_parquet(file, columns, on_row).map(|()| Vec::new());
    }
    read_csv(BufReader::new(file), columns, on_row)
}

fn read_parquet(file: File, columns: &[&str], on_row: &mut OnRow<'_>) -> anyhow::Result<()> {
    let reader = SerializedFileReader::new(file).context("this is not a Parquet file")?;
    let schema = reader.metadata().file_metadata().schema();
    let existing: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
    let positions = positions(columns, &existing)?;
    // Each column once, in the order of the file.
    let wanted = schema.get_fields().iter().enumerate().filter(|(position, _)| positions.contains(position));
    let wanted: Vec<_> = wanted.map(|(_, field)| field.clone()).collect();
    for field in &wanted {
        // The row reader panics on intervals, and a nested value is no cell.
        if !field.is_primitive() || field.get_basic_info().converted_type() == ConvertedType::INTERVAL {
            return Err(usage_error(format!(
                "column {:?} must contain texts, numbers or times, not nested values or intervals",
                field.name()
            )));
        }
    }
    // Only codecs without a C library are built in.
    let chunks = reader.metadata().row_groups().iter().flat_map(|group| group.columns());
    let is_unsupported =
        |codec: &Compression| matches!(codec, Compression::ZSTD(_) | Compression::BROTLI(_) | Compression::LZO);
    if let Some(codec) = chunks.map(|chunk| chunk.compression()).find(is_unsupported) {
        let supported = "Use snappy, gzip, lz4 or no compression.";
        return Err(usage_error(format!("the file is compressed with {codec}, which is not supported. {supported}")));
    }
    let nanos: Vec<bool> = wanted.iter().map(|field| is_nanos(field)).collect();
    let column_of: Vec<usize> =
        columns.iter().map(|name| wanted.iter().position(|field| field.name() == *name).unwrap_or_default()).collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(wanted).build()?;
    let rows = reader.get_row_iter(Some(projection))?;
    for (row, number) in rows.zip(1..) {
        let row = row.with_context(|| format!("row {number}"))?;
        let cells = row.get_column_iter().zip(&nanos).map(|((name, field), nanos)| {
            cell_text(field, *nanos).with_context(|| format!("row {number}: {name} is binary data, not text"))
        });
        let cells = cells.collect::<anyhow::Result<Vec<String>>>()?;
        let requested: Vec<&str> =
            column_of.iter().map(|position| cells.get(*position).map_or("", String::as_str)).collect();
        on_row(number, &requested)?;
    }
    Ok(())
}

/// Whether a column contains nanosecond timestamps, which the row reader returns as plain numbers.
fn is_nanos(field: &Type) -> bool {
    matches!(
        field.get_basic_info().logical_type_ref(),
        Some(LogicalType::Timestamp(stamp)) if matches!(stamp.unit, TimeUnit::NANOS)
    )
}

/// A cell as it would be in CSV; `None` for binary data.
fn cell_text(field: &Field, nanos: bool) -> Option<String> {
    let timestamp = |micros: i64| Some(output::instant(Timestamp::from_micros(micros)));
    match field {
        Field::Null => Some(String::new()),
        Field::Bool(yes) => Some(u8::from(*yes).to_string()),
        Field::Str(text) => Some(text.clone()),
        Field::Bytes(bytes) => bytes.as_utf8().ok().map(str::to_owned),
        Field::Float(number) => Some(number.to_string()),
        Field::Double(number) => Some(number.to_string()),
        Field::Date(days) => timestamp(i64::from(*days) * 86_400_000_000),
        Field::TimestampMillis(millis) => timestamp(millis.saturating_mul(1000)),
        Field::TimestampMicros(micros) => timestamp(*micros),
        Field::Long(stamp) if nanos => timestamp(stamp.div_euclid(1000)),
        other => Some(other.to_string()),
    }
}
