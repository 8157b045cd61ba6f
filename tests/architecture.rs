//! The arrows between crates, and the other rules of the house that a compiler does not know. ARCHITECTURE.md says why.

#![allow(clippy::expect_used, reason = "a test tells what it found by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Who may depend on whom, of our own. What is not listed is forbidden.
const ARROWS: &[(&str, &[&str])] = &[
    ("inroad-assignment", &[]),
    ("inroad-policy", &["inroad-assignment"]),
    ("inroad-wire", &["inroad-assignment"]),
    ("inroad-store", &["inroad-assignment", "inroad-policy"]),
    ("inroad-dashboard", &["inroad-assignment", "inroad-policy"]),
    ("inroad-sdk", &["inroad-assignment", "inroad-wire"]),
    ("inroad-simulations", &["inroad-assignment", "inroad-policy"]),
    ("inroad-server", &["inroad-assignment", "inroad-policy", "inroad-store", "inroad-wire", "inroad-dashboard"]),
    (
        "inroad-cli",
        &["inroad-assignment", "inroad-policy", "inroad-wire", "inroad-sdk", "inroad-server", "inroad-simulations"],
    ),
    ("inroad-tests", &[]),
];

/// What the pure crates may not reach, even through others.
const IMPURE: &[&str] =
    &["tokio", "rand", "getrandom", "fastrand", "mio", "socket2", "rusqlite", "tonic", "chrono", "time"];

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).exec().expect("cargo metadata")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

#[test]
fn crates_depend_on_each_other_only_along_the_arrows() {
    let metadata = metadata();
    let allowed: BTreeMap<_, _> = ARROWS.iter().map(|(from, to)| (*from, to.to_vec())).collect();
    for package in metadata.workspace_packages() {
        let to = allowed.get(package.name.as_str()).unwrap_or_else(|| panic!("{} has no arrows listed", package.name));
        for dependency in package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development) {
            let ours = dependency.name.starts_with("inroad-");
            assert!(
                !ours || to.contains(&dependency.name.as_str()),
                "{} → {} is forbidden",
                package.name,
                dependency.name
            );
        }
    }
}

#[test]
fn the_pure_crates_reach_no_clock_no_io_and_no_randomness() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|p| (&p.id, p.name.as_str())).collect();
    for pure in ["inroad-assignment", "inroad-policy"] {
        let start = metadata.packages.iter().find(|p| p.name == pure).expect("the crate");
        let (mut seen, mut todo) = (BTreeSet::new(), vec![&start.id]);
        while let Some(id) = todo.pop() {
            if !seen.insert(id) {
                continue;
            }
            let node = resolve.nodes.iter().find(|n| n.id == *id).expect("a node");
            let normal = |d: &&cargo_metadata::NodeDep| d.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal);
            todo.extend(node.deps.iter().filter(normal).map(|d| &d.pkg));
        }
        let reached: Vec<_> = seen.iter().map(|id| names[*id]).filter(|name| IMPURE.contains(name)).collect();
        assert!(reached.is_empty(), "{pure} reaches {reached:?}");
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn our_files() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in ["src", "simulations", "tests", "benches"] {
        rust_files(&root().join(folder), &mut found);
    }
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).expect("text"))).collect()
}

#[test]
fn the_pure_crates_do_not_name_a_clock_or_a_file() {
    let forbidden = ["Instant::now", "SystemTime::now", "std::fs", "std::net", "rand::rng", "std::env"];
    for (path, text) in our_files() {
        let inside = |folder: &str| path.starts_with(root().join(folder).join("src"));
        let is_test = path.to_string_lossy().contains("tests");
        if (inside("src/assignment") || inside("src/policy")) && !is_test {
            for word in forbidden {
                assert!(!text.contains(word), "{} names {word}", path.display());
            }
        }
    }
}

#[test]
fn every_file_says_first_why_it_exists() {
    for (path, text) in our_files() {
        assert!(text.starts_with("//!"), "{} does not open with //!", path.display());
    }
}

#[test]
fn no_file_is_too_long_to_find_ones_way_in() {
    for (path, text) in our_files() {
        let lines = text.lines().count();
        assert!(lines <= 700, "{} has {lines} lines: split it", path.display());
    }
}

#[test]
fn nothing_is_left_undone_or_silenced() {
    let words = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[ign", "ore"), concat!("FIX", "ME")];
    for (path, text) in our_files() {
        for word in words {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}

#[test]
fn every_path_that_the_documents_name_exists() {
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = std::fs::read_to_string(root().join(document)).expect(document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(root().join(path).exists(), "{document} links to {path}, which is not there");
        }
    }
}
