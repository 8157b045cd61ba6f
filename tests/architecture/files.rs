//! Rules for single files: an opening comment, a length that a reader can survey, nothing unfinished, links that lead
//! somewhere.

use crate::source::{all_files, root, rust_files};

/// A reader finds the way in a file of this many lines.
const MAX_SOURCE_LINES: usize = 450;
/// Tests are lists of cases, and may be longer.
const MAX_TEST_LINES: usize = 600;

#[test]
fn every_rust_file_opens_with_why_it_exists() {
    for file in rust_files() {
        assert!(file.text.starts_with("//!"), "{} does not open with //!", file.path);
    }
}

#[test]
fn files_are_short_enough_to_survey() {
    for file in rust_files() {
        let limit = if file.path.contains("tests") { MAX_TEST_LINES } else { MAX_SOURCE_LINES };
        let lines = file.text.lines().count();
        assert!(lines <= limit, "{} has {lines} lines, more than {limit}: split it", file.path);
    }
}

#[test]
fn nothing_is_unfinished_or_silenced() {
    let words = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[ign", "ore"), concat!("FIX", "ME")];
    for file in rust_files() {
        for word in words {
            assert!(!file.text.contains(word), "{} has {word}", file.path);
        }
    }
}

#[test]
fn links_in_documents_lead_to_files() {
    let documents: Vec<_> = all_files().into_iter().filter(|file| file.path.ends_with(".md")).collect();
    assert!(documents.len() > 10, "the documents are found");
    for document in documents {
        let folder = root().join(&document.path).parent().expect("a folder").to_path_buf();
        for link in document.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(folder.join(path).exists(), "{} links to {path}, which does not exist", document.path);
        }
    }
}
