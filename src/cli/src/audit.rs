//! `inroad audit verify`: whether the audit log in a data folder, or in a copy of one, is as it was written. It reads the
//! folder itself, so that an auditor need not trust a server.

use clap::{Args, Subcommand};
use inroad_server::audit_verification::{AuditHash, AuditVerification, verify_audit};
use serde_json::json;

use crate::output::{Output, count};
use crate::store_args::StoreArgs;

/// What to do with the audit log.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Verify that no entry was changed, deleted or inserted
    ///
    /// Each entry has a hash of its content and of the entry before it. Run this on the machine that has the data folder;
    /// a running server continues to serve. Keep the hash that it prints in another place: with it, a later run with
    /// --expect also finds a log that was cut off or rewritten. Exit code 1 if the log is not as it was written.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// A hash that an earlier run printed; an entry must have it
    #[arg(long, value_name = "HASH")]
    expect: Option<AuditHash>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Runs the command.
pub(crate) async fn run(args: AuditArgs, out: Output) -> anyhow::Result<()> {
    let AuditCommand::Verify(VerifyArgs { expect, store }) = args.command;
    let folder = store.folder();
    let found = tokio::task::spawn_blocking(move || verify_audit(&folder, expect)).await??;
    let AuditVerification { older, verified, newest, fault } = found;
    if let Some(fault) = fault {
        anyhow::bail!("the audit log is broken: {fault}. Unbroken before that: {}", entries(verified));
    }
    let hash = (verified > 0).then(|| newest.to_string());
    let text = match &hash {
        Some(hash) => format!("{}, unbroken; the newest has hash {hash}", entries(verified)),
        None => "0 entries, unbroken".to_owned(),
    };
    out.print_text(text)?;
    if older > 0 {
        out.print_text(format!("{} older, from before entries had hashes: not verified", entries(older)))?;
    }
    if expect.is_some() {
        out.print_text("the expected hash is among them")?;
    }
    Ok(out.print_json(&json!({
        "entries": verified, "unbroken": true, "newest_hash": hash, "older_entries": older,
        "expected_found": expect.map(|_| true),
    }))?)
}

fn entries(number: u64) -> String {
    if number == 1 { "1 entry".to_owned() } else { format!("{} entries", count(number)) }
}
