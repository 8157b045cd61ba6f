//! Runs programs: the real `inroad`, and `md5sum`.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use goldenscript::ArgumentConsumer;

use crate::harness::inroad_binary;

/// Commands that run until they are stopped, which no script could wait for.
const ENDLESS: &[&str] = &["serve", "demo", "watch"];

/// A program that has ended.
pub(crate) struct Finished {
    pub(crate) exit_status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Splits a line at spaces. Text in single or double quotes is one word; there are no escapes.
pub(crate) fn split_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() { Err(format!("a quote is not closed: {line}")) } else { Ok(words) }
}

/// Runs `inroad` in a folder, as the user ann, with this server as its default.
pub(crate) fn run_inroad(words: &[String], server: &str, folder: &Path) -> Result<Finished, String> {
    let arguments = words.get(1..).unwrap_or_default();
    if let Some(command) = arguments.first().filter(|first| ENDLESS.contains(&first.as_str())) {
        return Err(format!("inroad {command} does not end by itself: scripts cannot run it"));
    }
    let mut command = Command::new(inroad_binary());
    // Settings of the person who runs the tests must not affect them.
    command.args(arguments).current_dir(folder).env_clear().env("INROAD_SERVER", server).env("USER", "ann");
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("inroad cannot be run: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let exit_status = output.status.code().ok_or_else(|| format!("inroad was ended by {}", output.status))?;
    Ok(Finished { exit_status, stdout: text(&output.stdout), stderr: text(&output.stderr) })
}

/// `md5 TEXT`: the digest in hexadecimal, computed by a program that shares no code with Inroad.
pub(crate) fn md5(mut args: ArgumentConsumer) -> Result<String, Box<dyn Error>> {
    let text = args.next_pos().ok_or("a text is missing")?;
    args.reject_next()?;
    let mut child = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().ok_or("no standard input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let digest = String::from_utf8(output.stdout)?;
    Ok(digest.split_whitespace().next().ok_or("md5sum printed nothing")?.to_owned())
}

#[test]
fn quoted_text_is_one_word() {
    let words = split_words(r#"inroad assign k "a b" --context '{"x": "y"}' ''"#);
    assert_eq!(words.expect("words"), ["inroad", "assign", "k", "a b", "--context", r#"{"x": "y"}"#, ""]);
    assert!(split_words("inroad 'open").is_err());
}
