//! A server as a process: started on a free port, killed without a word, started again on the same port and data.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::api::Api;
use super::binary::inroad;
use super::http;
use super::run::{Ended, Process};
use super::wait::eventually;

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    /// Options beside the address and the folder.
    pub(crate) options: Vec<String>,
    /// The folder; one of its own if there is none.
    pub(crate) folder: Option<PathBuf>,
    /// A shell script that ends in `exec "$@"`, to run the server under.
    pub(crate) wrapper: Option<String>,
}

impl Setup {
    /// With a lead: how long before it takes effect a revision is published.
    pub(crate) fn lead(lead: &str) -> Self {
        Self { options: vec!["--lead".to_owned(), lead.to_owned()], ..Self::default() }
    }

    /// The command that starts a server.
    pub(crate) fn command(&self, listen: SocketAddr, folder: &Path) -> Command {
        let mut command = match &self.wrapper {
            None => Command::new(inroad()),
            Some(script) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", script, "sh"]).arg(inroad());
                shell
            }
        };
        command.args(["serve", "--listen", &listen.to_string(), "--data"]).arg(folder).args(&self.options);
        command
    }
}

/// A server; it goes away with this, and if its test fails it tells what it logged.
pub(crate) struct Server {
    setup: Setup,
    /// Deleted at the end.
    _own_folder: Option<TempDir>,
    pub(crate) folder: PathBuf,
    pub(crate) address: SocketAddr,
    process: Option<Process>,
    log: String,
}

impl Server {
    /// A server on a port and a folder of its own.
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// The same with a setup.
    pub(crate) async fn with(setup: Setup) -> Self {
        let own = setup.folder.is_none().then(|| TempDir::new().expect("a folder"));
        let folder = match (&setup.folder, &own) {
            (Some(folder), _) => folder.clone(),
            (None, own) => own.as_ref().expect("a folder").path().join("data"),
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { setup, _own_folder: own, folder, address: any, process: None, log: String::new() };
        server.launch().await;
        server
    }

    async fn launch(&mut self) {
        let mut process = Process::start(&mut self.setup.command(self.address, &self.folder));
        self.address = eventually("the server says where it listens", async || {
            assert!(process.ended().is_none(), "the server ended:\n{}", process.said());
            address_in(&process.said())
        })
        .await;
        let address = self.address;
        // Ready, or full: some tests are about what it says then.
        let answers = |(code, said): &(u16, String)| *code == 200 || said.contains("wait to be counted");
        eventually("the server is ready", async || http::get(address, "/readyz").await.filter(answers)).await;
        self.process = Some(process);
    }

    /// Calls to it.
    pub(crate) fn api(&self) -> Api {
        Api::to(self.address)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill();
        self.log += &process.said();
        self.log += "--- killed ---\n";
    }

    /// Starts it again, on the same port and the same data.
    pub(crate) async fn restart(&mut self) {
        self.launch().await;
    }

    /// SIGTERM.
    pub(crate) fn ask_to_stop(&mut self) {
        self.process().signal("TERM");
    }

    /// Waits until it has ended after being asked to.
    pub(crate) async fn stopped(&mut self) -> Ended {
        let ended = self.process.take().expect("it runs").finish(Duration::from_secs(30)).await;
        self.log += &(ended.stdout.clone() + &ended.stderr + "--- stopped ---\n");
        ended
    }

    /// A command of the CLI against this server, as a process under way.
    pub(crate) fn cli_started(&self, args: &[&str]) -> Process {
        Process::start(Command::new(inroad()).args(args).args(["--server", &self.url()]))
    }

    /// A command of the CLI against this server, to its end.
    pub(crate) async fn cli(&self, args: &[&str]) -> Ended {
        self.cli_started(args).finish(Duration::from_secs(60)).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let now = self.process.as_ref().map(Process::said).unwrap_or_default();
            println!("--- the server at {} logged ---\n{}{now}", self.address, self.log);
        }
    }
}

/// The address in the log line that says that the server serves.
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
