//! A wall clock that a test sets, as libfaketime shows it to a real server.

use tempfile::TempDir;

use super::server::Setup;

/// The wall clock of a server, which a test can set. Its steady clock stays the machine's.
pub(crate) struct SetClock {
    folder: TempDir,
}

impl SetClock {
    pub(crate) fn new() -> Self {
        let clock = Self { folder: TempDir::new().expect("a folder") };
        clock.set("+0");
        clock
    }

    /// Sets the wall clock, relative to the machine's: "+30d", "-1h", "+0".
    pub(crate) fn set(&self, offset: &str) {
        let (new, file) = (self.folder.path().join("new"), self.file());
        std::fs::write(&new, format!("{offset}\n")).expect("written");
        std::fs::rename(new, file).expect("renamed");
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("offset")
    }

    /// The settings of a server with this clock.
    pub(crate) fn setup(&self) -> Setup {
        let find = "lib=$(find /usr/lib -name libfaketimeMT.so.1 | head -n 1); test -n \"$lib\" || exit 3";
        let set = format!(
            "export LD_PRELOAD=$lib FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1",
            self.file().display()
        );
        Setup { wrapper: Some(format!("{find}; {set}; exec \"$@\"")), ..Setup::default() }
    }
}
