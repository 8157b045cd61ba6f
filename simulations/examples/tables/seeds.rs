//! Seeds of the tables, from the hash of the commit that they are computed with. So nobody can choose units that favour
//! the code, and anybody can repeat the run: the output names the commit.

use std::error::Error;
use std::fmt;
use std::process::Command;

use inroad_assignment::{ExperimentKey, Salt, UnitHasher, UnitKey};

/// Fewest digits of a commit's hash.
const HASH_DIGITS_MIN: usize = 7;

/// The source of all seeds of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seeds {
    /// The hash of a commit: lowercase hex digits.
    Commit(String),
    /// A number given on the command line.
    Number(u64),
}

impl Seeds {
    /// The seeds of the commit that is checked out, by `git rev-parse HEAD`.
    ///
    /// # Errors
    ///
    /// git cannot be run, or the current folder belongs to no repository.
    pub(crate) fn of_checked_out_commit() -> Result<Self, Box<dyn Error>> {
        let output = Command::new("git").args(["rev-parse", "HEAD"]).output();
        let output = output.map_err(|e| format!("git cannot be run ({e}). Give --commit HASH or --seed N"))?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            return Err(format!("git rev-parse HEAD: {}. Give --commit HASH or --seed N", reason.trim()).into());
        }
        Self::of_commit(String::from_utf8_lossy(&output.stdout).trim())
    }

    /// The seeds of a commit. Use the whole hash: its first digits alone give other seeds.
    ///
    /// # Errors
    ///
    /// `hash` is not a hash.
    pub(crate) fn of_commit(hash: &str) -> Result<Self, Box<dyn Error>> {
        if hash.len() < HASH_DIGITS_MIN || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("{hash:?} is not the hash of a commit").into());
        }
        Ok(Self::Commit(hash.to_ascii_lowercase()))
    }

    /// The seed of one simulation, by its name within the tables. Different names give unrelated seeds.
    ///
    /// # Errors
    ///
    /// `name` is empty or longer than 1,024 bytes.
    pub(crate) fn seed_of(&self, name: &str) -> Result<u64, Box<dyn Error>> {
        let source = match self {
            Self::Commit(hash) => hash.chars().take(32).collect(),
            Self::Number(number) => number.to_string(),
        };
        let hasher = UnitHasher::new(&ExperimentKey::parse("tables")?, &Salt::parse(&source)?);
        Ok(hasher.digest(UnitKey::parse(name)?).point().get())
    }
}

impl fmt::Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit(hash) => write!(f, "seeds from commit {hash}"),
            Self::Number(number) => write!(f, "seeds from number {number}"),
        }
    }
}
