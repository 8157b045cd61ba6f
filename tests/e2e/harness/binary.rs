//! The real binary: the one whose path is in `INROAD_BINARY`, or else built once by the same cargo, profile and target
//! folder as these tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The path of the `inroad` binary.
pub(crate) fn inroad_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("INROAD_BINARY").map_or_else(build, PathBuf::from))
}

/// Cargo's folder for the profile, inside the target folder.
fn profile_folder() -> PathBuf {
    // …/target/<profile>/deps/<test>-<hash>
    let test_binary = std::env::current_exe().expect("the path of the test binary");
    test_binary.ancestors().nth(2).expect("target/<profile>").to_path_buf()
}

/// Cargo's target folder, where tests put files that they leave behind.
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
    assert!(built.status.success(), "the binary could not be built");
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
        .expect("cargo reports the executable")
}
