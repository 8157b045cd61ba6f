//! Writes a table as CSV or Parquet.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};

use super::{Column, Table};
use crate::SimulationError;

impl Table {
    /// Number of rows, without the header.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }

    /// Whether the table has no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes CSV with a header. A missing value is an empty cell.
    ///
    /// # Errors
    ///
    /// `to` cannot be written.
    pub fn write_csv(&self, to: impl Write) -> Result<(), SimulationError> {
        let mut csv = csv::Writer::from_writer(to);
        csv.write_record(self.columns.iter().map(|(name, _)| name))?;
        for row in 0..self.len() {
            csv.write_record(self.columns.iter().map(|(_, column)| column.cell(row)))?;
        }
        csv.flush().map_err(csv::Error::from)?;
        Ok(())
    }

    /// Writes Parquet with Snappy compression, which every reader supports. A missing value is null.
    ///
    /// # Errors
    ///
    /// `to` cannot be written.
    pub fn write_parquet(&self, to: impl Write + Send) -> Result<(), SimulationError> {
        let fields = self.columns.iter().map(|(name, column)| column.field(name)).collect::<Result<_, _>>()?;
        let schema = Arc::new(Type::group_type_builder("table").with_fields(fields).build()?);
        let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
        let mut file = SerializedFileWriter::new(to, schema, properties)?;
        let mut group = file.next_row_group()?;
        for (_, column) in &self.columns {
            column.write(&mut group)?;
        }
        group.close()?;
        file.close()?;
        Ok(())
    }
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Text(cells) => cells.len(),
            Self::Count(cells) => cells.len(),
            Self::Number(cells) => cells.len(),
            Self::Flag(cells) => cells.len(),
        }
    }

    fn cell(&self, row: usize) -> String {
        fn format_cell<T: ToString>(cells: &[Option<T>], row: usize) -> String {
            cells.get(row).and_then(Option::as_ref).map(T::to_string).unwrap_or_default()
        }
        match self {
            Self::Text(cells) => cells.get(row).cloned().unwrap_or_default(),
            Self::Count(cells) => format_cell(cells, row),
            Self::Number(cells) => format_cell(cells, row),
            Self::Flag(cells) => format_cell(cells, row),
        }
    }

    fn field(&self, name: &str) -> Result<TypePtr, ParquetError> {
        let (physical, logical, repetition) = match self {
            Self::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String), Repetition::REQUIRED),
            Self::Count(_) => (Physical::INT64, None, Repetition::OPTIONAL),
            Self::Number(_) => (Physical::DOUBLE, None, Repetition::OPTIONAL),
            Self::Flag(_) => (Physical::BOOLEAN, None, Repetition::OPTIONAL),
        };
        let field = Type::primitive_type_builder(name, physical).with_repetition(repetition);
        Ok(Arc::new(field.with_logical_type(logical).build()?))
    }

    fn write<W: Write + Send>(&self, group: &mut SerializedRowGroupWriter<'_, W>) -> Result<(), ParquetError> {
        match self {
            Self::Text(cells) => {
                let cells: Vec<ByteArray> = cells.iter().map(|cell| ByteArray::from(cell.as_str())).collect();
                write_values::<ByteArrayType, W>(group, &cells, None)
            }
            Self::Count(cells) => write_optional::<Int64Type, W>(group, cells),
            Self::Number(cells) => write_optional::<DoubleType, W>(group, cells),
            Self::Flag(cells) => write_optional::<BoolType, W>(group, cells),
        }
    }
}

/// Writes the present values, and for each row whether it has a value.
fn write_optional<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    cells: &[Option<T::T>],
) -> Result<(), ParquetError> {
    let present: Vec<T::T> = cells.iter().flatten().cloned().collect();
    let levels: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
    write_values::<T, W>(group, &present, Some(&levels))
}

fn write_values<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let missing = || ParquetError::General("the schema has fewer columns than the table".to_owned());
    let mut column = group.next_column()?.ok_or_else(missing)?;
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}
