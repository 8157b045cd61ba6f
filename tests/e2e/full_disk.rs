//! A disk that becomes full while events arrive: no acknowledged event is lost, the errors say what to do, and the same
//! server continues once there is free space.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use inroad_wire::v1::{self, ExposureMode};
use tempfile::TempDir;

use crate::harness::{
    Api, Refusal, Server, Setup, context, eventually, exposure_of, flag, http_get, metric_value, outcome,
    with_conversion_metrics,
};

const KEY: &str = "checkout";

/// A tmpfs of a few megabytes. It is mounted in a user namespace, in which the server runs too, so that the test needs
/// no root rights.
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
        let started = std::time::Instant::now();
        while !Self::path_from_outside(holder.id(), mountpoint.path()).join("mounted").exists() {
            assert!(
                holder.try_wait().expect("its state").is_none(),
                "cannot mount a tmpfs in a user namespace on this system"
            );
            assert!(started.elapsed() < Duration::from_secs(10), "the tmpfs was not mounted in time");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { holder, mountpoint }
    }

    fn path_from_outside(holder: u32, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{holder}/root")).join(path.strip_prefix("/").expect("an absolute path"))
    }

    /// The path of a file on the disk, for this process.
    fn path(&self, name: &str) -> PathBuf {
        Self::path_from_outside(self.holder.id(), self.mountpoint.path()).join(name)
    }

    /// A shell script that runs a command in the namespace of the disk.
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

