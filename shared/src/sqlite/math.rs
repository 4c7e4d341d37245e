//! The math functions of SQLite, computed alike on every host.
//!
//! SQLite calls the C library for them, and C libraries differ in the last bit of a sine or a power: between
//! their versions, between processors (glibc chooses code by what the processor has), between systems. Inside apply
//! replicas would store different values, and a row could hash to different slots. So these functions replace SQLite's
//! on every connection; they are computed by the `libm` crate, which is plain Rust, and Rust neither fuses nor reorders
//! floating-point operations.
//!
//! All else is as SQLite has it (func.c, "Built-in math functions"): an argument that is no number gives NULL, and so
//! does a result that is NaN; `ceil`, `floor` and `trunc` leave integers alone; logarithms of what is not positive are
//! NULL; the second argument of `log(B,X)` is not checked for being a number.

use std::f64::consts::PI;
use std::ffi::{CStr, c_int, c_void};
use std::slice;

use rusqlite::{Connection, ffi};

/// How a function is computed.
enum Compute {
    /// Of one number; an integer stays as it is.
    Rounding(fn(f64) -> f64),
    /// Of one number.
    One(fn(f64) -> f64),
    /// Of one number above zero.
    Logarithm(fn(f64) -> f64),
    /// `log(B,X)`.
    LogarithmToBase,
    /// Of two numbers.
    Two(fn(f64, f64) -> f64),
}

/// A function as it is registered.
struct Function {
    name: &'static CStr,
    compute: Compute,
}

const fn function(name: &'static CStr, compute: Compute) -> Function {
    Function { name, compute }
}

/// All but `pi`, which is a constant.
static FUNCTIONS: [Function; 29] = [
    function(c"ceil", Compute::Rounding(libm::ceil)),
    function(c"ceiling", Compute::Rounding(libm::ceil)),
    function(c"floor", Compute::Rounding(libm::floor)),
    function(c"trunc", Compute::Rounding(libm::trunc)),
    function(c"ln", Compute::Logarithm(libm::log)),
    function(c"log", Compute::Logarithm(libm::log10)),
    function(c"log10", Compute::Logarithm(libm::log10)),
    function(c"log2", Compute::Logarithm(libm::log2)),
    function(c"log", Compute::LogarithmToBase),
    function(c"exp", Compute::One(libm::exp)),
    function(c"pow", Compute::Two(libm::pow)),
    function(c"power", Compute::Two(libm::pow)),
    function(c"mod", Compute::Two(libm::fmod)),
    function(c"acos", Compute::One(libm::acos)),
    function(c"asin", Compute::One(libm::asin)),
    function(c"atan", Compute::One(libm::atan)),
    function(c"atan2", Compute::Two(libm::atan2)),
    function(c"cos", Compute::One(libm::cos)),
    function(c"sin", Compute::One(libm::sin)),
    function(c"tan", Compute::One(libm::tan)),
    function(c"cosh", Compute::One(libm::cosh)),
    function(c"sinh", Compute::One(libm::sinh)),
    function(c"tanh", Compute::One(libm::tanh)),
    function(c"acosh", Compute::One(acosh)),
    function(c"asinh", Compute::One(libm::asinh)),
    function(c"atanh", Compute::One(libm::atanh)),
    function(c"sqrt", Compute::One(libm::sqrt)),
    function(c"radians", Compute::One(radians)),
    function(c"degrees", Compute::One(degrees)),
];

/// As the C standard has it; `libm` gives a number for large negative ones.
fn acosh(value: f64) -> f64 {
    if value < 1.0 { f64::NAN } else { libm::acosh(value) }
}

fn radians(degrees: f64) -> f64 {
    degrees * (PI / 180.0)
}

fn degrees(radians: f64) -> f64 {
    radians * (180.0 / PI)
}

/// Puts the functions in the place of SQLite's.
///
/// # Errors
/// What SQLite says.
pub fn install(db: &Connection) -> rusqlite::Result<()> {
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS;
    for function in &FUNCTIONS {
        let arguments = match function.compute {
            Compute::Two(_) | Compute::LogarithmToBase => 2,
            _ => 1,
        };
        let data = std::ptr::from_ref(function).cast_mut().cast::<c_void>();
        // SAFETY: the handle is valid while `db` is borrowed; the data is a constant, which is only read.
        let code = unsafe {
            ffi::sqlite3_create_function_v2(
                db.handle(),
                function.name.as_ptr(),
                arguments,
                flags,
                data,
                Some(call),
                None,
                None,
                None,
            )
        };
        super::done(code)?;
    }
    Ok(())
}

unsafe extern "C" fn call(context: *mut ffi::sqlite3_context, count: c_int, arguments: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite passes the data of `install` and as many arguments as were registered.
    unsafe {
        let function = &*ffi::sqlite3_user_data(context).cast::<Function>();
        let arguments = slice::from_raw_parts(arguments, count as usize);
        if let Compute::Rounding(_) = function.compute
            && ffi::sqlite3_value_numeric_type(arguments[0]) == ffi::SQLITE_INTEGER
        {
            ffi::sqlite3_result_int64(context, ffi::sqlite3_value_int64(arguments[0]));
        } else if let Some(result) = compute(&function.compute, arguments) {
            // NaN becomes NULL.
            ffi::sqlite3_result_double(context, result);
        }
    }
}

/// The result; none for NULL.
///
/// # Safety
/// The arguments are SQLite's, as many as the function has.
unsafe fn compute(compute: &Compute, arguments: &[*mut ffi::sqlite3_value]) -> Option<f64> {
    // SAFETY: as above.
    unsafe {
        match compute {
            Compute::Rounding(of) | Compute::One(of) => Some(of(number(arguments[0])?)),
            Compute::Two(of) => Some(of(number(arguments[0])?, number(arguments[1])?)),
            Compute::Logarithm(of) => positive(number(arguments[0])?).map(of),
            Compute::LogarithmToBase => {
                let base = positive(libm::log(positive(number(arguments[0])?)?))?;
                let value = positive(ffi::sqlite3_value_double(arguments[1]))?;
                Some(libm::log(value) / base)
            }
        }
    }
}

/// # Safety
/// The argument is SQLite's.
unsafe fn number(argument: *mut ffi::sqlite3_value) -> Option<f64> {
    // SAFETY: as above.
    unsafe {
        let numeric = matches!(ffi::sqlite3_value_numeric_type(argument), ffi::SQLITE_INTEGER | ffi::SQLITE_FLOAT);
        numeric.then(|| ffi::sqlite3_value_double(argument))
    }
}

fn positive(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}

#[cfg(test)]
mod tests;
