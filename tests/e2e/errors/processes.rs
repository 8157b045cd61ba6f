//! A server or command that cannot start prints the reason and a remedy, exits with an error code, and changes nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::document;
use crate::harness::{
    FinishedProcess, Process, Server, Setup, exposure_of, flag, inroad_binary, with_conversion_metrics,
};

const KEY: &str = "checkout";

async fn serve(listen: SocketAddr, folder: &Path) -> FinishedProcess {
    Process::start(&mut Setup::default().command(listen, folder)).finish(Duration::from_secs(20)).await
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Creates a data folder with one experiment and one exposure.
async fn create_data(folder: &Path) {
    let setup = Setup { folder: Some(folder.to_owned()), ..Setup::default() };
    let mut server = Server::with(setup).await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.3)]))).await;
    let unit = "alice".to_owned();
    let answer = api.assign_all(KEY, std::slice::from_ref(&unit)).await.remove(0);
    api.record(vec![exposure_of(KEY, &unit, &answer)], vec![]).await;
    api.results(KEY).await;
    server.send_sigterm();
    server.wait_until_stopped().await.ok();
}

/// Checks that a server can serve the data of [`create_data`].
async fn check_intact(folder: &Path) {
    let setup = Setup { folder: Some(folder.to_owned()), ..Setup::default() };
    let server = Server::with(setup).await;
    let results = server.api().results(KEY).await;
    assert_eq!(results.arms.iter().map(|arm| arm.units).sum::<u64>(), 1);
}

