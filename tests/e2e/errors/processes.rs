//! A server that cannot start says why and what to do, ends with a code of its own, and touches nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::document;
use crate::harness::{Ended, Process, Server, Setup, conversions, exposure_of, flag, inroad};

const KEY: &str = "checkout";

async fn serve(listen: SocketAddr, folder: &Path) -> Ended {
    Process::start(&mut Setup::default().command(listen, folder)).finish(Duration::from_secs(20)).await
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A folder with something in it: one experiment, one exposure.
async fn lived_in(folder: &Path) {
    let setup = Setup { folder: Some(folder.to_owned()), ..Setup::default() };
    let mut server = Server::with(setup).await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.3)]))).await;
    let unit = "alice".to_owned();
    let answer = api.assign_all(KEY, std::slice::from_ref(&unit)).await.remove(0);
    api.record(vec![exposure_of(KEY, &unit, &answer)], vec![]).await;
    api.results(KEY).await;
    server.ask_to_stop();
    server.stopped().await.ok();
}

async fn is_whole(folder: &Path) {
    let setup = Setup { folder: Some(folder.to_owned()), ..Setup::default() };
    let server = Server::with(setup).await;
    let results = server.api().results(KEY).await;
    assert_eq!(results.arms.iter().map(|arm| arm.units).sum::<u64>(), 1);
}

/// The last line on standard error, without what differs from run to run.
fn said(ended: &Ended, names: &[(&str, &str)]) -> String {
    let line = ended.stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    names.iter().fold(line.to_owned(), |line, (text, name)| line.replace(text, name))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_says_what_to_do_and_touches_nothing() {
    let folder = TempDir::new().expect("a folder");
    let mut rows = Vec::new();
    let mut row = |case: &str, ended: &Ended, words: &[&str], names: &[(&str, &str)]| {
        let told = said(ended, names);
        assert!(matches!(ended.code(), Some(1 | 2)), "{case}: {ended:?}");
        for word in words {
            assert!(told.contains(word), "{case}: no {word:?} in {:?}", ended.stderr);
        }
        assert!(!ended.stderr.contains("panicked"), "{case}: {}", ended.stderr);
        rows.push(vec![case.to_owned(), ended.code().unwrap_or(-1).to_string(), told]);
    };

    let data = folder.path().join("data");
    lived_in(&data).await;
    let setup = Setup { folder: Some(data.clone()), ..Setup::default() };
    let running = Server::with(setup).await;
    let fresh = folder.path().join("fresh");
    let text = |path: &Path| path.display().to_string();
    let (data_text, address) = (text(&data), running.address.to_string());
    let taken = serve(running.address, &fresh).await;
    row("the port is taken", &taken, &["--listen"], &[(&address, "ADDRESS")]);
    assert!(!fresh.exists(), "whoever finds the port taken has not touched the folder");
    let in_use = serve(any(), &data).await;
    row("another server uses the data folder", &in_use, &["another process"], &[(&data_text, "FOLDER")]);
    running.api().get(KEY).await;
    drop(running);
    is_whole(&data).await;

    // A database that a newer program wrote is left alone.
    for file in ["inroad.db", "log.db"] {
        let newer = folder.path().join(format!("newer-{file}"));
        lived_in(&newer).await;
        let path = newer.join(file);
        let known: u32 = {
            let db = rusqlite::Connection::open(&path).expect("a database");
            let known = db.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
            db.pragma_update(None, "user_version", 9_999).expect("a newer version");
            known
        };
        let refused = serve(any(), &newer).await;
        row(&format!("a newer program wrote `{file}`"), &refused, &["9999"], &[(&text(&newer), "FOLDER")]);
        let db = rusqlite::Connection::open(&path).expect("a database");
        db.pragma_update(None, "user_version", known).expect("as it was");
        drop(db);
        is_whole(&newer).await;
    }

    // A damaged one is told, and not made empty.
    for file in ["inroad.db", "log.db"] {
        let damaged = folder.path().join(format!("damaged-{file}"));
        lived_in(&damaged).await;
        let path = damaged.join(file);
        let good = std::fs::read(&path).expect("the file");
        std::fs::write(&path, b"this was a database once, and is a poem now".repeat(500)).expect("it can be written");
        let spoilt = std::fs::read(&path).expect("the file");
        let refused = serve(any(), &damaged).await;
        row(&format!("`{file}` is no database"), &refused, &["damaged", "backup"], &[(&text(&damaged), "FOLDER")]);
        assert_eq!(std::fs::read(&path).expect("the file"), spoilt, "it is left as it was found");
        std::fs::write(&path, good).expect("it can be written");
        is_whole(&damaged).await;
    }

    let file = folder.path().join("a-file");
    std::fs::write(&file, "text").expect("it can be written");
    let refused = serve(any(), &file).await;
    row("the data folder is a file", &refused, &[], &[(&text(&file), "FOLDER")]);

    let copy = |to: &Path, from: &Path| {
        let mut command = Command::new(inroad());
        command.arg("backup").arg(to).arg("--data").arg(from);
        Process::start(&mut command).finish(Duration::from_secs(20))
    };
    let (backup, nothing) = (folder.path().join("backup"), folder.path().join("nothing"));
    copy(&backup, &data).await.ok();
    let bytes = |file: &str| std::fs::read(backup.join(file)).expect("the copy's file");
    let whole = (bytes("inroad.db"), bytes("log.db"));
    let again = copy(&backup, &data).await;
    row("`backup` to a folder that has a store", &again, &["another folder"], &[(&text(&backup), "FOLDER")]);
    assert_eq!((bytes("inroad.db"), bytes("log.db")), whole, "it is left as it was");
    is_whole(&backup).await;
    let refused = copy(&nothing.join("copy"), &nothing).await;
    row("`backup` of a folder that has none", &refused, &["--data"], &[(&text(&nothing), "FOLDER")]);
    assert!(!nothing.exists(), "nothing is made where there was nothing");
    let refused = copy(&file.join("copy"), &data).await;
    row("`backup` to where no folder can be made", &refused, &[], &[(&text(&file), "FILE")]);

    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("its address").to_string()
    };
    let mut asked = Command::new(inroad());
    asked.args(["experiment", "list", "--server", &nobody]);
    let ended = Process::start(&mut asked).finish(Duration::from_secs(20)).await;
    row("no server there, for any other command", &ended, &["inroad serve", "--server"], &[(&nobody, "ADDRESS")]);

    document::check("Programs", &["case", "exit code", "what it says"], &rows);
}
