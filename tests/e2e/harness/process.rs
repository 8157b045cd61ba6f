//! Child processes. Their output is collected, and they are killed at the end of the test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The result of a process that has ended.
#[derive(Debug)]
pub(crate) struct FinishedProcess {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl FinishedProcess {
    /// The exit code; `None` if a signal ended the process.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Checks that the process succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(self.status.success(), "{}\n{}\n{}", self.status, self.stdout, self.stderr);
        self
    }

    /// The standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("the output is not JSON ({e}): {}\n{}", self.stdout, self.stderr))
    }
}

/// A running process.
pub(crate) struct Process {
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts a process with an empty standard input and collects its output.
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Settings of the person who runs the tests must not affect them.
        for name in ["INROAD_SERVER", "INROAD_ACTOR", "RUST_LOG"] {
            command.env_remove(name);
        }
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = vec![
            collect(child.stdout.take().expect("a pipe"), Arc::clone(&stdout)),
            collect(child.stderr.take().expect("a pipe"), Arc::clone(&stderr)),
        ];
        Self { child, stdout, stderr, readers }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The output so far: standard output, then standard error.
    pub(crate) fn output(&self) -> String {
        let text = |collected: &Mutex<String>| collected.lock().expect("no reader panics").clone();
        text(&self.stdout) + &text(&self.stderr)
    }

    /// The exit status; `None` while the process runs.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of the process")
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "{name} to {}", self.id());
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process ends");
    }

    /// Waits until the process ends. Panics after `limit`.
    pub(crate) async fn finish(mut self, limit: Duration) -> FinishedProcess {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.exit_status() {
                break status;
            }
            assert!(started.elapsed() < limit, "still running after {limit:?}:\n{}", self.output());
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        for reader in self.readers.drain(..) {
            reader.join().expect("no reader panics");
        }
        let text = |collected: &Mutex<String>| collected.lock().expect("no reader panics").clone();
        FinishedProcess { status, stdout: text(&self.stdout), stderr: text(&self.stderr) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both calls fail if the process has already ended, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(pipe: impl Read + Send + 'static, collected: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            collected.lock().expect("no reader panics").push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}
