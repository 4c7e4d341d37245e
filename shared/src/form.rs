//! Parameters of a query, form fields and pieces of a path, with their `%XX` decoded.
//!
//! The grammar is that of URIs (RFC 3986, section 2.1): a `%` stands before two hexadecimal digits. In
//! parameters `+` is a space (the URL standard's `application/x-www-form-urlencoded`), in a path it is
//! itself. Refused, because what was meant is unknown: any other `%`, bytes that are not UTF-8, and a name that is
//! given twice.

use crate::error::{Code, Error};

/// Adds the parameters of `name=value&…` to those that are there.
///
/// # Errors
/// [`Code::BadRequest`], naming the parameter.
pub fn read_into(params: &mut Vec<(String, String)>, text: &[u8]) -> Result<(), Error> {
    for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = equals.map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
        let name = decoded(name, true).map_err(|why| bad(&format!("the name of a parameter {why}")))?;
        let value = decoded(value, true).map_err(|why| bad(&format!("parameter `{name}` {why}")))?;
        if params.iter().any(|(known, _)| *known == name) {
            return Err(Error::new(Code::BadRequest, format!("`{name}` is given twice")).hint("give it once"));
        }
        params.push((name, value));
    }
    Ok(())
}

/// A piece of a path.
///
/// # Errors
/// [`Code::BadRequest`].
pub fn path_piece(piece: &str) -> Result<String, Error> {
    decoded(piece.as_bytes(), false).map_err(|why| bad(&format!("the path {why}")))
}

fn bad(why: &str) -> Error {
    Error::new(Code::BadRequest, why).hint("send UTF-8; write % as %25, + as %2B, & as %26")
}

fn decoded(text: &[u8], plus_is_space: bool) -> Result<String, &'static str> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16)).map(|digit| digit as u8);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err("has a % without two hexadecimal digits behind it"),
            },
            b'+' if plus_is_space => b' ',
            other => *other,
        });
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and values are decoded; what has no one meaning is refused, by name.
    #[test]
    fn parameters() {
        let read = |text: &str| {
            let mut params = vec![];
            read_into(&mut params, text.as_bytes()).map(|()| params).map_err(|error| error.message)
        };
        let pairs =
            |list: &[(&str, &str)]| Ok(list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Vec<_>>());
        assert_eq!(read(""), pairs(&[]));
        assert_eq!(read("a=1&&b&c=&"), pairs(&[("a", "1"), ("b", ""), ("c", "")]));
        assert_eq!(read("q=a+b%20c%2B%25%3d=&x%26y=%c3%A9é"), pairs(&[("q", "a b c+%=="), ("x&y", "éé")]));
        for (text, why) in [
            ("q=%FF", "parameter `q` is not UTF-8"),
            ("q=%C3&a=1", "parameter `q` is not UTF-8"),
            ("%ff=1", "the name of a parameter is not UTF-8"),
            ("q=%zz", "parameter `q` has a % without two hexadecimal digits behind it"),
            ("q=%+f", "parameter `q` has a % without two hexadecimal digits behind it"),
            ("q=100%", "parameter `q` has a % without two hexadecimal digits behind it"),
            ("q=%2", "parameter `q` has a % without two hexadecimal digits behind it"),
            ("level=none&level=lease", "`level` is given twice"),
            ("level=none&leve%6c=none", "`level` is given twice"),
        ] {
            assert_eq!(read(text), Err(why.to_owned()), "{text}");
        }
    }

    /// In a path `+` is itself.
    #[test]
    fn paths() {
        assert_eq!(path_piece("a%2Fb+c%00").unwrap(), "a/b+c\0");
        for bad in ["%", "%f", "%fg", "%+f", "%ff"] {
            assert_eq!(path_piece(bad).unwrap_err().code, Code::BadRequest, "{bad}");
        }
    }
}
