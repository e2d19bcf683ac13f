//! Parsing of ids, keys and hashes that users paste.

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use data_encoding::HEXLOWER_PERMISSIVE;

/// Base64url with optional padding.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Parses bytes in base64url or hexadecimal, of one of the given lengths. The length determines the encoding: none of
/// the lengths of ids and keys is ambiguous. Errors do not show the input, which may be secret.
pub fn parse(text: &str, lengths: &[usize]) -> Result<Vec<u8>, String> {
    let text = text.trim();
    let fits = |bytes: &Vec<u8>| lengths.contains(&bytes.len());
    if let Some(bytes) = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().filter(fits) {
        return Ok(bytes);
    }
    BASE64URL.decode(text).ok().filter(fits).ok_or_else(|| {
        let lengths: Vec<_> = lengths.iter().map(ToString::to_string).collect();
        format!("expected {} bytes as base64url or hexadecimal digits", lengths.join(" or "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TaskId;

    #[test]
    fn detects_encoding_by_length() {
        let id = TaskId::random();
        let hex = data_encoding::HEXLOWER.encode(id.as_bytes());
        for text in [id.to_string(), format!("{id}="), hex.clone(), hex.to_uppercase(), format!(" {id}\n")] {
            assert_eq!(parse(&text, &[32]).as_deref(), Ok(id.as_bytes().as_slice()), "{text}");
        }
        // 32 digits: 16 bytes in hexadecimal, or 24 in base64url.
        assert_eq!(parse(&"ab".repeat(16), &[16, 32]), Ok(vec![0xab; 16]));
        assert_eq!(parse(&"ab".repeat(32), &[16, 32]), Ok(vec![0xab; 32]));
        for wrong in ["", "ab", &id.to_string()[1..], &hex[1..], &format!("{}zz", &hex[2..])] {
            let error = parse(wrong, &[16, 32]).unwrap_err();
            assert!(error.contains("16 or 32") && (wrong.len() < 3 || !error.contains(wrong)), "{error}");
        }
    }
}
