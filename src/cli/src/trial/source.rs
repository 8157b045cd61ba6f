//! Rows of text out of a file, whichever format it has: only the columns that were asked for, in the order asked.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::Context;
use parquet::basic::{Compression, ConvertedType, LogicalType, TimeUnit};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use crate::failure::usage;
use crate::output;
use crate::parse::is_parquet;
use inroad_assignment::Timestamp;

/// What is done with a row: its number, from 1, and its cells. An empty cell is empty text.
pub(super) type OnRow<'a> = dyn FnMut(u64, &[&str]) -> anyhow::Result<()> + 'a;

/// Reads a file: Parquet where its name says so, CSV otherwise.
pub(super) fn read(path: &Path, columns: &[&str], on_row: &mut OnRow<'_>) -> anyhow::Result<()> {
    let file = File::open(path).map_err(|e| usage(format!("cannot read {}: {e}", path.display())))?;
    if is_parquet(path) { parquet(file, columns, on_row) } else { csv(BufReader::new(file), columns, on_row) }
}

/// Where each column is, or which ones there are.
fn places(columns: &[&str], there: &[&str]) -> anyhow::Result<Vec<usize>> {
    let place = |name: &&str| {
        there
            .iter()
            .position(|column| column == name)
            .ok_or_else(|| usage(format!("there is no column {name:?}: the file has {}", there.join(", "))))
    };
    columns.iter().map(place).collect()
}

/// Reads CSV with a line of column names.
pub(super) fn csv(text: impl Read, columns: &[&str], on_row: &mut OnRow<'_>) -> anyhow::Result<()> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
    let head = reader.headers().context("the first line must name the columns")?.clone();
    let places = places(columns, &head.iter().collect::<Vec<_>>())?;
    let mut record = csv::StringRecord::new();
    for number in 1.. {
        if !reader.read_record(&mut record).with_context(|| format!("row {number}"))? {
            break;
        }
        let cells: Vec<&str> = places.iter().map(|place| record.get(*place).unwrap_or_default()).collect();
        on_row(number, &cells)?;
    }
    Ok(())
}

fn parquet(file: File, columns: &[&str], on_row: &mut OnRow<'_>) -> anyhow::Result<()> {
    let reader = SerializedFileReader::new(file).context("this is no Parquet file")?;
    let schema = reader.metadata().file_metadata().schema();
    let there: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
    let places = places(columns, &there)?;
    // In the file's own order and each once, whatever is asked of them.
    let wanted = schema.get_fields().iter().enumerate().filter(|(place, _)| places.contains(place));
    let wanted: Vec<_> = wanted.map(|(_, field)| field.clone()).collect();
    for field in &wanted {
        // The reader of rows panics over intervals, and what is nested is no cell.
        if !field.is_primitive() || field.get_basic_info().converted_type() == ConvertedType::INTERVAL {
            return Err(usage(format!("column {:?} holds no single text, number or instant", field.name())));
        }
    }
    // The codecs that are built in are those that need no C library.
    let chunks = reader.metadata().row_groups().iter().flat_map(|group| group.columns());
    let closed =
        |codec: &Compression| matches!(codec, Compression::ZSTD(_) | Compression::BROTLI(_) | Compression::LZO);
    if let Some(codec) = chunks.map(|chunk| chunk.compression()).find(closed) {
        let known = "snappy, gzip and lz4 can be read, and no compression";
        return Err(usage(format!("this file is compressed by {codec}: {known}; write it anew")));
    }
    let nanos: Vec<bool> = wanted.iter().map(|field| is_nanos(field)).collect();
    let of: Vec<usize> =
        columns.iter().map(|name| wanted.iter().position(|field| field.name() == *name).unwrap_or_default()).collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(wanted).build()?;
    let rows = reader.get_row_iter(Some(projection))?;
    for (row, number) in rows.zip(1..) {
        let row = row.with_context(|| format!("row {number}"))?;
        let cells = row.get_column_iter().zip(&nanos).map(|((name, field), nanos)| {
            text(field, *nanos).with_context(|| format!("row {number}: {name} is bytes, which are no text"))
        });
        let cells = cells.collect::<anyhow::Result<Vec<String>>>()?;
        let asked: Vec<&str> = of.iter().map(|place| cells.get(*place).map_or("", |cell| cell.trim())).collect();
        on_row(number, &asked)?;
    }
    Ok(())
}

/// What the reader of rows takes for a plain number.
fn is_nanos(field: &Type) -> bool {
    matches!(
        field.get_basic_info().logical_type_ref(),
        Some(LogicalType::Timestamp(stamp)) if matches!(stamp.unit, TimeUnit::NANOS)
    )
}

/// A cell as CSV would have it. None if it is no text.
fn text(field: &Field, nanos: bool) -> Option<String> {
    let at = |micros: i64| Some(output::instant(Timestamp::from_micros(micros)));
    match field {
        Field::Null => Some(String::new()),
        Field::Bool(yes) => Some(u8::from(*yes).to_string()),
        Field::Str(text) => Some(text.clone()),
        Field::Bytes(bytes) => bytes.as_utf8().ok().map(str::to_owned),
        Field::Float(number) => Some(number.to_string()),
        Field::Double(number) => Some(number.to_string()),
        Field::Date(days) => at(i64::from(*days) * 86_400_000_000),
        Field::TimestampMillis(millis) => at(millis.saturating_mul(1000)),
        Field::TimestampMicros(micros) => at(*micros),
        Field::Long(stamp) if nanos => at(stamp.div_euclid(1000)),
        other => Some(other.to_string()),
    }
}
