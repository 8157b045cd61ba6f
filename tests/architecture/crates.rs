//! Checks which crates depend on each other, and limits the number of crates that the binary is built from.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

use crate::source::{root, rust_files};

/// The allowed dependencies among the crates of the workspace. All others are forbidden.
const ALLOWED: &[(&str, &[&str])] = &[
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

/// Crates that the pure crates must not use, not even through others.
const IMPURE: &[&str] =
    &["tokio", "rand", "getrandom", "fastrand", "mio", "socket2", "rusqlite", "tonic", "chrono", "time"];

/// The number of crates that `cargo build -p inroad-cli` compiles on this platform. Lower it when it falls: every
/// crate lengthens the first build (docs/decisions/0017-the-first-build.md).
const MAX_CRATES: usize = 254;

fn metadata() -> Metadata {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let options = ["--filter-platform".to_owned(), target];
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(options)
        .exec()
        .expect("cargo metadata")
}

/// The crates that `package` is built from, itself included, along dependencies of the given kinds.
fn built_from<'m>(metadata: &'m Metadata, package: &str, kinds: &[DependencyKind]) -> BTreeSet<&'m PackageId> {
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let start = metadata.packages.iter().find(|p| p.name == package).expect("the crate");
    let (mut seen, mut open) = (BTreeSet::new(), vec![&start.id]);
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = resolve.nodes.iter().find(|n| n.id == *id).expect("a node");
        let built = |d: &&cargo_metadata::NodeDep| d.dep_kinds.iter().any(|k| kinds.contains(&k.kind));
        open.extend(node.deps.iter().filter(built).map(|d| &d.pkg));
    }
    seen
}

#[test]
fn workspace_crates_have_only_allowed_dependencies() {
    let metadata = metadata();
    let allowed: BTreeMap<_, _> = ALLOWED.iter().map(|(from, to)| (*from, to.to_vec())).collect();
    for package in metadata.workspace_packages() {
        let to = allowed.get(package.name.as_str()).unwrap_or_else(|| panic!("list {} in ALLOWED", package.name));
        for dependency in package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development) {
            let ours = dependency.name.starts_with("inroad-");
            let forbidden = ours && !to.contains(&dependency.name.as_str());
            assert!(!forbidden, "{} must not depend on {}", package.name, dependency.name);
        }
    }
}

#[test]
fn pure_crates_depend_on_no_crate_with_clock_io_or_randomness() {
    let metadata = metadata();
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|p| (&p.id, p.name.as_str())).collect();
    for pure in ["inroad-assignment", "inroad-policy"] {
        let reached = built_from(&metadata, pure, &[DependencyKind::Normal]);
        let impure: Vec<_> = reached.iter().map(|id| names[*id]).filter(|name| IMPURE.contains(name)).collect();
        assert!(impure.is_empty(), "{pure} must not depend on {impure:?}");
    }
}

#[test]
fn pure_crates_call_no_clock_file_network_or_random_function() {
    let forbidden = ["Instant::now", "SystemTime::now", "std::fs", "std::net", "rand::rng", "std::env"];
    for file in rust_files() {
        let pure = ["src/assignment/src/", "src/policy/src/"].iter().any(|folder| file.path.starts_with(folder));
        if pure && !file.path.contains("tests") {
            for word in forbidden {
                assert!(!file.text.contains(word), "{} must not use {word}", file.path);
            }
        }
    }
}

#[test]
fn number_of_crates_does_not_grow() {
    let metadata = metadata();
    let crates = built_from(&metadata, "inroad-cli", &[DependencyKind::Normal, DependencyKind::Build]).len();
    assert!(
        crates <= MAX_CRATES,
        "inroad-cli is built from {crates} crates, more than {MAX_CRATES}. Remove dependencies, or justify a higher limit."
    );
}
