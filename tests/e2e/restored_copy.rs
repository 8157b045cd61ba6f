//! Somebody replaces the data folder by an older copy of it. The store id is the same and the versions are lower, but the
//! clients follow the server: a kill reaches them (I8), and their events are accepted.

use std::path::Path;
use std::time::Duration;

use inroad_sdk::{Client, Context};

use crate::harness::{Server, eventually, flag, with_conversion_metrics};

const KEY: &str = "button";

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("the folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_follows_an_older_copy_of_the_data_folder() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.4), ("b", 0.4)]))).await;
    let backoff = (Duration::from_millis(20), Duration::from_millis(200));
    let client = Client::builder(server.url()).flush_interval(Duration::from_millis(50)).backoff(backoff.0, backoff.1);
    let client = client.build().expect("a client");
    assert!(client.ready(Duration::from_secs(10)).await);
    server.kill();
    let copies = tempfile::TempDir::new().expect("a folder");
    copy_files(&server.folder, copies.path());

    server.restart().await;
    // Ordinary restarts: the client continues with the changes since its version.
    for _ in 0..3 {
        api.kill(KEY, "a").await;
        api.restore(KEY, "a").await;
    }
    let newest = api.kill(KEY, "a").await;
    let newest: u64 = newest.etag.parse().expect("a version");
    eventually("the client has the newest version", async || (client.status().version >= newest).then_some(())).await;
    server.kill();

    let folder = server.folder.clone();
    std::fs::remove_dir_all(&folder).expect("removed");
    copy_files(copies.path(), &folder);
    server.restart().await;
    eventually("the client has the older data", async || (client.status().version < newest).then_some(())).await;
    let units: Vec<Context> = (0..200).map(|i| Context::new(format!("u{i}"))).collect();
    let arms = || units.iter().map(|unit| client.assign(KEY, unit).arm().index()).collect::<Vec<_>>();
    assert!(arms().contains(&1), "the copy knows nothing of the kill");
    api.kill(KEY, "b").await;
    eventually("the client applies a kill", async || (!arms().contains(&2)).then_some(())).await;
    let flushed = client.flush(Duration::from_secs(20)).await;
    assert!(flushed.is_complete() && flushed.rejected == 0, "{flushed:?}");
    assert_eq!(client.status().refusals, 0);
}
