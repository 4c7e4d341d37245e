//! What is closed to clients by name: Flotilla's own tables, functions that reach beyond the database, and
//! all PRAGMAs but those that only tell. The proxy refuses early by it, the node for certain.

/// Names that belong to Flotilla; no client may see or make them.
pub const INTERNAL_PREFIX: &str = "_flotilla_";

/// PRAGMAs that only tell about the schema.
pub const READ_PRAGMAS: &[&str] = &[
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "function_list",
    "collation_list",
    "module_list",
    "pragma_list",
    "compile_options",
];

/// Functions that reach beyond the database: into files of code, and into the log of the process.
pub const CLOSED_FUNCTIONS: &[&str] = &["load_extension", "sqlite_log"];

/// May no client call this function?
pub fn is_closed_function(name: &str) -> bool {
    CLOSED_FUNCTIONS.iter().any(|closed| closed.eq_ignore_ascii_case(name))
}

/// PRAGMAs that tell, without a value, what foreign keys do. A value would set it for other clients as well.
pub const SETTING_PRAGMAS: &[&str] = &["foreign_keys", "defer_foreign_keys"];

/// Is it one of [`SETTING_PRAGMAS`]?
pub fn is_setting_pragma(name: &str) -> bool {
    SETTING_PRAGMAS.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// The PRAGMA that looks at rows: what it says of each shard is put together.
pub const CHECK_PRAGMA: &str = "foreign_key_check";

/// Is it [`CHECK_PRAGMA`]?
pub fn is_check_pragma(name: &str) -> bool {
    name.eq_ignore_ascii_case(CHECK_PRAGMA)
}

/// The statement with which a write says that its foreign keys are checked at its end, not after each of its statements.
/// It is about that write alone, and comes first in it.
pub const DEFER_FOREIGN_KEYS: &str = "PRAGMA defer_foreign_keys=ON";

/// Does the name belong to Flotilla, in any case?
pub fn is_internal(name: &str) -> bool {
    name.as_bytes()
        .get(..INTERNAL_PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(INTERNAL_PREFIX.as_bytes()))
}

/// Does the PRAGMA only tell?
pub fn is_read_pragma(name: &str) -> bool {
    READ_PRAGMAS.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names are ours in any case, and only with the whole prefix.
    #[test]
    fn internal_names() {
        assert!(is_internal("_flotilla_state") && is_internal("_FLOTILLA_x"));
        assert!(!is_internal("_flotilla") && !is_internal("flotilla_x") && !is_internal("é_flotilla_"));
        assert!(is_read_pragma("TABLE_INFO") && !is_read_pragma("journal_mode"));
    }
}
