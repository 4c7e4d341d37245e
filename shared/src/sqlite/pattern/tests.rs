//! Patterns and what they match.

use super::*;

fn matches(pattern: &str, text: &str) -> Result<bool, Wrong> {
    Pattern::read(pattern, false)?.matches(text)
}

/// Each construct, where it matches and where it does not.
#[test]
fn constructs() {
    for (pattern, yes, no) in [
        ("abc", "xabcx", "ab"),
        ("^abc", "abcd", "xabc"),
        ("abc$", "xabc", "abcd"),
        ("^$", "", "x"),
        ("a.c", "a\nc", "ac"),
        ("^ab*c$", "abbbc", "abbd"),
        ("^ab+c$", "abc", "ac"),
        ("^ab?c$", "ac", "abbc"),
        ("^a{3}$", "aaa", "aa"),
        ("^a{2,}$", "aaaaa", "a"),
        ("^a{0,2}$", "", "aaa"),
        ("^(ab|cd)+$", "abcdab", "abc"),
        ("^(a|b|)c$", "c", "dc"),
        ("[abc]", "xxb", "xyz"),
        ("^[^a-c]+$", "xyz", "xaz"),
        ("^[]a]$", "]", "b"),
        ("^[a\\-z]$", "-", "m"),
        ("^\\w+$", "aZ_9", "é"),
        ("\\W", "é", "word"),
        ("^\\d\\D\\s\\S$", "1a\tb", "11 b"),
        ("\\bcat\\b", "a cat.", "concatenate"),
        ("^\\x41\\u00e9\\.\\n$", "Aé.\n", "Aexn"),
        ("^.$", "é", "éé"),
        ("x*", "", "\u{0}never"),
        ("(a*)*b", "aaab", "aaa"),
        ("a|^b|c$", "xc", "xby"),
        ("^ab$c?", "ab", "abc"),
    ] {
        assert_eq!(matches(pattern, yes), Ok(true), "{pattern} in {yes:?}");
        if !no.contains("never") {
            assert_eq!(matches(pattern, no), Ok(false), "{pattern} in {no:?}");
        }
    }
    let folded = |pattern: &str, text: &str| Pattern::read(pattern, true).unwrap().matches(text).unwrap();
    assert!(folded("^[A-C]x\\D$", "bXq") && folded("hello", "HELLO") && !folded("É", "é"));
}

/// What is no pattern is refused by name, and what is too large is refused before it costs anything.
#[test]
fn refusals() {
    for pattern in [
        "(",
        ")",
        "a)",
        "(a",
        "*",
        "a|*",
        "+a",
        "?",
        "{2}",
        "a{2",
        "a{x}",
        "a{3,2}",
        "[",
        "[a",
        "[^",
        "[[:alpha:]]",
        "\\q",
        "\\",
        "\\x4",
        "\\ud800",
        "[a-\\q]",
        "a{3000}",
        "(a{100}){100}",
        "(){1000}{1000}{1000}",
    ] {
        assert!(Pattern::read(pattern, false).is_err(), "{pattern}");
    }
    assert_eq!(Pattern::read(&"(".repeat(100_000), false).err(), Some(TOO_BIG));
    assert_eq!(Pattern::read(&format!("a{}", "*".repeat(100_000)), false).err(), Some(TOO_BIG));
}

/// Patterns that a backtracking matcher would need exponential time for take time by the product of both lengths, and a
/// bounded number of steps.
#[test]
fn no_explosion() {
    let text = "a".repeat(1000);
    assert_eq!(matches("^(a*)*(a|aa)+(a+)+b$", &text), Ok(false));
    let pattern = Pattern::read(&format!("^{}b$", "(a|aa)*".repeat(150)), false).unwrap();
    assert_eq!(pattern.matches_within(&text, 10_000), Err("REGEXP takes too many steps"));
    assert_eq!(pattern.matches_within("aab", 10_000), Ok(true));
}
