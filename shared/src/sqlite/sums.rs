//! `sum`, `total` and `avg` of rows that lie on several shards.
//!
//! Each shard computes `flotilla_sum_state(x)`, a blob; `flotilla_sum`, `flotilla_total` and `flotilla_avg` take such
//! blobs and give what SQLite's own aggregate gives for all rows. Arguments are read as SQLite reads them: NULL is
//! skipped, text that is a number is one, other text and blobs count as a real with the value of their numeric prefix.
//!
//! SQLite's answer depends on the order of rows: where a sum of integers overflows midway, where reals cancel, where a
//! sum of reals leaves the range of doubles. The order over shards is open, so the state is exact ([`Exact`]) and the
//! answer is one that SQLite gives in some order, the same for every placement:
//!
//! - integers alone: their sum, and "integer overflow" only if the sum itself does not fit 64 bits (with the right
//!   order SQLite meets no overflow before);
//! - at least one real: a real, the exact sum of all values rounded at the end, beyond the range an infinity;
//! - an infinity among the values: that infinity; both of them: NaN, which is NULL in SQL;
//! - `total` and `avg`: the same sum as a real, for integers alone too, without overflow.

use std::ffi::{CStr, c_int};
use std::mem::size_of;
use std::ptr;
use std::slice;

use rusqlite::{Connection, ffi};
use serde::{Deserialize, Serialize};

use super::exact::Exact;

/// What a sum is made from. All zero is the sum of no values, because SQLite hands out memory of zeros.
#[repr(C)]
#[derive(Default)]
struct Sums {
    /// Values that are not NULL.
    count: u64,
    /// Sum of the integers, in two's complement of 128 bits: 2^63 of them fit.
    integers_low: u64,
    integers_high: i64,
    /// Values that are not integers; the infinities among them.
    reals: u64,
    positive_infinities: u64,
    negative_infinities: u64,
    /// Sum of the finite reals.
    finite: Exact,
}

/// The state as it travels. A change of it needs a new protocol version.
#[derive(Serialize, Deserialize)]
struct State {
    count: u64,
    integers: i128,
    reals: u64,
    positive_infinities: u64,
    negative_infinities: u64,
    /// The finite reals, as [`Exact::parts`] gives them.
    first_limb: u8,
    limbs: Vec<u64>,
}

impl Sums {
    fn integers(&self) -> i128 {
        i128::from(self.integers_high) << 64 | i128::from(self.integers_low)
    }

    fn add_integers(&mut self, sum: i128) {
        let sum = self.integers().wrapping_add(sum);
        (self.integers_low, self.integers_high) = (sum as u64, (sum >> 64) as i64);
    }

