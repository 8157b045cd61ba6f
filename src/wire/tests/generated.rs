//! Verifies that the committed code in `src/generated` matches the contract in `proto/`. Because the code is committed,
//! only this test needs the protobuf compiler, which has about fifty crates.
//!
//! After a change in `proto/`, write the code again:
//!
//! ```text
//! INROAD_WRITE_GENERATED=1 cargo test -p inroad-wire --test generated
//! ```
#![allow(clippy::unwrap_used)]

use std::path::Path;

use prost::Message;

const FILES: [&str; 6] = ["common", "assignment", "event", "experiment", "result", "server"];

#[test]
fn committed_code_is_generated_from_the_contract() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let contract = protox::compile(FILES.map(|name| format!("inroad/v1/{name}.proto")), [manifest.join("../../proto")]);
    let contract = contract.unwrap();
    let generated = tempfile::TempDir::new().unwrap();
    std::fs::write(generated.path().join("inroad.v1.bin"), contract.encode_to_vec()).unwrap();
    tonic_prost_build::configure()
        // Ordered maps, so that equal messages have equal bytes.
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .out_dir(generated.path())
        .compile_fds(contract)
        .unwrap();

    let committed = manifest.join("src/generated");
    for name in ["inroad.v1.bin", "inroad.v1.rs"] {
        let expected = std::fs::read(generated.path().join(name)).unwrap();
        if std::env::var_os("INROAD_WRITE_GENERATED").is_some() {
            std::fs::write(committed.join(name), &expected).unwrap();
        }
        let found = std::fs::read(committed.join(name)).unwrap_or_default();
        assert!(
            found == expected,
            "src/wire/src/generated/{name} differs from the contract in proto/: write it again with \
             INROAD_WRITE_GENERATED=1 cargo test -p inroad-wire --test generated"
        );
    }
}
