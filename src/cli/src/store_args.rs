//! The flags that name a server's data folder, shared by the commands that read it directly.

use std::path::PathBuf;

use clap::Args;

/// Where a server stores its data.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Data folder
    #[arg(long, env = "INROAD_DATA", default_value = "inroad-data", value_name = "DIR")]
    data: PathBuf,
    /// Store, as sqlite:DIR [default: SQLite in the data folder]
    #[arg(long, env = "INROAD_STORE", value_parser = parse_store, value_name = "STORE")]
    store: Option<PathBuf>,
}

impl StoreArgs {
    /// The folder of the embedded store.
    pub(crate) fn folder(self) -> PathBuf {
        self.store.unwrap_or(self.data)
    }
}

/// Parses `sqlite:DIR`, the only kind of store so far.
fn parse_store(text: &str) -> Result<PathBuf, String> {
    match text.split_once(':') {
        Some(("sqlite", folder)) if !folder.is_empty() => Ok(PathBuf::from(folder)),
        Some(("postgres" | "postgresql", _)) => Err("PostgreSQL is not supported yet. Use sqlite:DIR.".to_owned()),
        _ => Err(format!("{text:?} is not a store. Use the form sqlite:/var/lib/inroad.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_names_its_kind() {
        assert_eq!(parse_store("sqlite:/var/lib/inroad"), Ok(PathBuf::from("/var/lib/inroad")));
        assert!(parse_store("postgres://db").is_err_and(|e| e.contains("not supported yet")));
        for wrong in ["", "sqlite", "sqlite:", "mysql:x"] {
            assert!(parse_store(wrong).is_err(), "{wrong}");
        }
    }
}
