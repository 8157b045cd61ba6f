//! A server process: started on a free port, killed, and restarted on the same port and data.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::api::Api;
use super::binary::inroad_binary;
use super::http::http_get;
use super::process::{FinishedProcess, Process};
use super::wait::eventually;

/// The settings of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    /// Options of `inroad serve` in addition to the address and the data folder.
    pub(crate) options: Vec<String>,
    /// The data folder. Default: a temporary folder.
    pub(crate) folder: Option<PathBuf>,
    /// A shell script that runs the server with `exec "$@"` at its end.
    pub(crate) wrapper: Option<String>,
}

impl Setup {
    /// Sets the lead time: from the publication of a revision until it takes effect.
    pub(crate) fn lead(lead: &str) -> Self {
        Self { options: vec!["--lead".to_owned(), lead.to_owned()], ..Self::default() }
    }

    /// Sets options of `inroad serve`.
    pub(crate) fn with_options(options: &[&str]) -> Self {
        Self { options: options.iter().map(|&option| option.to_owned()).collect(), ..Self::default() }
    }

    /// The command that starts a server.
    pub(crate) fn command(&self, listen: SocketAddr, folder: &Path) -> Command {
        let mut command = match &self.wrapper {
            None => Command::new(inroad_binary()),
            Some(script) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", script, "sh"]).arg(inroad_binary());
                shell
            }
        };
        command.args(["serve", "--listen", &listen.to_string(), "--data"]).arg(folder).args(&self.options);
        command
    }
}

/// A running server. It is killed when this value is dropped. If the test has failed, its log is printed.
pub(crate) struct Server {
    setup: Setup,
    /// Deleted when the server is dropped.
    _temporary_folder: Option<TempDir>,
    pub(crate) folder: PathBuf,
    pub(crate) address: SocketAddr,
    process: Option<Process>,
    log: String,
}

impl Server {
    /// Starts a server on a free port with a temporary data folder.
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// Starts a server on a free port with these settings.
    pub(crate) async fn with(setup: Setup) -> Self {
        let temporary = setup.folder.is_none().then(|| TempDir::new().expect("a folder"));
        let folder = match (&setup.folder, &temporary) {
            (Some(folder), _) => folder.clone(),
            (None, temporary) => temporary.as_ref().expect("a folder").path().join("data"),
        };
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server =
            Self { setup, _temporary_folder: temporary, folder, address: any_port, process: None, log: String::new() };
        server.start_process().await;
        server
    }

    async fn start_process(&mut self) {
        let mut process = Process::start(&mut self.setup.command(self.address, &self.folder));
        self.address = eventually("the server logs its address", async || {
            assert!(process.exit_status().is_none(), "the server ended:\n{}", process.output());
            address_in(&process.output())
        })
        .await;
        let address = self.address;
        // A server with a full backlog is not ready, but it is up: some tests start one in that state.
        let is_up = |(code, body): &(u16, String)| matches!(code, 200 | 503) && !body.contains("shutting down");
        eventually("the server is up", async || http_get(address, "/readyz").await.filter(is_up)).await;
        self.process = Some(process);
    }

    /// Calls to this server.
    pub(crate) fn api(&self) -> Api {
        Api::connect(self.address)
    }

    /// The id of the process that the test started: the server, or the shell that became it.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.as_ref().expect("the server is running").id()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the server is running")
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("the server is running");
        process.kill();
        self.log += &process.output();
        self.log += "--- killed ---\n";
    }

    /// Starts the server again on the same port and data.
    pub(crate) async fn restart(&mut self) {
        self.start_process().await;
    }

    /// The memory of the process that is in use, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let id = self.process.as_ref().expect("the server is running").id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("the state of the process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// The CPU time of the process so far, which the kernel counts in steps of 10 ms.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process_id())).expect("the process");
        // The second field is the name in parentheses; the 14th and 15th are the time of its own and of the kernel.
        let (_, fields) = stat.rsplit_once(')').expect("the fields after the name");
        let times = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number"));
        Duration::from_millis(times.sum::<u64>() * 10)
    }

    /// Sends SIGTERM.
    pub(crate) fn send_sigterm(&mut self) {
        self.process().signal("TERM");
    }

    /// Waits until the server has ended after SIGTERM.
    pub(crate) async fn wait_until_stopped(&mut self) -> FinishedProcess {
        let finished = self.process.take().expect("the server is running").finish(Duration::from_secs(30)).await;
        self.log += &(finished.stdout.clone() + &finished.stderr + "--- stopped ---\n");
        finished
    }

    /// Starts a CLI command against this server.
    pub(crate) fn start_cli(&self, args: &[&str]) -> Process {
        Process::start(Command::new(inroad_binary()).args(args).args(["--server", &self.url()]))
    }

    /// Runs a CLI command against this server to its end.
    pub(crate) async fn cli(&self, args: &[&str]) -> FinishedProcess {
        self.start_cli(args).finish(Duration::from_secs(60)).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.process.as_ref().map(Process::output).unwrap_or_default();
            println!("--- the server at {} logged ---\n{}{output}", self.address, self.log);
        }
    }
}

/// The address in the log line of the start.
fn address_in(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains("serving") && line.contains("address"))?;
    let plain: String = strip_colours(line);
    let from = plain.find("127.0.0.1:")?;
    let text: String = plain[from..].chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
    text.parse().ok()
}

fn strip_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut inside = false;
    for c in line.chars() {
        match (inside, c) {
            (false, '\u{1b}') => inside = true,
            (false, c) => plain.push(c),
            (true, 'm') => inside = false,
            (true, _) => {}
        }
    }
    plain
}
