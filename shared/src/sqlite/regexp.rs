//! `X REGEXP Y`, `regexp(pattern, text)` and, for letters of ASCII in either case, `regexpi(pattern, text)`.
//!
//! The library has the operator but no function behind it; the `sqlite3` shell brings one, and so do we, with
//! its syntax ([`pattern`](super::pattern)). Arguments are taken as text, which ends at a NUL character; NULL gives
//! NULL. The result depends on no table of Unicode and no locale, so a call may stand in indexes and constraints.

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;

use rusqlite::{Connection, ffi};

use super::pattern::Pattern;

/// Makes the functions known to a connection.
///
/// # Errors
/// What SQLite says.
pub fn install(db: &Connection) -> rusqlite::Result<()> {
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS;
    static FOLD: u8 = 1;
    let fold = ptr::from_ref(&FOLD).cast_mut().cast::<c_void>();
    for (name, data) in [(c"regexp", ptr::null_mut()), (c"regexpi", fold)] {
        // SAFETY: the handle is valid while `db` is borrowed; the data is only looked at for being there.
        let code = unsafe {
            ffi::sqlite3_create_function_v2(db.handle(), name.as_ptr(), 2, flags, data, Some(call), None, None, None)
        };
        super::done(code)?;
    }
    Ok(())
}

unsafe extern "C" fn call(context: *mut ffi::sqlite3_context, _: c_int, arguments: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite passes two arguments. What it keeps beside the first was put there below.
    unsafe {
        let kept = ffi::sqlite3_get_auxdata(context, 0).cast::<Pattern>();
        if let Some(pattern) = kept.as_ref() {
            return answer(context, pattern, *arguments.add(1));
        }
        let Some(written) = text(*arguments) else { return };
        let fold = !ffi::sqlite3_user_data(context).is_null();
        match Pattern::read(&written, fold) {
            Ok(pattern) => {
                let pattern = Box::new(pattern);
                answer(context, &pattern, *arguments.add(1));
                // Last: where the argument is no constant SQLite drops it at once.
                ffi::sqlite3_set_auxdata(context, 0, Box::into_raw(pattern).cast(), Some(forget));
            }
            Err(wrong) => fail(context, wrong),
        }
    }
}

unsafe extern "C" fn forget(pattern: *mut c_void) {
    // SAFETY: it was made from a box by `call`, and SQLite gives it back once.
    drop(unsafe { Box::from_raw(pattern.cast::<Pattern>()) });
}

unsafe fn answer(context: *mut ffi::sqlite3_context, pattern: &Pattern, argument: *mut ffi::sqlite3_value) {
    // SAFETY: as for `call`.
    unsafe {
        let Some(text) = text(argument) else { return };
        match pattern.matches(&text) {
            Ok(found) => ffi::sqlite3_result_int(context, found.into()),
            Err(wrong) => fail(context, wrong),
        }
    }
}

/// An argument as text; none for NULL.
unsafe fn text<'a>(argument: *mut ffi::sqlite3_value) -> Option<std::borrow::Cow<'a, str>> {
    // SAFETY: SQLite ends the text with a NUL, and keeps it until the argument is used otherwise.
    unsafe {
        let text = ffi::sqlite3_value_text(argument);
        (!text.is_null()).then(|| CStr::from_ptr(text.cast()).to_string_lossy())
    }
}

unsafe fn fail(context: *mut ffi::sqlite3_context, message: &str) {
    let message = CString::new(message).unwrap_or_default();
    // SAFETY: SQLite copies the message.
    unsafe { ffi::sqlite3_result_error(context, message.as_ptr(), -1) }
}

#[cfg(test)]
mod tests {
    use crate::sqlite;
    use crate::value::Value;

    /// The operator and the functions, with patterns and texts of every type.
    #[test]
    fn calls() {
        let db = sqlite::open_in_memory().unwrap();
        let value = |sql: &str| db.query_row(&format!("SELECT {sql}"), [], |row| Ok(Value::from(row.get_ref(0)?)));
        for (sql, wanted) in [
            ("'abc' REGEXP 'b.$'", Value::Integer(1)),
            ("'abc' NOT REGEXP '^b'", Value::Integer(1)),
            ("regexp('B', 'abc')", Value::Integer(0)),
            ("regexpi('B', 'abc')", Value::Integer(1)),
            ("NULL REGEXP 'b'", Value::Null),
            ("'b' REGEXP NULL", Value::Null),
            ("1234 REGEXP 23", Value::Integer(1)),
            ("0.5 REGEXP '^0\\.5$'", Value::Integer(1)),
            ("x'616263' REGEXP 'bc'", Value::Integer(1)),
            ("'ab' || char(0) || 'c' REGEXP 'b$'", Value::Integer(1)),
            (
                "(SELECT group_concat(column1 REGEXP column2) FROM (VALUES ('a', 'a'), ('a', 'b'), ('b', 'b')))",
                Value::Text("1,0,1".into()),
            ),
        ] {
            assert_eq!(value(sql).unwrap(), wanted, "{sql}");
        }
        assert!(value("'a' REGEXP '('").unwrap_err().to_string().contains("unmatched '('"));
        db.execute_batch(
            "PRAGMA trusted_schema = 0; CREATE TABLE t (a CHECK (a REGEXP '^[a-z]+$'));
             CREATE INDEX i ON t (a REGEXP 'x'); INSERT INTO t VALUES ('abc'), ('x')",
        )
        .unwrap();
        assert!(db.execute("INSERT INTO t VALUES ('A')", []).is_err());
    }
}
