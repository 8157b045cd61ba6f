//! CSV with a header row, in the forms that spreadsheets and databases write: separated by commas, semicolons, tabs, bars
//! or spaces, with or without a byte order mark, after a line that names the separator (`sep=;`), or with each line as one
//! quoted field. The form is found from the header, by the names of the requested columns. A file that is no CSV is
//! refused with what it seems to be.

use std::io::{BufRead, Cursor, Read};

use anyhow::Context;
use csv::{ErrorKind, ReaderBuilder, StringRecord, Trim};

use super::requested::{OnRow, positions};
use crate::failure::usage_error;

/// The separators that are tried, with their names, the usual one first.
const SEPARATORS: [(u8, &str); 5] =
    [(b',', "commas"), (b';', "semicolons"), (b'\t', "tabs"), (b'|', "bars (|)"), (b' ', "spaces")];
/// Longest header line.
const HEADER_MAX: u64 = 1024 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// First bytes of files that are no CSV, and what to do with such a file.
const OTHER_FILES: [(&[u8], &str); 5] = [
    (b"\x1f\x8b", "is compressed with gzip. Unpack it first (gunzip)."),
    (b"PK\x03\x04", "is an Excel workbook or a zip archive. Save the table as CSV in UTF-8."),
    (b"PAR1", "is a Parquet file. Rename it so that its name ends in .parquet."),
    (b"\xff\xfe", "has the encoding UTF-16. Save it as CSV in UTF-8."),
    (b"\xfe\xff", "has the encoding UTF-16. Save it as CSV in UTF-8."),
];

/// How a file is written.
#[derive(Debug, Clone, Copy)]
struct Form {
    separator: u8,
    separator_name: &'static str,
    /// Each line is one quoted field that contains the fields.
    quoted_lines: bool,
}

impl Form {
    /// What a person should know about the form; nothing about the usual one.
    fn notes(self) -> Vec<String> {
        let separators = (self.separator != b',').then(|| format!("columns are separated by {}", self.separator_name));
        let quoted = "every line is one quoted field; the fields inside it are read".to_owned();
        separators.into_iter().chain(self.quoted_lines.then_some(quoted)).collect()
    }
}

/// Reads CSV. Returns what a person should know about its form.
pub(super) fn read_csv(
    mut text: impl BufRead,
    columns: &[&str],
    on_row: &mut OnRow<'_>,
) -> anyhow::Result<Vec<String>> {
    let mut header = Vec::new();
    text.by_ref().take(HEADER_MAX).read_until(b'\n', &mut header).context("the file cannot be read")?;
    if let Some((_, what)) = OTHER_FILES.iter().find(|(start, _)| header.starts_with(start)) {
        return Err(usage_error(format!("the file {what}")));
    }
    if header.starts_with(BYTE_ORDER_MARK) {
        header.drain(..BYTE_ORDER_MARK.len());
    }
    let mut notes = Vec::new();
    if names_separator(&header) {
        let line = String::from_utf8_lossy(&header).trim().to_owned();
        notes.push(format!("the first line, {line}, names the separator and is no header"));
        header.clear();
        text.by_ref().take(HEADER_MAX).read_until(b'\n', &mut header).context("the file cannot be read")?;
    }
    let form = find_form(&header, columns)?;
    let text = Cursor::new(header).chain(text);
    if form.quoted_lines {
        read_rows(Cursor::new(unquoted_lines(text)?), form, columns, on_row)?;
    } else {
        read_rows(text, form, columns, on_row)?;
    }
    notes.extend(form.notes());
    Ok(notes)
}

/// Whether a line only names the separator for a spreadsheet: `sep=;`, also in quotes.
fn names_separator(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    line.len() <= 5 && line.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"sep="))
}

/// The form in which the header has all requested columns.
///
/// # Errors
///
/// There is none. The error is that of the form with the most fields, because it is most likely the right one.
fn find_form(header: &[u8], columns: &[&str]) -> anyhow::Result<Form> {
    // A file whose lines end in carriage returns only is read as one line.
    let line = header.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let whole = split_line(line, b',')?;
    let inner = whole.get(0).filter(|field| whole.len() == 1 && line.starts_with(b"\"") && !field.is_empty());
    let quoted = inner.map(|field| field.as_bytes().to_vec());
    let candidates = [Some((line, false)), quoted.as_deref().map(|inner| (inner, true))].into_iter().flatten();
    let mut closest: Option<(usize, Form, anyhow::Error)> = None;
    for (line, quoted_lines) in candidates {
        for (separator, separator_name) in SEPARATORS {
            let form = Form { separator, separator_name, quoted_lines };
            let fields = split_line(line, separator)?;
            match positions(columns, &fields.iter().collect::<Vec<_>>()) {
                Ok(_) => return Ok(form),
                Err(error) if closest.as_ref().is_none_or(|(most, ..)| fields.len() > *most) => {
                    closest = Some((fields.len(), form, error));
                }
                Err(_) => {}
            }
        }
    }
    let (_, form, error) = closest.context("the first line must name the columns")?;
    let notes = form.notes();
    Err(if notes.is_empty() { error } else { usage_error(format!("{error} ({})", notes.join("; "))) })
}

/// The fields of one line, without spaces around them.
fn split_line(line: &[u8], separator: u8) -> anyhow::Result<StringRecord> {
    let mut reader = ReaderBuilder::new().delimiter(separator).has_headers(false).trim(Trim::All).from_reader(line);
    let mut record = StringRecord::new();
    reader.read_record(&mut record).map_err(|error| row_error("the header", &error))?;
    Ok(record)
}

