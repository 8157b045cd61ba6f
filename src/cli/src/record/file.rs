//! A file of events, sent in batches. Each batch is sent until the server acknowledges it; refused events are reported by
//! line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use inroad_wire::v1::{OutcomeWarning, RecordRequest};
use serde_json::{Value, json};

use super::event_ids::EventIds;
use super::line::{Event, parse_line};
use crate::connect::{Connection, RetryPolicy, ServerArgs};
use crate::failure::{UsageError, usage_error};
use crate::output::{Output, plural};
use crate::progress::{self, ProgressUnit};
use crate::send_events::send_events;

/// Most events in a batch.
const BATCH: usize = 1_000;
/// Most bytes of text in a batch, well below the server's limit for a message.
const BATCH_BYTES: usize = 1024 * 1024;
/// Most refused lines to list.
const MAX_LISTED: usize = 20;

/// A refused line.
struct RefusedLine {
    line: u64,
    reason: String,
    message: String,
}

/// A batch of events, with the line numbers that they come from.
#[derive(Default)]
struct Batch {
    request: RecordRequest,
    exposure_lines: Vec<u64>,
    outcome_lines: Vec<u64>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, line: u64, event: Event, bytes: usize) {
        self.bytes += bytes;
        match event {
            Event::Exposure(exposure) => {
                self.request.exposures.push(exposure);
                self.exposure_lines.push(line);
            }
            Event::Outcome(outcome) => {
                self.request.outcomes.push(outcome);
                self.outcome_lines.push(line);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.exposure_lines.len() + self.outcome_lines.len() >= BATCH || self.bytes >= BATCH_BYTES
    }

    fn is_empty(&self) -> bool {
        self.exposure_lines.is_empty() && self.outcome_lines.is_empty()
    }

    fn line_of(&self, outcome: bool, index: u32) -> u64 {
        let lines = if outcome { &self.outcome_lines } else { &self.exposure_lines };
        lines.get(index as usize).copied().unwrap_or(0)
    }
}

/// Sends batches and counts the results.
struct Sender<'a> {
    connection: Connection,
    retry: RetryPolicy<'a>,
    accepted: u64,
    trimmed: u64,
    refused: Vec<RefusedLine>,
    /// By reason and event.
    warnings: BTreeMap<(String, String), OutcomeWarning>,
}

impl Sender<'_> {
    async fn send(&mut self, batch: Batch) -> anyhow::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let response = send_events(&self.connection, &batch.request, &self.retry).await?;
        self.accepted += u64::from(response.accepted);
        self.trimmed += u64::from(response.contexts_trimmed);
        for warning in response.warnings {
            let key = (warning.reason.clone(), warning.event.clone());
            let known = self.warnings.entry(key).or_insert_with(|| OutcomeWarning { outcomes: 0, ..warning.clone() });
            known.outcomes += warning.outcomes;
        }
        self.refused.extend(response.rejections.into_iter().map(|r| RefusedLine {
            line: batch.line_of(r.outcome, r.index),
            reason: r.reason,
            message: r.message,
        }));
        Ok(())
    }
}

