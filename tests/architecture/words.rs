//! Rejects a short list of words and phrases that plain technical English does not need.

use crate::source::all_files;

/// Matched as whole words, in upper and lower case.
const REJECTED: &[&str] = &[
    "whoever",
    "whomever",
    "mend",
    "mends",
    "mended",
    "mending",
    "anew",
    "aught",
    "put away",
    "puts away",
    "say everything",
    "says everything",
    "hear of",
    "hears of",
    "heard of",
    "tells of",
    "told of",
    "told by",
    "borne by",
    "the test that bears",
    "the wall's clock",
    "say who you are",
    "what comes of",
    "has its say",
    "there is no such thing",
    "in no order",
    "lets go of",
    "let go of",
    "stands behind",
    "stand still",
    "stands still",
];

/// Extensions of the files that are checked: code, contracts, pages, documents and scripts.
const CHECKED: &[&str] = &["rs", "md", "proto", "js", "css", "toml", "py", "script", "html", "service", "yaml", "yml"];

fn contains_words(line: &str, words: &str) -> bool {
    line.match_indices(words).any(|(start, _)| {
        let is_letter = |c: char| c.is_alphanumeric() || c == '_';
        !line[..start].ends_with(is_letter) && !line[start + words.len()..].starts_with(is_letter)
    })
}

#[test]
fn texts_use_plain_words() {
    let mut found = Vec::new();
    for file in all_files() {
        let extension = file.path.rsplit_once('.').map_or("", |(_, extension)| extension);
        let script = file.text.starts_with("#!");
        if file.path.ends_with("architecture/words.rs") || !(script || CHECKED.contains(&extension)) {
            continue;
        }
        for (number, line) in (1..).zip(file.text.lines()) {
            let line = line.to_lowercase();
            let words = REJECTED.iter().filter(|words| contains_words(&line, words));
            found.extend(words.map(|words| format!("{}:{number}: {words:?}", file.path)));
        }
    }
    assert!(found.is_empty(), "replace these words with plain technical English:\n{}", found.join("\n"));
}

#[test]
fn only_whole_words_are_rejected() {
    assert!(contains_words("// mend it", "mend"));
    assert!(!contains_words("we recommend it", "mend"));
    assert!(!contains_words("a_mend", "mend"));
}
