//! A disk that fills up while events come in: nothing that was acknowledged is lost, what is refused says what to do,
//! and once there is room the same server goes on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use inroad_wire::v1::{self, ExposureMode};
use tempfile::TempDir;

use crate::harness::{Api, Refused, Server, Setup, context, conversions, eventually, exposure_of, flag, outcome};

const KEY: &str = "checkout";

/// A file system of its own, of a few megabytes. Needs no rights beyond those of a user that may make namespaces: it
/// is mounted in one, in which the server runs too.
struct SmallDisk {
    holder: std::process::Child,
    mountpoint: TempDir,
}

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let mountpoint = TempDir::new().expect("a folder");
        let script = format!("mount -t tmpfs -o size={size} inroad \"$0\" && touch \"$0/mounted\" && exec sleep 600");
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .arg(mountpoint.path())
            .spawn()
            .expect("unshare runs");
        let begun = std::time::Instant::now();
        while !Self::seen_from_outside(holder.id(), mountpoint.path()).join("mounted").exists() {
            assert!(holder.try_wait().expect("its state").is_none(), "this system lets nobody mount a tmpfs");
            assert!(begun.elapsed() < Duration::from_secs(10), "no tmpfs was mounted");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { holder, mountpoint }
    }

    fn seen_from_outside(holder: u32, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{holder}/root")).join(path.strip_prefix("/").expect("an absolute path"))
    }

    /// A file on it, as this process reaches it.
    fn path(&self, name: &str) -> PathBuf {
        Self::seen_from_outside(self.holder.id(), self.mountpoint.path()).join(name)
    }

    /// Runs whatever comes after it where the disk can be seen.
    fn wrapper(&self) -> String {
        format!("exec nsenter --target {} --user --mount --preserve-credentials \"$@\"", self.holder.id())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A batch that is all new.
async fn batch(api: &Api, number: usize) -> v1::RecordRequest {
    let units: Vec<String> = (0..200).map(|i| format!("b{number}-u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposures = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect();
    let outcomes = units.iter().map(|unit| outcome(unit, 1.0, "order-1")).collect();
    v1::RecordRequest { exposures, outcomes }
}

async fn seen(api: &Api) -> u64 {
    api.results(KEY).await.arms.iter().map(|arm| arm.units).sum()
}

/// Records until it is refused: how many batches were acknowledged, and the refusal.
async fn fill(api: &Api, from: usize) -> (usize, Refused) {
    for number in from..from + 2_000 {
        let request = batch(api, number).await;
        if let Err(status) = api.events().record(request).await {
            return (number - from, Refused::by::<()>(Err(status)));
        }
    }
    panic!("2,000 batches fitted")
}

fn check_refusal(refused: &Refused) {
    assert_eq!((refused.code.as_str(), refused.reason.as_str()), ("RESOURCE_EXHAUSTED", "DISK_FULL"), "{refused:?}");
    assert!(refused.message.contains("free space"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_disk_is_full_events_are_refused_and_after_room_is_made_the_server_goes_on_with_nothing_lost() {
    let disk = SmallDisk::mount("24m");
    std::fs::write(disk.path("ballast"), vec![1; 12 << 20]).expect("it fits");
    let setup =
        Setup { folder: Some(disk.mountpoint.path().join("data")), wrapper: Some(disk.wrapper()), ..Setup::default() };
    let mut server = Server::with(setup).await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.4)]))).await;
    let (acknowledged, refused) = fill(&api, 0).await;
    check_refusal(&refused);
    assert!(acknowledged > 0, "some fitted");
    // Where 400 events do not fit, a few still may: the rest of the disk is used up one by one.
    std::fs::write(disk.path("rest"), vec![1; 1 << 20]).expect_err("the disk is full");
    let mut single = 0;
    loop {
        let durable = v1::AssignRequest {
            experiment: KEY.to_owned(),
            context: Some(context(&format!("single-{single}"))),
            exposure: ExposureMode::Durable.into(),
        };
        match api.assignments().assign(durable).await {
            Ok(_) => single += 1,
            Err(status) => break check_refusal(&Refused::by::<()>(Err(status))),
        }
        assert!(single < 20_000, "the disk never fills up");
    }
    // An exposure that is only queued is no durable one, also for whoever asks for the same unit again.
    let queued = api.assign(KEY, context("bob"), ExposureMode::Background).await;
    assert!(queued.exposure_recorded, "there is room in the queue");
    let again = v1::AssignRequest {
        experiment: KEY.to_owned(),
        context: Some(context("bob")),
        exposure: ExposureMode::Durable.into(),
    };
    check_refusal(&Refused::by(api.assignments().assign(again).await));
    // Reading and deciding go on; a change of an experiment may be refused, and is then not half made.
    let answers = api.assign_all(KEY, &["alice".to_owned()]).await;
    assert!(answers[0].point.is_some());
    let before = api.get(KEY).await;
    let kill = v1::KillRequest { key: KEY.to_owned(), variation: "a".to_owned() };
    match api.experiments().kill(kill).await {
        Ok(killed) => assert!(killed.into_inner().variations[1].killed),
        Err(status) => {
            check_refusal(&Refused::by::<()>(Err(status)));
            assert_eq!(api.get(KEY).await.etag, before.etag);
        }
    }

    std::fs::remove_file(disk.path("ballast")).expect("room");
    std::fs::remove_file(disk.path("rest")).expect("room");
    let lost = batch(&api, acknowledged).await;
    eventually("the server takes events again by itself", async || {
        api.events().record(lost.clone()).await.ok().map(|_| ())
    })
    .await;
    // And bob.
    // And of the single units those that were acknowledged.
    let expected = 200 * (acknowledged as u64 + 1) + 1 + single;
    eventually("what was queued is in the log", async || (seen(&api).await >= expected).then_some(())).await;
    assert_eq!(seen(&api).await, expected, "all that was acknowledged, and nothing twice");

    server.kill();
    server.restart().await;
    assert_eq!(seen(&api).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_on_a_full_disk_starts_again_once_there_is_room() {
    let disk = SmallDisk::mount("24m");
    std::fs::write(disk.path("ballast"), vec![1; 12 << 20]).expect("it fits");
    let setup =
        Setup { folder: Some(disk.mountpoint.path().join("data")), wrapper: Some(disk.wrapper()), ..Setup::default() };
    let mut server = Server::with(setup).await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.4)]))).await;
    let (acknowledged, refused) = fill(&api, 0).await;
    check_refusal(&refused);
    server.kill();
    std::fs::remove_file(disk.path("ballast")).expect("room");
    server.restart().await;
    assert_eq!(seen(&api).await, 200 * acknowledged as u64);
}
