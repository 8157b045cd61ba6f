//! Runs the commands of one script, with its own server and folder.

use std::error::Error;

use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::assignments::{AnswerLog, Answers, units_in_range};
use crate::event_file::EventRequest;
use crate::harness::{Api, Server};
use crate::json_fields;
use crate::placeholders::Placeholders;
use crate::program;

/// What a command prints, or why it failed.
type Outcome = Result<String, Box<dyn Error>>;

/// The server, the folder and the earlier answers of a script.
pub(crate) struct ScriptRunner {
    runtime: Runtime,
    server: Server,
    folder: TempDir,
    log: AnswerLog,
}

impl ScriptRunner {
    /// Starts the server.
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let server = runtime.block_on(Server::start());
        Self { runtime, server, folder: TempDir::new().expect("a folder"), log: AnswerLog::default() }
    }

    /// Calls to the server. A channel can only be made within the runtime.
    fn api(&self) -> Api {
        let _runtime = self.runtime.enter();
        self.server.api()
    }

    /// `> inroad …` and `[FIELD,…] > inroad …`.
    fn inroad(&self, line: &str, context: &Context) -> Outcome {
        // The closing parenthesis of a silent command is part of the line.
        let line = if context.silent { line.trim_end().strip_suffix(')').unwrap_or(line) } else { line };
        let mut words = program::split_words(line)?;
        if !context.tags.is_empty() {
            words.push("--json".to_owned());
        }
        let finished = program::run_inroad(&words, &self.server.url(), self.folder.path())?;
        let placeholders = Placeholders { server: self.server.address, folder: self.folder.path() };
        let both = placeholders.insert(&(finished.stdout.clone() + &finished.stderr));
        if finished.exit_status != 0 {
            return Err(format!("exit status {}\n{both}", finished.exit_status).into());
        }
        if context.tags.is_empty() {
            return Ok(both);
        }
        Ok(placeholders.insert(&json_fields::select(&finished.stdout, &context.tags)?))
    }

    /// `file NAME 'CONTENT'`.
    fn write_file(&self, mut args: ArgumentConsumer) -> Outcome {
        let name = args.next_pos().ok_or("a file name is missing")?;
        let content = args.next_pos().ok_or("the content of the file is missing")?;
        args.reject_next()?;
        std::fs::write(self.folder.path().join(name), content.trim_start_matches('\n'))?;
        Ok(String::new())
    }

    /// `units KEY [from=u1] [to=u200] [as=NAME] [ATTRIBUTE=VALUE…]`.
    fn units(&mut self, mut args: ArgumentConsumer) -> Outcome {
        let experiment = args.next_pos().ok_or("an experiment key is missing")?;
        let units = units_in_range(&mut args)?;
        let name = args.take_key("as");
        let attributes: Vec<(&str, &str)> = std::iter::from_fn(|| args.next_key()).collect();
        args.reject_next()?;
        let answers = self.runtime.block_on(Answers::ask(&self.api(), experiment, &units, &attributes))?;
        let summary = answers.summary();
        self.log.add(experiment, name, answers)?;
        Ok(summary)
    }

    /// `moved KEY [since=NAME]`.
    fn moved(&self, mut args: ArgumentConsumer) -> Outcome {
        let experiment = args.next_pos().ok_or("an experiment key is missing")?;
        let since = args.take_key("since");
        args.reject_next()?;
        self.log.compare(experiment, since)
    }

    /// `events FILE KEY EVENT VARIATION=N…`.
    fn events(&self, mut args: ArgumentConsumer) -> Outcome {
        let file = args.next_pos().ok_or("a file name is missing")?;
        let request = EventRequest::from_args(&mut args)?;
        args.reject_next()?;
        let events = self.runtime.block_on(request.events(&self.api()))?;
        std::fs::write(self.folder.path().join(file), &events.lines)?;
        Ok(events.summary())
    }

    /// `restart-server`.
    fn restart_server(&mut self, args: ArgumentConsumer) -> Outcome {
        args.reject_next()?;
        self.server.kill();
        self.runtime.block_on(self.server.restart());
        Ok(String::new())
    }
}

impl Runner for ScriptRunner {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Outcome {
        let args = command.consume_args();
        let output = match command.name.as_str() {
            "file" => self.write_file(args),
            "units" => self.units(args),
            "moved" => self.moved(args),
            "events" => self.events(args),
            "md5" => program::md5(args),
            "restart-server" => self.restart_server(args),
            line if line.starts_with("inroad ") => self.inroad(line, context),
            other => Err(format!("there is no command {other:?}: see the table in tests/scripts/main.rs").into()),
        };
        let without_blank_lines = |text: String| {
            let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
            lines.map(|line| format!("{line}\n")).collect::<String>()
        };
        // Blank lines would end the output of a block.
        output.map(without_blank_lines).map_err(|e| without_blank_lines(e.to_string()).trim_end().into())
    }
}
