//! axe-core, which finds what shuts people out of a page. It comes from the npm registry when it is first needed, and
//! is what the digest here says, or is not used.

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha512};

use super::browser::Browser;
use crate::harness::binary::target_folder;

const VERSION: &str = "4.14.1";
/// What the registry calls `dist.integrity`, without `sha512-`.
const SHA512: &str = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==";
const REGISTRY: &str = "https://registry.npmjs.org";

/// A page shuts nobody out: axe finds nothing that is serious or critical.
pub(crate) async fn assert_accessible(browser: &Browser) {
    let (grave, slight): (Vec<_>, Vec<_>) = violations(browser).await.into_iter().partition(is_grave);
    for violation in slight {
        println!("axe, in passing: {}", told(&violation));
    }
    let grave: Vec<_> = grave.iter().map(told).collect();
    assert!(grave.is_empty(), "axe finds at {}:\n{}", browser.path().await, grave.join("\n"));
}

/// All that axe finds, as it tells it.
pub(crate) async fn violations(browser: &Browser) -> Vec<Value> {
    // It is large: a page that is looked at twice keeps it.
    if browser.evaluate("return typeof axe === 'undefined'", vec![]).await == true {
        browser.evaluate(source(), vec![]).await;
    }
    // Without preloading, which would fetch style sheets against the page's policy and be complained of.
    let run = "const done = arguments[arguments.length - 1];
        axe.run(document, { preload: false, resultTypes: ['violations'] })
            .then(result => done({ violations: result.violations }), error => done({ error: String(error) }))";
    let mut result = browser.client.execute_async(run, vec![]).await.expect("axe runs");
    match result["violations"].take() {
        Value::Array(violations) => violations,
        _ => panic!("axe: {result}"),
    }
}

fn is_grave(violation: &Value) -> bool {
    violation["impact"] == "serious" || violation["impact"] == "critical"
}

fn told(violation: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut told = format!("{} ({}): {}", text(&violation["impact"]), text(&violation["id"]), text(&violation["help"]));
    for node in violation["nodes"].as_array().into_iter().flatten() {
        let why = text(&node["failureSummary"]).replace('\n', "\n      ");
        told += &format!("\n    {}\n      {why}", text(&node["html"]));
    }
    told
}

fn source() -> &'static str {
    static SOURCE: OnceLock<String> = OnceLock::new();
    SOURCE.get_or_init(|| {
        let folder = target_folder().join("axe-core");
        std::fs::create_dir_all(&folder).expect("a folder");
        let kept = folder.join(format!("axe-core-{VERSION}.tgz"));
        let packed = std::fs::read(&kept).ok().filter(|packed| digest(packed) == SHA512);
        unpacked(&packed.unwrap_or_else(|| fetched(&kept)))
    })
}

/// Fetches the package, and keeps it only if it is the one that is meant.
fn fetched(kept: &Path) -> Vec<u8> {
    let registry = std::env::var("npm_config_registry").ok().filter(|url| !url.is_empty());
    let registry = registry.unwrap_or_else(|| REGISTRY.to_owned());
    let url = format!("{}/axe-core/-/axe-core-{VERSION}.tgz", registry.trim_end_matches('/'));
    // Under a name of this process, and renamed when it is whole: others may be at the same.
    let part = kept.with_extension(std::process::id().to_string());
    let options = ["--silent", "--show-error", "--fail", "--location", "--max-time", "120", "--output"];
    let curl = Command::new("curl").args(options).arg(&part).arg(&url).output();
    let curl = curl.expect("curl runs: the tests of the pages need `apt-get install curl`");
    let said = String::from_utf8_lossy(&curl.stderr);
    assert!(curl.status.success(), "no axe-core, so whether the pages are accessible is not known: {said}{url}");
    let packed = std::fs::read(&part).expect("what curl wrote");
    if digest(&packed) != SHA512 {
        let _ = std::fs::remove_file(&part);
        panic!("{url} has the digest {}, not {SHA512}", digest(&packed));
    }
    std::fs::rename(&part, kept).expect("the folder takes it");
    packed
}

fn digest(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(Sha512::digest(bytes))
}

fn unpacked(packed: &[u8]) -> String {
    let mut archive = tar::Archive::new(GzDecoder::new(packed));
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("a file");
        if entry.path().expect("a path") == Path::new("package/axe.min.js") {
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            return text;
        }
    }
    panic!("axe-core {VERSION} has no axe.min.js");
}