/// A batch of 400 events of new units.
async fn batch(api: &Api, number: usize) -> v1::RecordRequest {
    let units: Vec<String> = (0..200).map(|i| format!("b{number}-u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposures = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect();
    let outcomes = units.iter().map(|unit| outcome(unit, 1.0, "order-1")).collect();
    v1::RecordRequest { exposures, outcomes }
}

async fn exposed_units(api: &Api) -> u64 {
    api.results(KEY).await.arms.iter().map(|arm| arm.units).sum()
}

/// Records batches until one is refused. Returns how many were acknowledged, and the error.
async fn fill(api: &Api, from: usize) -> (usize, Refusal) {
    for number in from..from + 2_000 {
        let request = batch(api, number).await;
        if let Err(status) = api.events().record(request).await {
            return (number - from, Refusal::from_result::<()>(Err(status)));
        }
    }
    panic!("2,000 batches fit on the disk")
}

fn check_refusal(refused: &Refusal) {
    assert_eq!((refused.code.as_str(), refused.reason.as_str()), ("RESOURCE_EXHAUSTED", "DISK_FULL"), "{refused:?}");
    assert!(refused.message.contains("free space"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_refuses_events_and_the_server_continues_after_space_is_freed() {
    let disk = SmallDisk::mount("24m");
    std::fs::write(disk.path("ballast"), vec![1; 12 << 20]).expect("the file fits");
    let setup =
        Setup { folder: Some(disk.mountpoint.path().join("data")), wrapper: Some(disk.wrapper()), ..Setup::default() };
    let mut server = Server::with(setup).await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.4)]))).await;
    let (acknowledged, refused) = fill(&api, 0).await;
    check_refusal(&refused);
    assert!(acknowledged > 0, "some batches were acknowledged");
    // A few events may still fit where 400 do not. Use up the rest of the disk one event at a time.
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
            Err(status) => break check_refusal(&Refusal::from_result::<()>(Err(status))),
        }
        assert!(single < 20_000, "the disk does not become full");
    }
    // A queued exposure is not durable, so a durable assignment of the same unit must fail as well.
    let queued = api.assign(KEY, context("bob"), ExposureMode::Background).await;
    assert!(queued.exposure_recorded, "the queue has room");
    let again = v1::AssignRequest {
        experiment: KEY.to_owned(),
        context: Some(context("bob")),
        exposure: ExposureMode::Durable.into(),
    };
    check_refusal(&Refusal::from_result(api.assignments().assign(again).await));
    // Reads and assignments still work, and so do kills, restores and pauses: they have a reserve. Other changes are
    // refused.
    let answers = api.assign_all(KEY, &["alice".to_owned()]).await;
    assert!(answers[0].point.is_some());
    for _ in 0..40 {
        assert!(api.kill(KEY, "a").await.variations[1].killed);
        assert!(!api.restore(KEY, "a").await.variations[1].killed);
    }
    let (key, etag) = (KEY.to_owned(), String::new());
    let pause = v1::PauseExperimentRequest { key: key.clone(), etag: etag.clone() };
    api.experiments().pause_experiment(pause).await.expect("a pause is stored");
    let before = api.get(KEY).await;
    let resume = v1::ResumeExperimentRequest { key, etag };
    check_refusal(&Refusal::from_result(api.experiments().resume_experiment(resume.clone()).await));
    assert_eq!(api.get(KEY).await.etag, before.etag);
    let (code, text) = http_get(server.address, "/readyz").await.expect("an answer");
    assert!(code == 503 && text.contains("the disk is full"), "{code}: {text}");
    assert!(metric_value(server.address, "inroad_disk_full").await > 0.0);
    assert!(metric_value(server.address, "inroad_disk_free_bytes").await < f64::from(1 << 20));
    let (code, page) = http_get(server.address, "/").await.expect("an answer");
    assert!(code == 200 && page.contains("disk is full"), "{code}: {page}");
    assert!(metric_value(server.address, "inroad_disk_reserve_bytes").await > f64::from(4 << 20), "most of it is left");
    assert!(api.kill(KEY, "a").await.variations[1].killed);

    std::fs::remove_file(disk.path("ballast")).expect("the file can be deleted");
    std::fs::remove_file(disk.path("rest")).expect("the file can be deleted");
    api.restore(KEY, "a").await;
    eventually("the experiment is resumed without a restart", async || {
        api.experiments().resume_experiment(resume.clone()).await.ok().map(|_| ())
    })
    .await;
    let refused_batch = batch(&api, acknowledged).await;
    eventually("the server accepts events again without a restart", async || {
        api.events().record(refused_batch.clone()).await.ok().map(|_| ())
    })
    .await;
    // Batches, the queued exposure of bob, and the acknowledged single units.
    let expected = 200 * (acknowledged as u64 + 1) + 1 + single;
    eventually("queued exposures are counted", async || (exposed_units(&api).await >= expected).then_some(())).await;
    assert_eq!(exposed_units(&api).await, expected, "all acknowledged events, each counted once");

    server.kill();
    server.restart().await;
    assert_eq!(exposed_units(&api).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_killed_on_a_full_disk_restarts_after_space_is_freed() {
    let disk = SmallDisk::mount("24m");
    std::fs::write(disk.path("ballast"), vec![1; 12 << 20]).expect("the file fits");
    let setup =
        Setup { folder: Some(disk.mountpoint.path().join("data")), wrapper: Some(disk.wrapper()), ..Setup::default() };
    let mut server = Server::with(setup).await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.4)]))).await;
    let (acknowledged, refused) = fill(&api, 0).await;
    check_refusal(&refused);
    server.kill();
    std::fs::remove_file(disk.path("ballast")).expect("the file can be deleted");
    server.restart().await;
    assert_eq!(exposed_units(&api).await, 200 * acknowledged as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_starts_on_a_full_disk_and_kills() {
    let disk = SmallDisk::mount("24m");
    let setup =
        Setup { folder: Some(disk.mountpoint.path().join("data")), wrapper: Some(disk.wrapper()), ..Setup::default() };
    let mut server = Server::with(setup).await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.4)]))).await;
    server.kill();
    std::fs::write(disk.path("rest"), vec![1; 24 << 20]).expect_err("the disk is full");
    server.restart().await;
    assert!(api.kill(KEY, "a").await.variations[1].killed);
    assert_eq!(http_get(server.address, "/readyz").await.map(|(code, _)| code), Some(503));
    server.kill();
    server.restart().await;
    assert!(api.get(KEY).await.variations[1].killed);
}
