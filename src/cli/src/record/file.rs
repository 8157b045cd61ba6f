//! A file of events, sent in batches: each is sent again until the server has acknowledged it, and what the server
//! refuses is told by line.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use inroad_wire::v1::RecordRequest;
use serde_json::{Value, json};

use super::line::{Event, parse_line};
use super::names::Names;
use super::send;
use crate::connect::{Connection, Patience, ServerArgs};
use crate::failure::usage;
use crate::output::{Output, plural};
use crate::progress::{self, Of};

/// The most events in a batch.
const BATCH: usize = 1_000;
/// The most text in a batch, well below what a server takes in one message.
const BATCH_BYTES: usize = 1024 * 1024;
/// How many refusals are told one by one.
const TOLD: usize = 20;

/// A line that was refused.
struct Refused {
    line: u64,
    reason: String,
    message: String,
}

/// Events on their way, with the lines that they come from.
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

struct Sender<'a> {
    connection: Connection,
    patience: Patience<'a>,
    accepted: u64,
    trimmed: u64,
    refused: Vec<Refused>,
}

impl Sender<'_> {
    async fn send(&mut self, batch: Batch) -> anyhow::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let response = send(&self.connection, &batch.request, &self.patience).await?;
        self.accepted += u64::from(response.accepted);
        self.trimmed += u64::from(response.contexts_trimmed);
        self.refused.extend(response.rejections.into_iter().map(|r| Refused {
            line: batch.line_of(r.outcome, r.index),
            reason: r.reason,
            message: r.message,
        }));
        Ok(())
    }
}

/// Sends a whole file.
pub(super) async fn run(path: &Path, retry_for: Duration, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let fault = |e: std::io::Error| usage(format!("cannot read {}: {e}", path.display()));
    let stdin = path == Path::new("-");
    let (mut reader, length): (Box<dyn BufRead + Send>, u64) = if stdin {
        (Box::new(BufReader::new(std::io::stdin())), 0)
    } else {
        let file = std::fs::File::open(path).map_err(fault)?;
        let length = file.metadata().map_err(fault)?.len();
        (Box::new(BufReader::new(file)), length)
    };
    let mut names = if stdin { Names::of_stdin() } else { Names::of_file() };
    let bar = progress::bar(length, Of::Bytes, out);
    let pausing = |status: &tonic::Status| bar.set_message(format!("waiting: {}", status.message()));
    let connection = Connection::open(server).await?;
    let patience = Patience { limit: retry_for, pausing: &pausing };
    let mut sender = Sender { connection, patience, accepted: 0, trimmed: 0, refused: Vec::new() };
    let (mut batch, mut text, mut line) = (Batch::default(), String::new(), 0u64);
    let sent = loop {
        text.clear();
        let bytes = match reader.read_line(&mut text) {
            Ok(0) => break sender.send(std::mem::take(&mut batch)).await,
            Ok(bytes) => bytes,
            Err(error) => break Err(fault(error)),
        };
        line += 1;
        bar.inc(bytes as u64);
        if text.trim().is_empty() {
            continue;
        }
        match parse_line(&text, |outcome| names.name(outcome)) {
            Ok(event) => batch.push(line, event, bytes),
            Err(message) => sender.refused.push(Refused { line, reason: "MALFORMED".to_owned(), message }),
        }
        if batch.is_full() {
            if let Err(error) = sender.send(std::mem::take(&mut batch)).await {
                break Err(error);
            }
            bar.set_message("");
        }
    };
    bar.finish_and_clear();
    tell(&sender, out)?;
    let again = match names.anonymous() {
        0 => "nothing counts twice".to_owned(),
        n => format!(
            "but without the {} that had neither event_id nor occurred_at: they would count twice",
            plural(n, "outcome")
        ),
    };
    sent.map_err(|e| {
        let accepted = plural(sender.accepted, "event");
        e.context(format!("{accepted} were accepted before line {line}; run the same command again, {again}"))
    })?;
    match sender.refused.len() {
        0 => Ok(()),
        n => anyhow::bail!("{} refused: mend that and send everything again, {again}", plural(n as u64, "event")),
    }
}

fn tell(sender: &Sender<'_>, out: Output) -> anyhow::Result<()> {
    let rejection = |r: &Refused| json!({"line": r.line, "reason": r.reason, "message": r.message});
    let rejections: Vec<Value> = sender.refused.iter().map(rejection).collect();
    out.value(&json!({"accepted": sender.accepted, "contexts_trimmed": sender.trimmed, "rejections": rejections}))?;
    out.line(format!("{} accepted", plural(sender.accepted, "event")))?;
    if sender.trimmed > 0 {
        out.line(format!("{} had more context than is kept", plural(sender.trimmed, "exposure")))?;
    }
    for refused in sender.refused.iter().take(TOLD) {
        out.line(format!("line {}: {} ({})", refused.line, refused.message, refused.reason))?;
    }
    if let Some(more) = sender.refused.len().checked_sub(TOLD).filter(|more| *more > 0) {
        out.line(format!("and {more} more"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_by_the_line_it_came_from() {
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
