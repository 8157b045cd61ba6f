//! Bytes on disk: what forgetting a unit leaves in the files, and copies made from outside the serving process.

use super::*;

/// Every file in a folder with its content, sorted by name.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

fn contain(files: &[(String, Vec<u8>)], text: &str) -> bool {
    files.iter().any(|(_, bytes)| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

fn exposure_of(experiment: &str, unit: &str) -> ExposureEvent {
    match exposure(experiment, 1, unit, Arm::CONTROL, 1, at(1)) {
        Event::Exposure(exposure) => exposure,
        Event::Outcome(_) => unreachable!("the event is an exposure"),
    }
}

#[test]
fn forgotten_key_is_in_no_file() {
    let folder = folder();
    block_on(async {
        let store = open(folder.path()).unwrap();
        let experiment = started_experiment("a", false, &all_metrics(), 1);
        store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
        let experiments = Arc::new(vec![Arc::new(experiment)]);
        let name =
            |i: usize| if i.is_multiple_of(7) { "ann-of-the-green-gables".to_owned() } else { format!("unit-{i}") };
        let events = (0..2_000).map(|i| exposure("a", 1, &name(i), Arm::CONTROL, 1, at(1))).collect();
        store.append(at(1), events).await.unwrap();
        let key_in_context = Event::Exposure(ExposureEvent {
            context: r#"{"account":"acme","partner":{"user":"ann-of-the-green-gables"}}"#.to_owned(),
            ..exposure_of("a", "acme")
        });
        store.append(at(1), vec![key_in_context]).await.unwrap();
        while store.fold(Arc::clone(&experiments), 1_000).await.unwrap().has_more_work() {}
        assert!(contain(&files(folder.path()), "ann-of-the-green-gables"));
        let (unit_type, unit) = ("user".to_owned(), "ann-of-the-green-gables".to_owned());
        let forget = ForgetRequest { unit_type, unit, actor: "test".to_owned(), at: at(2) };
        assert_eq!(store.forget_unit(forget).await.unwrap().events, 287);
        let files = files(folder.path());
        assert!(!contain(&files, "ann-of-the-green-gables") && contain(&files, "unit-1999") && contain(&files, "acme"));
    });
}

#[test]
fn copy_from_another_process_is_complete_while_the_store_works() {
    let (copies, folder) = (folder(), folder());
    let experiment = started_experiment("a", false, &all_metrics(), 1);
    let experiments = Arc::new(vec![Arc::new(experiment.clone())]);
    let unit = |i: usize| exposure("a", 1, &format!("unit-{i}"), Arm::CONTROL, 1, at(1));
    block_on(async {
        let store = open(folder.path()).unwrap();
        store.commit(experiment_change(&experiment, None, "create")).await.unwrap();
        let (from, to) = (folder.path().to_owned(), copies.path().to_owned());
        let copying = tokio::task::spawn_blocking(move || {
            (0..10).map(|n| SqliteStore::copy(&from, &to.join(n.to_string()))).collect::<Vec<_>>()
        });
        let mut sent = 0;
        while !copying.is_finished() {
            store.append(at(1), (sent..sent + 200).map(unit).collect()).await.unwrap();
            sent += 200;
            store.fold(Arc::clone(&experiments), 150).await.unwrap();
            store.prune_log(at(2)).await.unwrap();
        }
        let copied = copying.await.unwrap();
        while store.fold(Arc::clone(&experiments), 1_000).await.unwrap().has_more_work() {}
        let want = store.counts(&key("a"), 1).await.unwrap().cells;
        for (n, copied) in copied.into_iter().enumerate() {
            let (copied, folder) = (copied.unwrap(), copies.path().join(n.to_string()));
            let names: Vec<_> = files(&folder).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["counts.db", "inroad.db", "log.db"], "the copy contains nothing else");
            let copy = open(&folder).unwrap();
            assert_eq!((copy.head(), copy.folded()), (copied.head, copied.folded));
            copy.append(at(1), (0..sent).map(unit).collect()).await.unwrap();
            while copy.fold(Arc::clone(&experiments), 50_000).await.unwrap().has_more_work() {}
            assert_eq!(copy.counts(&key("a"), 1).await.unwrap().cells, want, "copy {n}");
        }
    });
}

#[test]
fn copy_without_a_source_or_onto_a_store_is_refused() {
    let (empty, folder) = (tempfile::tempdir().unwrap(), folder());
    let refused = SqliteStore::copy(empty.path(), &folder.path().join("copy"));
    assert!(matches!(refused, Err(StoreError::NoStore { .. })), "{refused:?}");
    assert!(files(empty.path()).is_empty(), "no file is created in an empty folder");
    block_on(async { open(folder.path()).unwrap().close().await.unwrap() });
    let before = files(folder.path());
    let refused = SqliteStore::copy(folder.path(), folder.path());
    assert!(matches!(refused, Err(StoreError::CopyExists { .. })), "{refused:?}");
    let mut after = files(folder.path());
    after.retain(|(name, _)| name != "inroad.tidying");
    assert_eq!(after, before);
    // A copy that fails leaves no files that could be mistaken for a store.
    std::fs::write(folder.path().join("log.db"), "not a database").unwrap();
    let to = empty.path().join("copy");
    assert!(SqliteStore::copy(folder.path(), &to).is_err());
    assert!(files(&to).is_empty());
}
