//! A question before a change that cannot be undone.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;

use crate::failure::usage_error;

/// Whether to ask.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ConfirmArgs {
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// Prints what will happen and asks for confirmation. Without a terminal, `--yes` is required.
pub(crate) fn confirm(yes: bool, what: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(usage_error(format!("{what} Add --yes to confirm.")));
    }
    let mut err = std::io::stderr().lock();
    write!(err, "{what}\nContinue? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => anyhow::bail!("nothing was changed"),
    }
}