/// The text inside the quotes of all lines.
fn unquoted_lines(text: impl Read) -> anyhow::Result<String> {
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
    let (mut record, mut lines) = (StringRecord::new(), String::new());
    for number in 0.. {
        if !reader.read_record(&mut record).map_err(|error| row_error(&format!("row {number}"), &error))? {
            break;
        }
        let [line] = record.iter().collect::<Vec<_>>()[..] else {
            return Err(usage_error(format!(
                "row {number} is not one quoted field, as the header is. Write all lines in the same way."
            )));
        };
        lines.push_str(line);
        lines.push('\n');
    }
    Ok(lines)
}

fn read_rows(text: impl Read, form: Form, columns: &[&str], on_row: &mut OnRow<'_>) -> anyhow::Result<()> {
    let mut reader = ReaderBuilder::new().delimiter(form.separator).trim(Trim::Headers).from_reader(text);
    let head = reader.headers().map_err(|error| row_error("the header", &error))?.clone();
    let positions = positions(columns, &head.iter().collect::<Vec<_>>())?;
    let mut record = StringRecord::new();
    for number in 1.. {
        if !reader.read_record(&mut record).map_err(|error| row_error(&format!("row {number}"), &error))? {
            break;
        }
        let cells: Vec<&str> = positions.iter().map(|position| record.get(*position).unwrap_or_default()).collect();
        on_row(number, &cells)?;
    }
    Ok(())
}

/// What is wrong with a line, and what to do.
fn row_error(place: &str, error: &csv::Error) -> anyhow::Error {
    usage_error(match error.kind() {
        ErrorKind::Utf8 { .. } => format!("{place} is not valid UTF-8. Save the file in UTF-8."),
        ErrorKind::UnequalLengths { expected_len, len, .. } => format!(
            "{place} has {len} fields, but the header has {expected_len}. A value that contains the separator must be in \
             quotes."
        ),
        _ => format!("{place} cannot be read: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cells of the columns `arm` and `sold`, and the notes.
    fn read(text: &[u8]) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        let mut rows = Vec::new();
        let notes = read_csv(text, &["arm", "sold"], &mut |number, cells| {
            rows.push(format!("{number}:{}", cells.join("/")));
            Ok(())
        })?;
        Ok((rows, notes))
    }

    fn error(text: &[u8]) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn every_usual_form_gives_the_same_rows() {
        let expected = ["1:a/1", "2:b/0"];
        for (text, notes) in [
            ("id,arm,sold\n1,a,1\n2,b,0\n", ""),
            ("\u{feff}arm, sold \r\na,1\r\nb,0", ""),
            ("arm,sold\ra,1\rb,0\r", ""),
            ("arm;sold;note\na;1;x,y\nb;0;\n", "columns are separated by semicolons"),
            ("id\tarm\tsold\n1\ta\t1\n2\tb\t0\n", "columns are separated by tabs"),
            ("arm|sold\na|1\nb|0\n", "columns are separated by bars (|)"),
            ("arm sold\na 1\nb 0\n", "columns are separated by spaces"),
            ("sep=,\narm,sold\na,1\nb,0\n", "the first line, sep=,, names the separator and is no header"),
            (
                "\u{feff}\"SEP=;\"\r\narm;sold\r\na;1\r\nb;0\r\n",
                "the first line, \"SEP=;\", names the separator and is no header; columns are separated by semicolons",
            ),
            (
                "sep=\t\narm\tsold\na\t1\nb\t0\n",
                "the first line, sep=, names the separator and is no header; columns are separated by tabs",
            ),
            ("\"arm,sold\"\n\"a,1\"\n\"b,0\"\n", "every line is one quoted field; the fields inside it are read"),
            (
                "\"arm;sold;note\"\n\"a;1;\"\"x;y\"\"\"\n\"b;0;\"\n",
                "columns are separated by semicolons; every line is one quoted field; the fields inside it are read",
            ),
        ] {
            let (rows, found) = read(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!((rows, found.join("; ").as_str()), (expected.map(str::to_owned).to_vec(), notes), "{text:?}");
        }
    }

    #[test]
    fn column_that_exists_twice_is_refused_with_both_places() {
        for text in ["arm,sold,x,sold\na,1,2,0\n", "arm;sold;x; sold\na;1;2;0\n", "\"arm,sold,x,sold\"\n\"a,1,2,0\"\n"]
        {
            let error = error(text.as_bytes());
            assert!(error.contains("two columns are named \"sold\": column 2 and column 4. Rename one"), "{error}");
        }
        assert_eq!(read(b"arm,sold,x,x\na,1,2,3\n").unwrap().0, ["1:a/1"], "only requested columns matter");
    }

    #[test]
    fn missing_column_is_reported_with_the_columns_of_the_likely_form() {
        let text = error(b"arms;sold\na;1\n");
        assert!(text.contains("there is no column \"arm\". Did you mean \"arms\"? The file has arms, sold."), "{text}");
        assert!(text.ends_with("(columns are separated by semicolons)"), "{text}");
        assert!(error(b"").contains("The file is empty"), "{}", error(b""));
    }

    #[test]
    fn files_that_are_not_csv_in_utf_8_are_named() {
        for (text, expected) in [
            (b"\x1f\x8b\x08\0rest".as_slice(), "is compressed with gzip"),
            (b"PK\x03\x04rest", "is an Excel workbook or a zip archive"),
            (b"PAR1rest", "is a Parquet file"),
            (b"\xff\xfea\0r\0m\0", "has the encoding UTF-16"),
            (b"arm,sold\n\xe9,1\n", "row 1 is not valid UTF-8"),
            (b"arm,sold\na,1\nb,0,1\n", "row 2 has 3 fields, but the header has 2"),
            (b"\"arm,sold\"\na,1\n", "row 1 is not one quoted field"),
        ] {
            let found = error(text);
            assert!(found.contains(expected), "{found}");
        }
    }
}
