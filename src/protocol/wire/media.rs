//! Comparison of media types (RFC 9110 section 8.3.1).

use std::borrow::Cow;

/// Whether a `Content-Type` value is the `wanted` media type.
///
/// Type, subtype and parameter names are compared without case. Spaces around semicolons and quotes around values are
/// allowed. Every parameter of `wanted` must be present, with no other value; further parameters are ignored.
pub fn matches(found: &str, wanted: &str) -> bool {
    let (found_type, found) = parts(found);
    let (wanted_type, wanted) = parts(wanted);
    found_type.eq_ignore_ascii_case(wanted_type)
        && wanted.iter().all(|(name, value)| {
            let mut values = found.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value);
            values.next() == Some(value) && values.all(|other| other == value)
        })
}

/// The type with its subtype, and the parameters. Skips malformed parameters.
fn parts(text: &str) -> (&str, Vec<(&str, Cow<'_, str>)>) {
    let mut pieces = split(text).into_iter();
    let essence = pieces.next().unwrap_or_default();
    let parameters = pieces.filter_map(|piece| piece.split_once('=')).map(|(name, value)| (name, unquoted(value)));
    (essence, parameters.collect())
}

/// Splits at semicolons outside quotes, and trims spaces.
fn split(text: &str) -> Vec<&str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let mut pieces = Vec::new();
    let mut start = 0;
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ';' if !is_quoted => {
                pieces.push(trim(&text[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(trim(&text[start..]));
    pieces
}

fn trim(piece: &str) -> &str {
    piece.trim_matches([' ', '\t'])
}

/// Removes quotes and escapes from a value (RFC 9110 section 5.6.4).
fn unquoted(value: &str) -> Cow<'_, str> {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return value.into();
    };
    let mut chars = inner.chars();
    let unescaped = std::iter::from_fn(|| match chars.next()? {
        '\\' => chars.next(),
        c => Some(c),
    });
    unescaped.collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WANTED: &str = "application/ppm-dap;message=upload-req";

    #[test]
    fn matches_equivalent_spellings() {
        for found in [
            WANTED,
            "Application/PPM-DAP;Message=upload-req",
            " application/ppm-dap ;\tmessage=upload-req ",
            "application/ppm-dap; version=09; message=upload-req",
            "application/ppm-dap; message=upload-req; version=\"0;message=x\"",
            "application/ppm-dap;; message=\"upload-req\";",
            "application/ppm-dap; message=\"upload\\-req\"; note",
            "application/ppm-dap; message=upload-req; message=\"upload-req\"",
        ] {
            assert!(matches(found, WANTED), "{found}");
        }
    }

    #[test]
    fn rejects_other_types_and_parameters() {
        for found in [
            "",
            ";",
            "application/ppm-dap",
            "application/ppm-dap;message",
            "application/ppm-dap;message=",
            "application/ppm-dap;message=upload-errors",
            "application/ppm-dap;message=Upload-Req",
            "application/ppm-dap;message =upload-req",
            "application/ppm-dap;message=upload-req;message=upload-errors",
            "application/ppm-dap;message=upload-errors;message=upload-req",
            "application/ppm-dap;x=\";message=upload-req\"",
            "application/ppm-dap;x=\"\\\";message=upload-req",
            "application/ppm;message=upload-req",
            "application/ppm-dap/;message=upload-req",
        ] {
            assert!(!matches(found, WANTED), "{found}");
        }
    }

    #[test]
    fn matches_type_with_extra_parameters() {
        for found in
            ["application/problem+json", "application/problem+JSON; charset=utf-8", "application/problem+json;"]
        {
            assert!(matches(found, "application/problem+json"), "{found}");
        }
        assert!(!matches("application/json", "application/problem+json"));
    }

    proptest! {
        #[test]
        fn handles_arbitrary_input(found: String, piece in "[ a;=\"\\\\]{0,12}") {
            prop_assert!(!matches(&found, WANTED));
            let extended = format!("{WANTED}; {}", piece.replace(';', ""));
            prop_assert!(matches(&extended, WANTED));
        }
    }
}