    fn add_real(&mut self, value: f64) {
        self.reals += 1;
        match value {
            f64::INFINITY => self.positive_infinities += 1,
            f64::NEG_INFINITY => self.negative_infinities += 1,
            // SQLite has no NaN: it is NULL before it comes here.
            _ if value.is_nan() => (),
            _ => self.finite.add(value),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let (first_limb, limbs) = self.finite.parts();
        let state = State {
            count: self.count,
            integers: self.integers(),
            reals: self.reals,
            positive_infinities: self.positive_infinities,
            negative_infinities: self.negative_infinities,
            first_limb,
            limbs: limbs.to_vec(),
        };
        postcard::to_stdvec(&state).expect("a state encodes")
    }

    /// Adds what another shard has; false if the bytes are no state.
    fn merge(&mut self, bytes: &[u8]) -> bool {
        let Ok(state) = postcard::from_bytes::<State>(bytes) else { return false };
        let Some(finite) = Exact::of_parts(state.first_limb, &state.limbs) else { return false };
        self.count = self.count.wrapping_add(state.count);
        self.add_integers(state.integers);
        self.reals = self.reals.wrapping_add(state.reals);
        self.positive_infinities = self.positive_infinities.wrapping_add(state.positive_infinities);
        self.negative_infinities = self.negative_infinities.wrapping_add(state.negative_infinities);
        self.finite.merge(&finite);
        true
    }

    /// The sum of all values as a real.
    fn real(&self) -> f64 {
        match (self.positive_infinities > 0, self.negative_infinities > 0) {
            (true, true) => f64::NAN,
            (true, false) => f64::INFINITY,
            (false, true) => f64::NEG_INFINITY,
            (false, false) if self.reals == 0 => self.integers() as f64,
            (false, false) => {
                let mut all = self.finite.clone();
                all.add_integer(self.integers());
                all.to_f64()
            }
        }
    }
}

/// Makes the functions known to a connection.
///
/// # Errors
/// What SQLite says.
pub fn install(db: &Connection) -> rusqlite::Result<()> {
    aggregate(db, c"flotilla_sum_state", step, give_state)?;
    aggregate(db, c"flotilla_sum", step_state, give_sum)?;
    aggregate(db, c"flotilla_total", step_state, give_total)?;
    aggregate(db, c"flotilla_avg", step_state, give_average)
}

type Step = unsafe extern "C" fn(*mut ffi::sqlite3_context, c_int, *mut *mut ffi::sqlite3_value);
type Give = unsafe extern "C" fn(*mut ffi::sqlite3_context);

/// An aggregate of one argument. Not by rusqlite's own way, which hides how SQLite reads text as a number.
fn aggregate(db: &Connection, name: &CStr, step: Step, give: Give) -> rusqlite::Result<()> {
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS;
    // SAFETY: the handle is valid while `db` is borrowed, the functions need no data of their own.
    let code = unsafe {
        ffi::sqlite3_create_function_v2(
            db.handle(),
            name.as_ptr(),
            1,
            flags,
            ptr::null_mut(),
            None,
            Some(step),
            Some(give),
            None,
        )
    };
    super::done(code)
}

/// The sums of one group; `bytes` is 0 where none may be made. None when there are none, or no memory.
///
/// # Safety
/// `context` is SQLite's, of one of the functions above.
unsafe fn sums<'a>(context: *mut ffi::sqlite3_context, bytes: usize) -> Option<&'a mut Sums> {
    // SAFETY: SQLite gives each group memory of its own, zeroed and aligned to 8 bytes, which is what `Sums` needs.
    unsafe { ffi::sqlite3_aggregate_context(context, bytes as c_int).cast::<Sums>().as_mut() }
}

unsafe extern "C" fn step(context: *mut ffi::sqlite3_context, _: c_int, arguments: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite passes one argument.
    unsafe {
        let value = *arguments;
        let kind = ffi::sqlite3_value_numeric_type(value);
        let Some(sums) = sums(context, size_of::<Sums>()) else { return };
        if kind == ffi::SQLITE_NULL {
            return;
        }
        sums.count += 1;
        match kind {
            ffi::SQLITE_INTEGER => sums.add_integers(ffi::sqlite3_value_int64(value).into()),
            _ => sums.add_real(ffi::sqlite3_value_double(value)),
        }
    }
}

unsafe extern "C" fn give_state(context: *mut ffi::sqlite3_context) {
    // SAFETY: as for `sums`; SQLite copies the blob.
    unsafe {
        if let Some(sums) = sums(context, 0) {
            let state = sums.encode();
            ffi::sqlite3_result_blob64(context, state.as_ptr().cast(), state.len() as u64, ffi::SQLITE_TRANSIENT());
        }
    }
}

unsafe extern "C" fn step_state(context: *mut ffi::sqlite3_context, _: c_int, arguments: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite passes one argument; its bytes are valid until it is used again.
    unsafe {
        let value = *arguments;
        if ffi::sqlite3_value_type(value) == ffi::SQLITE_NULL {
            return;
        }
        let bytes = ffi::sqlite3_value_blob(value).cast::<u8>();
        let length = ffi::sqlite3_value_bytes(value) as usize;
        let Some(sums) = sums(context, size_of::<Sums>()) else { return };
        if bytes.is_null() || !sums.merge(slice::from_raw_parts(bytes, length)) {
            fail(context, c"a value is no state of a sum");
        }
    }
}

unsafe extern "C" fn give_sum(context: *mut ffi::sqlite3_context) {
    // SAFETY: as for `sums`.
    unsafe {
        match sums(context, 0).filter(|sums| sums.count > 0) {
            None => (),
            Some(sums) if sums.reals > 0 => ffi::sqlite3_result_double(context, sums.real()),
            Some(sums) => match i64::try_from(sums.integers()) {
                Ok(sum) => ffi::sqlite3_result_int64(context, sum),
                Err(_) => fail(context, c"integer overflow"),
            },
        }
    }
}

unsafe extern "C" fn give_total(context: *mut ffi::sqlite3_context) {
    // SAFETY: as for `sums`.
    unsafe { ffi::sqlite3_result_double(context, sums(context, 0).map_or(0.0, |sums| sums.real())) }
}

unsafe extern "C" fn give_average(context: *mut ffi::sqlite3_context) {
    // SAFETY: as for `sums`.
    unsafe {
        if let Some(sums) = sums(context, 0).filter(|sums| sums.count > 0) {
            ffi::sqlite3_result_double(context, sums.real() / sums.count as f64);
        }
    }
}

unsafe fn fail(context: *mut ffi::sqlite3_context, message: &CStr) {
    // SAFETY: SQLite copies the message.
    unsafe { ffi::sqlite3_result_error(context, message.as_ptr(), -1) }
}

#[cfg(test)]
mod tests;
