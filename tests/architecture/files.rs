//! Rules for single files: an opening comment, a limited length, no unfinished code, and links to files that exist.

use crate::source::{all_files, root, rust_files};

/// The most lines of a source file, so that readers can find their way in it.
const MAX_SOURCE_LINES: usize = 450;
/// The most lines of a test file. Tests are lists of cases and may be longer.
const MAX_TEST_LINES: usize = 600;

#[test]
fn every_rust_file_begins_with_a_module_comment() {
    for file in rust_files() {
        assert!(file.text.starts_with("//!"), "{} does not begin with a //! comment", file.path);
    }
}

#[test]
fn rust_files_are_within_the_length_limit() {
    for file in rust_files() {
        let limit = if file.path.contains("tests") { MAX_TEST_LINES } else { MAX_SOURCE_LINES };
        let lines = file.text.lines().count();
        assert!(lines <= limit, "{} has {lines} lines, more than {limit}. Split it.", file.path);
    }
}

#[test]
fn no_code_is_unfinished_and_no_test_is_ignored() {
    let words = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[ign", "ore"), concat!("FIX", "ME")];
    for file in rust_files() {
        for word in words {
            assert!(!file.text.contains(word), "{} has {word}", file.path);
        }
    }
}

#[test]
fn links_in_documents_lead_to_existing_files() {
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
