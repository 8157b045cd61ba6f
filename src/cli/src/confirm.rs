//! One question before something that cannot be taken back.

use std::io::{BufRead, IsTerminal, Write};

use crate::failure::usage;

/// Says what will happen and asks; where nobody can be asked, `--yes` must have been given.
pub(crate) fn confirm(yes: bool, what: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(usage(format!("{what} Add --yes to do it without being asked.")));
    }
    let mut err = std::io::stderr().lock();
    write!(err, "{what}\nGo on? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => anyhow::bail!("nothing was changed"),
    }
}
