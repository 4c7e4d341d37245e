//! `flotilla_slot(spec, key…)`: the slot of a key, in SQL.
//!
//! The same code as everywhere else computes it. `spec` is a placement without its owners, as hex
//! digits, so that a trigger needs nothing but its own text. A key that belongs nowhere has slot -1.

use std::sync::{Arc, Mutex, PoisonError};

use flotilla_shared::registry::Placement;
use flotilla_shared::value::Value;
use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};

/// How a key becomes a slot, as the first argument says it.
pub fn spec(placement: &Placement) -> String {
    let bytes = postcard::to_stdvec(placement).expect("placements encode");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(spec: &str) -> Option<Placement> {
    let digits = spec.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    postcard::from_bytes(&bytes.collect::<Option<Vec<u8>>>()?).ok()
}

/// Makes the function known to a connection.
///
/// # Errors
/// What SQLite says.
pub fn install(db: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    // One spec is used over and over.
    let last: Mutex<Option<(String, Arc<Placement>)>> = Mutex::default();
    db.create_scalar_function("flotilla_slot", -1, flags, move |context| {
        if context.is_empty() {
            return Ok(-1);
        }
        let Ok(spec) = context.get_raw(0).as_str() else { return Ok(-1) };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.as_ref().filter(|(text, _)| text == spec).map(|(_, placement)| Arc::clone(placement));
        let placement = match known {
            Some(placement) => placement,
            None => {
                let Some(placement) = decode(spec).map(Arc::new) else { return Ok(-1) };
                *last = Some((spec.to_owned(), Arc::clone(&placement)));
                placement
            }
        };
        Ok(slot(&placement, context))
    })
}

fn slot(placement: &Placement, context: &Context<'_>) -> i64 {
    let key: Vec<Value> = (1..context.len()).map(|n| Value::from(context.get_raw(n))).collect();
    if key.len() != placement.key.len() || placement.slots == 0 {
        return -1;
    }
    placement.slot(&key).map_or(-1, |slot| i64::from(slot.0))
}