/// The last line on standard error, with paths and addresses replaced by names.
fn error_line(process: &FinishedProcess, names: &[(&str, &str)]) -> String {
    let line = process.stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    names.iter().fold(line.to_owned(), |line, (text, name)| line.replace(text, name))
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_start_prints_a_remedy_and_changes_nothing() {
    let folder = TempDir::new().expect("a folder");
    let mut rows = Vec::new();
    let mut check = |case: &str, process: &FinishedProcess, words: &[&str], names: &[(&str, &str)]| {
        let message = error_line(process, names);
        assert!(matches!(process.code(), Some(1 | 2)), "{case}: {process:?}");
        for word in words {
            assert!(message.contains(word), "{case}: no {word:?} in {:?}", process.stderr);
        }
        assert!(!process.stderr.contains("panicked"), "{case}: {}", process.stderr);
        rows.push(vec![case.to_owned(), process.code().unwrap_or(-1).to_string(), message]);
    };

    let data = folder.path().join("data");
    create_data(&data).await;
    let setup = Setup { folder: Some(data.clone()), ..Setup::default() };
    let running = Server::with(setup).await;
    let fresh = folder.path().join("fresh");
    let text = |path: &Path| path.display().to_string();
    let (data_text, address) = (text(&data), running.address.to_string());
    let taken = serve(running.address, &fresh).await;
    check("the port is in use", &taken, &["--listen"], &[(&address, "ADDRESS")]);
    assert!(!fresh.exists(), "a server without a port does not create the data folder");
    let in_use = serve(any_port(), &data).await;
    check("another server uses the data folder", &in_use, &["another process"], &[(&data_text, "FOLDER")]);
    running.api().get(KEY).await;
    drop(running);
    check_intact(&data).await;

    // A database of a newer version is not changed.
    for file in ["inroad.db", "counts.db", "log.db"] {
        let newer = folder.path().join(format!("newer-{file}"));
        create_data(&newer).await;
        let path = newer.join(file);
        let known: u32 = {
            let db = rusqlite::Connection::open(&path).expect("a database");
            let known = db.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
            db.pragma_update(None, "user_version", 9_999).expect("the version can be changed");
            known
        };
        let refused = serve(any_port(), &newer).await;
        check(&format!("`{file}` was written by a newer version"), &refused, &["9999"], &[(&text(&newer), "FOLDER")]);
        let db = rusqlite::Connection::open(&path).expect("a database");
        db.pragma_update(None, "user_version", known).expect("the version can be restored");
        drop(db);
        check_intact(&newer).await;
    }

    // A damaged database is reported and not replaced.
    for file in ["inroad.db", "counts.db", "log.db"] {
        let damaged = folder.path().join(format!("damaged-{file}"));
        create_data(&damaged).await;
        let path = damaged.join(file);
        let good = std::fs::read(&path).expect("the file");
        std::fs::write(&path, b"this is text and not a database".repeat(500)).expect("the file can be written");
        let broken = std::fs::read(&path).expect("the file");
        let refused = serve(any_port(), &damaged).await;
        check(&format!("`{file}` is not a database"), &refused, &["damaged", "backup"], &[(&text(&damaged), "FOLDER")]);
        assert_eq!(std::fs::read(&path).expect("the file"), broken, "the file is not changed");
        std::fs::write(&path, good).expect("the file can be written");
        check_intact(&damaged).await;
    }

    // Without its counts, a store would count again what the log still has.
    let incomplete = folder.path().join("incomplete");
    create_data(&incomplete).await;
    let (counts, elsewhere) = (incomplete.join("counts.db"), folder.path().join("counts.db"));
    std::fs::rename(&counts, &elsewhere).expect("the file can be moved");
    let refused = serve(any_port(), &incomplete).await;
    check("`counts.db` is missing", &refused, &["missing", "from one copy"], &[(&text(&incomplete), "FOLDER")]);
    std::fs::rename(&elsewhere, &counts).expect("the file can be moved");
    check_intact(&incomplete).await;

    let file = folder.path().join("a-file");
    std::fs::write(&file, "text").expect("the file can be written");
    let refused = serve(any_port(), &file).await;
    check("the data folder is a file", &refused, &[], &[(&text(&file), "FOLDER")]);

    let url = "https://127.0.0.1:4317";
    let mut command = Setup::with_options(&["--traces", url]).command(any_port(), &fresh);
    let refused = Process::start(&mut command).finish(Duration::from_secs(20)).await;
    check("the collector of traces needs TLS", &refused, &["--traces", url], &[]);
    assert!(!fresh.exists(), "the data folder is not created");

    let copy = |to: &Path, from: &Path| {
        let mut command = Command::new(inroad_binary());
        command.arg("backup").arg(to).arg("--data").arg(from);
        Process::start(&mut command).finish(Duration::from_secs(20))
    };
    let (backup, nothing) = (folder.path().join("backup"), folder.path().join("nothing"));
    copy(&backup, &data).await.ok();
    let bytes = |file: &str| std::fs::read(backup.join(file)).expect("the copy's file");
    let all = || ["inroad.db", "counts.db", "log.db"].map(bytes);
    let original = all();
    let again = copy(&backup, &data).await;
    check("`backup` to a folder that contains a store", &again, &["another folder"], &[(&text(&backup), "FOLDER")]);
    assert_eq!(all(), original, "the existing copy is not changed");
    check_intact(&backup).await;
    let refused = copy(&nothing.join("copy"), &nothing).await;
    check("`backup` of a folder without a store", &refused, &["--data"], &[(&text(&nothing), "FOLDER")]);
    assert!(!nothing.exists(), "no folder is created");
    let refused = copy(&file.join("copy"), &data).await;
    check("`backup` to a folder that cannot be created", &refused, &[], &[(&text(&file), "FILE")]);

    let unused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("the local address").to_string()
    };
    let mut command = Command::new(inroad_binary());
    command.args(["experiment", "list", "--server", &unused]);
    let ended = Process::start(&mut command).finish(Duration::from_secs(20)).await;
    check(
        "no server at the address, for every other command",
        &ended,
        &["inroad serve", "--server"],
        &[(&unused, "ADDRESS")],
    );

    document::check("Programs", &["case", "exit code", "message"], &rows);
}
