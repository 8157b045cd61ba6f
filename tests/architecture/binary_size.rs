//! Limits the size of the binary that the tests run. It grows with the number and weight of dependencies.

#[path = "../e2e/harness/binary.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the other functions of this module")]
mod binary;

/// The largest size of the unoptimised binary. The sizes of optimised builds change with it. Lower this limit when the
/// binary shrinks.
const MAX_DEV_BYTES: u64 = 165_000_000;

#[test]
fn binary_does_not_grow() {
    let path = binary::inroad_binary();
    let profile = path.parent().and_then(|folder| folder.file_name()).expect("target/<profile>");
    if profile != "debug" {
        return;
    }
    let bytes = std::fs::metadata(path).expect("the binary").len();
    assert!(bytes <= MAX_DEV_BYTES, "{bytes} bytes, more than {MAX_DEV_BYTES}: use fewer or lighter dependencies");
}
