//! Runs the commands of README.md from top to bottom in one shell, in an empty folder, with the real binary.
//!
//! A line that starts with `$ ` in a `console` block is a command. It includes the lines of its here-document, and the
//! next line if it ends with `\`. The other lines of a block are sample output. Each command must succeed, and must print
//! something unless it only writes a file.

#![allow(clippy::expect_used, reason = "a test reports a failure by panicking")]

#[path = "../e2e/harness/binary.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the other functions of this module")]
mod binary;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// Commands that the test replaces: the command of README.md, and the command that is run instead.
const REPLACEMENTS: &[(&str, &str)] = &[
    // The same demo with the binary under test, and without a server that keeps running.
    ("cargo run --release -p inroad-cli -- demo", "inroad demo --no-keep"),
    // The binary under test is already on the path.
    ("cargo install --locked --path src/cli", "inroad --version"),
];

/// The commands of a document's `console` blocks, in order.
fn commands(document: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let (mut in_console, mut heredoc, mut continued) = (false, None::<String>, false);
    for line in document.lines() {
        if heredoc.is_none() && line.starts_with("```") {
            in_console = line == "```console";
            continue;
        }
        if !in_console {
            continue;
        }
        if let Some(end) = heredoc.clone() {
            let command = found.last_mut().expect("a command before its here-document");
            command.push('\n');
            command.push_str(line);
            if line == end {
                heredoc = None;
            }
            continue;
        }
        if continued {
            let command = found.last_mut().expect("a command before its continuation");
            command.push('\n');
            command.push_str(line);
        } else if let Some(command) = line.strip_prefix("$ ") {
            found.push(command.to_owned());
        } else {
            continue;
        }
        continued = line.ends_with('\\');
        heredoc = line.split_once("<<'").and_then(|(_, rest)| rest.split_once('\'')).map(|(end, _)| end.to_owned());
    }
    assert!(heredoc.is_none(), "a here-document has no end");
    found
}

/// A shell script that runs all commands and writes the files `N.out`, `N.err` and `N.code` for each.
fn script(commands: &[String]) -> String {
    let mut script = "set -o pipefail\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n".to_owned();
    for (number, command) in commands.iter().enumerate() {
        let without_comment = command.split("   #").next().expect("a first part").trim_end();
        let is_server = without_comment.ends_with('&');
        let _ =
            write!(script, "{{ {command}\n}} >$logs/{number}.out 2>$logs/{number}.err; echo $? >$logs/{number}.code\n");
        if is_server {
            // The server prints its address on the first line as soon as it accepts calls.
            let _ = write!(
                script,
                "INROAD_SERVER=$(grep -m 1 -o 'http://[0-9.:]*' <(timeout 60 tail -n +1 -F $logs/{number}.out 2>/dev/null))\n\
                 export INROAD_SERVER\n"
            );
        }
    }
    script
}

#[test]
fn readme_commands_succeed_and_print_output_from_top_to_bottom() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("README.md");
    let readme = std::fs::read_to_string(readme).expect("README.md");
    let mut commands = commands(&readme);
    assert!(commands.len() > 20, "the commands of README.md are found: {commands:#?}");
    for (line, replacement) in REPLACEMENTS {
        let matching = commands.iter_mut().filter(|command| command.as_str() == *line);
        let replaced = matching.map(|command| *command = (*replacement).to_owned()).count();
        assert!(replaced > 0, "README.md no longer has the command {line:?}. Correct REPLACEMENTS.");
    }
    let (folder, logs) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let binary = binary::inroad_binary().parent().expect("its folder");
    let path = std::env::join_paths(
        std::iter::once(binary.to_path_buf()).chain(std::env::split_paths(&std::env::var_os("PATH").expect("a path"))),
    );
    let mut bash = Command::new("bash");
    // Settings of the person who runs the tests must not affect them, least of all the folder with their data.
    for variable in ["INROAD_DATA", "INROAD_STORE", "INROAD_ACTOR", "INROAD_SERVER", "RUST_LOG"] {
        bash.env_remove(variable);
    }
    let status = bash
        .args(["-c", &script(&commands)])
        .current_dir(folder.path())
        .env("PATH", path.expect("a path"))
        .env("logs", logs.path())
        .env("INROAD_LISTEN", "127.0.0.1:0")
        .status()
        .expect("bash runs");
    let read = |number: usize, what: &str| {
        std::fs::read_to_string(logs.path().join(format!("{number}.{what}"))).unwrap_or_default()
    };
    let mut wrong = String::new();
    for (number, command) in commands.iter().enumerate() {
        let (out, err, code) = (read(number, "out"), read(number, "err"), read(number, "code"));
        let writes_a_file = command.contains(" > ") || command.contains("<<'");
        if code.trim() != "0" || (out.trim().is_empty() && !writes_a_file) {
            let _ = write!(wrong, "$ {command}\nexit status {}\n{out}{err}\n", code.trim());
        }
    }
    assert!(wrong.is_empty(), "these commands of README.md fail or print nothing:\n{wrong}");
    assert!(status.success(), "the shell failed: {status}");
}

#[test]
fn only_commands_of_console_blocks_are_read() {
    let document = "```console\n$ a \\\n  b\nout\n$ cat > f <<'EOF'\nx\n$ y\nEOF\n$ c   # why\n```\n```sh\n$ d\n```\n";
    assert_eq!(commands(document), ["a \\\n  b", "cat > f <<'EOF'\nx\n$ y\nEOF", "c   # why"]);
}