/// Sends a whole file.
pub(super) async fn send_file(
    path: &Path,
    retry_for: Duration,
    server: &ServerArgs,
    out: Output,
) -> anyhow::Result<()> {
    let read_error = |e: std::io::Error| usage_error(format!("cannot read {}: {e}", path.display()));
    let is_stdin = path == Path::new("-");
    let (mut reader, length): (Box<dyn BufRead + Send>, Option<u64>) = if is_stdin {
        (Box::new(BufReader::new(std::io::stdin())), None)
    } else {
        let file = std::fs::File::open(path).map_err(read_error)?;
        let length = Some(file.metadata().map_err(read_error)?.len());
        (Box::new(BufReader::new(file)), length)
    };
    let mut ids = if is_stdin { EventIds::for_stdin() } else { EventIds::for_file() };
    let bar = progress::progress_bar(length, ProgressUnit::Bytes, out);
    let on_pause = |status: &tonic::Status| bar.set_message(format!("waiting: {}", status.message()));
    let connection = Connection::open(server).await?;
    let retry = RetryPolicy { limit: retry_for, on_pause: &on_pause };
    let mut sender =
        Sender { connection, retry, accepted: 0, trimmed: 0, refused: Vec::new(), warnings: BTreeMap::new() };
    let (mut batch, mut text, mut line) = (Batch::default(), String::new(), 0u64);
    let sent = loop {
        text.clear();
        let bytes = match reader.read_line(&mut text) {
            Ok(0) => break sender.send(std::mem::take(&mut batch)).await,
            Ok(bytes) => bytes,
            Err(error) => break Err(read_error(error)),
        };
        line += 1;
        bar.inc(bytes as u64);
        if text.trim().is_empty() {
            continue;
        }
        match parse_line(&text, |outcome| ids.next_id(outcome)) {
            Ok(event) => batch.push(line, event, bytes),
            Err(message) => sender.refused.push(RefusedLine { line, reason: "MALFORMED".to_owned(), message }),
        }
        if batch.is_full() {
            if let Err(error) = sender.send(std::mem::take(&mut batch)).await {
                break Err(error);
            }
            bar.set_message("");
        }
    };
    bar.finish_and_clear();
    // Lines that could not be read were found before the batches around them were sent.
    sender.refused.sort_by_key(|refused| refused.line);
    print_result(&sender, out)?;
    let resend = match ids.unrepeatable() {
        0 => "duplicates are ignored".to_owned(),
        n => format!(
            "but without the {} that had neither event_id nor occurred_at, which would count twice",
            plural(n, "outcome")
        ),
    };
    sent.map_err(|e| {
        let accepted = plural(sender.accepted, "event");
        // A line that cannot be read is the one after the last that was read.
        let (line, action) = if e.is::<UsageError>() { (line + 1, "Fix the file and run") } else { (line, "Run") };
        e.context(format!("{accepted} accepted before line {line}. {action} the same command again; {resend}"))
    })?;
    match sender.refused.len() {
        0 => Ok(()),
        n => anyhow::bail!("{} refused. Fix the file and resend it; {resend}", plural(n as u64, "event")),
    }
}

fn print_result(sender: &Sender<'_>, out: Output) -> anyhow::Result<()> {
    let rejection = |r: &RefusedLine| json!({"line": r.line, "reason": r.reason, "message": r.message});
    let rejections: Vec<Value> = sender.refused.iter().map(rejection).collect();
    let warnings: Vec<_> = sender.warnings.values().take(MAX_LISTED).cloned().collect();
    out.print_json(&json!({"accepted": sender.accepted, "contexts_trimmed": sender.trimmed, "rejections": rejections,
            "warnings": super::warnings_json(&warnings)}))?;
    out.print_text(format!("{} accepted", plural(sender.accepted, "event")))?;
    super::print_warnings(&warnings);
    if sender.trimmed > 0 {
        out.print_text(format!(
            "{} had more context than the server stores; the rest was left out",
            plural(sender.trimmed, "exposure")
        ))?;
    }
    for refused in sender.refused.iter().take(MAX_LISTED) {
        out.print_text(format!("line {}: {} ({})", refused.line, refused.message, refused.reason))?;
    }
    if let Some(more) = sender.refused.len().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
        out.print_text(format!("and {more} more"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_event_has_its_line_number() {
        let mut batch = Batch::default();
        let mut push =
            |line, text: &str| batch.push(line, parse_line(text, |_| Ok("x".to_owned())).unwrap(), text.len());
        push(1, r#"{"unit": "a", "event": "e"}"#);
        push(3, r#"{"experiment": "k", "generation": 1, "unit": "a", "variation": "on", "revision": 3}"#);
        push(4, r#"{"unit": "b", "event": "e"}"#);
        assert_eq!((batch.line_of(true, 1), batch.line_of(false, 0)), (4, 3));
        assert!(!batch.is_full() && !batch.is_empty());
    }
}
