//! Reads the files of the workspace for the other modules.

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// A file of the workspace.
pub(crate) struct SourceFile {
    /// Relative to the root, with `/` between folders.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl SourceFile {
    fn extension(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(_, extension)| extension)
    }
}

/// Folders without source files to check: build output, images, and generated code, which has its own test.
const SKIPPED: &[&str] = &["target", ".git", ".venv", "generated", "images"];

fn collect(folder: &Path, found: &mut Vec<SourceFile>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if !SKIPPED.iter().any(|skipped| name == *skipped) {
                collect(&path, found);
            }
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let relative = path.strip_prefix(root()).expect("inside the workspace");
            let parts: Vec<_> = relative.components().map(|part| part.as_os_str().to_string_lossy()).collect();
            found.push(SourceFile { path: parts.join("/"), text });
        }
    }
}

/// Every text file, in the order of the paths.
pub(crate) fn all_files() -> Vec<SourceFile> {
    let mut found = Vec::new();
    collect(&root(), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Every Rust file.
pub(crate) fn rust_files() -> Vec<SourceFile> {
    all_files().into_iter().filter(|file| file.extension() == "rs").collect()
}
