//! Accessibility checks with axe-core. It is downloaded from the npm registry at first use and accepted only with the
//! expected digest.

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
/// `dist.integrity` in the registry, without `sha512-`.
const SHA512: &str = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==";
const REGISTRY: &str = "https://registry.npmjs.org";

/// Asserts that axe finds no serious or critical violations.
pub(crate) async fn assert_accessible(browser: &Browser) {
    let (severe, minor): (Vec<_>, Vec<_>) = violations(browser).await.into_iter().partition(is_severe);
    for violation in minor {
        println!("axe, minor violation: {}", describe(&violation));
    }
    let severe: Vec<_> = severe.iter().map(describe).collect();
    assert!(severe.is_empty(), "axe finds at {}:\n{}", browser.path().await, severe.join("\n"));
}

/// All violations that axe finds, as JSON.
pub(crate) async fn violations(browser: &Browser) -> Vec<Value> {
    // The script is large, so it is loaded only once per page.
    if browser.evaluate("return typeof axe === 'undefined'", vec![]).await == true {
        browser.evaluate(source(), vec![]).await;
    }
    // No preloading: it fetches style sheets, which the page's content security policy blocks.
    let run = "const done = arguments[arguments.length - 1];
        axe.run(document, { preload: false, resultTypes: ['violations'] })
            .then(result => done({ violations: result.violations }), error => done({ error: String(error) }))";
    let mut result = browser.client.execute_async(run, vec![]).await.expect("axe runs");
    match result["violations"].take() {
        Value::Array(violations) => violations,
        _ => panic!("axe: {result}"),
    }
}

fn is_severe(violation: &Value) -> bool {
    violation["impact"] == "serious" || violation["impact"] == "critical"
}

fn describe(violation: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut description =
        format!("{} ({}): {}", text(&violation["impact"]), text(&violation["id"]), text(&violation["help"]));
    for node in violation["nodes"].as_array().into_iter().flatten() {
        let summary = text(&node["failureSummary"]).replace('\n', "\n      ");
        description += &format!("\n    {}\n      {summary}", text(&node["html"]));
    }
    description
}

fn source() -> &'static str {
    static SOURCE: OnceLock<String> = OnceLock::new();
    SOURCE.get_or_init(|| {
        let folder = target_folder().join("axe-core");
        std::fs::create_dir_all(&folder).expect("create the folder");
        let cached = folder.join(format!("axe-core-{VERSION}.tgz"));
        let packed = std::fs::read(&cached).ok().filter(|packed| digest(packed) == SHA512);
        unpacked(&packed.unwrap_or_else(|| fetched(&cached)))
    })
}

/// Downloads the package and stores it only if its digest is correct.
fn fetched(cached: &Path) -> Vec<u8> {
    let registry = std::env::var("npm_config_registry").ok().filter(|url| !url.is_empty());
    let registry = registry.unwrap_or_else(|| REGISTRY.to_owned());
    let url = format!("{}/axe-core/-/axe-core-{VERSION}.tgz", registry.trim_end_matches('/'));
    // Downloaded under a name of this process and then renamed, because other tests may download it at the same time.
    let part = cached.with_extension(std::process::id().to_string());
    let options = ["--silent", "--show-error", "--fail", "--location", "--max-time", "120", "--output"];
    let curl = Command::new("curl").args(options).arg(&part).arg(&url).output();
    let curl = curl.expect("curl does not run. Install it: `apt-get install curl`");
    let error = String::from_utf8_lossy(&curl.stderr);
    assert!(curl.status.success(), "cannot download axe-core for the accessibility checks: {error}{url}");
    let packed = std::fs::read(&part).expect("read the download");
    if digest(&packed) != SHA512 {
        let _ = std::fs::remove_file(&part);
        panic!("{url} has the digest {}, expected {SHA512}", digest(&packed));
    }
    std::fs::rename(&part, cached).expect("store the download");
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
