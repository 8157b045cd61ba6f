//! Makes Rust of the contract in `proto/`, with no protoc to install.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = ["common", "assignment", "event", "experiment", "result"];
    let files = files.map(|name| format!("inroad/v1/{name}.proto"));
    let set = protox::compile(files, [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("inroad.bin"), set.encode_to_vec())?;
    // Ordered maps, so that the same message always has the same bytes.
    tonic_prost_build::configure().btree_map(".").emit_rerun_if_changed(false).compile_fds(set)?;
    Ok(())
}
