//! The tree is tidy: every source file says what it is for and stays readable, nothing is left
//! unfinished, and nothing speaks of the machine that it was written on.

use std::path::{Path, PathBuf};

/// Lines of a source file; beyond it a reader loses the thread.
const MAX_LINES: usize = 520;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = vec![];
    for folder in ["shared", "node", "proxy", "deploy", "tests"] {
        sources(&root().join(folder), &mut found);
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

/// Every source file opens with a page and is short enough to read.
#[test]
fn files_have_pages_and_bounds() {
    let mut bad = vec![];
    for path in all_sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        if !text.starts_with("//!") {
            bad.push(format!("{}: no module page", path.display()));
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            bad.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

/// Nothing is left unfinished.
#[test]
fn nothing_is_unfinished() {
    let marks =
        [["to", "do!("].concat(), ["unimpl", "emented!("].concat(), ["FIX", "ME"].concat(), ["#[ig", "nore"].concat()];
    let mut bad = vec![];
    for path in all_sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                bad.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

/// Links of the pages at the top lead to files that are there.
#[test]
fn links_lead_somewhere() {
    for page in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if let Some(anchor) = link.strip_prefix('#') {
                let heading =
                    |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-") == anchor;
                assert!(text.lines().any(|line| line.starts_with('#') && heading(line)), "{page} links to {link}");
            } else if !link.starts_with("http") {
                assert!(root().join(link).exists(), "{page} links to {link}");
            }
        }
    }
}
