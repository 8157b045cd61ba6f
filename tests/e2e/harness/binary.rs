//! The real binary, built once by the cargo that runs these tests, in its profile and its target folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Where `inroad` is.
pub(crate) fn inroad() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build)
}

/// Cargo's folder for this profile, inside the target folder.
fn profile_folder() -> PathBuf {
    // …/target/<profile>/deps/<test>-<hash>
    let me = std::env::current_exe().expect("the test's own path");
    me.ancestors().nth(2).expect("target/<profile>").to_path_buf()
}

/// Cargo's target folder: where what tests leave behind belongs.
pub(crate) fn target_folder() -> PathBuf {
    profile_folder().parent().expect("target").to_path_buf()
}

fn build() -> PathBuf {
    let (profile_folder, target) = (profile_folder(), target_folder());
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()).expect("a profile") {
        "debug" => "dev",
        other => other,
    };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "inroad-cli", "--bin", "inroad", "--message-format=json"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "the binary does not build");
    let messages = cargo_metadata::Message::parse_stream(built.stdout.as_slice()).map(|m| m.expect("cargo's JSON"));
    messages
        .filter_map(|message| match message {
            cargo_metadata::Message::CompilerArtifact(artifact) if artifact.target.name == "inroad" => {
                artifact.executable
            }
            _ => None,
        })
        .map(|path| path.into_std_path_buf())
        .last()
        .expect("cargo named the executable")
}
