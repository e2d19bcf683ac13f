//! A reader and a writer for the TLS presentation language (RFC 8446 section 3).
//!
//! Numbers are big-endian. A length in bytes precedes each vector.

use bytes::{Buf, Bytes};

/// Error text for a vector with too many items.
const TOO_MANY_ITEMS: &str = "has too many items";
/// Error text for a message with too many bytes.
const TOO_MANY_BYTES: &str = "has too many bytes";
/// Error text for an interval that ends after the last representable time.
const OUT_OF_RANGE: &str = "ends after the last representable time";

/// The bytes are not a valid message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}: {why}")]
pub struct Malformed {
    /// The structure or field being read.
    pub what: &'static str,
    /// The problem with it.
    pub why: &'static str,
}

impl Malformed {
    /// Creates an error for a structure or field.
    pub const fn new(what: &'static str, why: &'static str) -> Self {
        Self { what, why }
    }

    /// Creates an error for a message that exceeds the size limit.
    pub(super) const fn too_many_bytes(what: &'static str) -> Self {
        Self::new(what, TOO_MANY_BYTES)
    }

    /// Creates an error for an interval, or a bound of one, after the last representable time.
    pub(super) const fn out_of_range(what: &'static str) -> Self {
        Self::new(what, OUT_OF_RANGE)
    }

    /// Whether the message is well-formed so far, but has an interval after the last representable time.
    pub fn is_out_of_range(&self) -> bool {
        self.why == OUT_OF_RANGE
    }

    /// Whether the message may be well-formed, but exceeds a limit on items or bytes.
    pub fn is_too_long(&self) -> bool {
        [TOO_MANY_ITEMS, TOO_MANY_BYTES].contains(&self.why)
    }
}

/// Reads a message from front to back. Opaque fields are slices of the message, not copies.
///
/// Every method takes the name of the field, for errors.
#[derive(Debug, Clone)]
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    /// Creates a reader at the start of a message.
    pub fn new(message: Bytes) -> Self {
        Self { rest: message }
    }

    /// Whether the whole message was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Ends reading. Fails if bytes are left.
    pub fn finish(self, what: &'static str) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed::new(what, "has trailing bytes")) }
    }

    /// Reads a number of one byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array(what)?))
    }

    /// Reads a number of two bytes.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    /// Reads a number of four bytes.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    /// Reads a number of eight bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array(what)?))
    }

    /// Reads `opaque[N]`.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let bytes = *self.rest.first_chunk().ok_or(Malformed::new(what, "is truncated"))?;
        self.rest.advance(N);
        Ok(bytes)
    }

    /// Reads `opaque<min..2^8-1>`.
    pub fn opaque8(&mut self, what: &'static str, min: usize) -> Result<Bytes, Malformed> {
        let len = self.u8(what)?;
        self.opaque(what, usize::from(len), min)
    }

    /// Reads `opaque<min..2^16-1>`.
    pub fn opaque16(&mut self, what: &'static str, min: usize) -> Result<Bytes, Malformed> {
        let len = self.u16(what)?;
        self.opaque(what, usize::from(len), min)
    }

    /// Reads `opaque<min..2^32-1>`.
    pub fn opaque32(&mut self, what: &'static str, min: usize) -> Result<Bytes, Malformed> {
        let len = self.u32(what)?;
        self.opaque(what, usize::try_from(len).unwrap_or(usize::MAX), min)
    }

    /// Reads a vector of items, `<min..2^16-1>` bytes long; each item is read by `item`.
    pub fn vector16<T>(
        &mut self,
        what: &'static str,
        min: usize,
        item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        Self::new(self.opaque16(what, min)?).items(what, usize::MAX, item)
    }

    /// Reads a vector of at most `max_items` items, `<min..2^32-1>` bytes long; each item is read by `item`.
    pub fn vector32<T>(
        &mut self,
        what: &'static str,
        min: usize,
        max_items: usize,
        item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        Self::new(self.opaque32(what, min)?).items(what, max_items, item)
    }

    /// Reads the rest of the message as a vector of at most `max_items` items and at least `min` bytes; each item is
    /// read by `item`.
    pub fn vector_to_end<T>(
        &mut self,
        what: &'static str,
        min: usize,
        max_items: usize,
        item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        Self::new(self.opaque(what, self.rest.len(), min)?).items(what, max_items, item)
    }

    /// Reads a value with `get`, and returns it with its encoding.
    pub fn with_bytes<T>(
        &mut self,
        get: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<(T, Bytes), Malformed> {
        let before = self.rest.clone();
        let value = get(self)?;
        let len = before.len() - self.rest.len();
        Ok((value, before.slice(..len)))
    }

    fn opaque(&mut self, what: &'static str, len: usize, min: usize) -> Result<Bytes, Malformed> {
        if len < min {
            return Err(Malformed::new(what, "is shorter than its minimum"));
        }
        if len > self.rest.len() {
            return Err(Malformed::new(what, "exceeds the message"));
        }
        Ok(self.rest.split_to(len))
    }

    /// Reads items up to the end. The vector grows with the items read, not with a length that the peer claims.
    fn items<T>(
        mut self,
        what: &'static str,
        max_items: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let mut items = Vec::new();
        while !self.is_empty() {
            if items.len() == max_items {
                return Err(Malformed::new(what, TOO_MANY_ITEMS));
            }
            items.push(item(&mut self)?);
        }
        Ok(items)
    }
}

/// Writes a message. Writing cannot fail, because all lengths are bounded in advance.
///
/// # Panics
///
/// If a vector is too long for its length prefix. Callers prevent that:
///
/// - Opaque fields with a one-byte or two-byte length are task parameters, validated when the task is created, or keys,
///   encapsulated keys and extensions with a size fixed by their algorithm.
/// - Fields with a four-byte length are bounded by memory and by the limits on message bodies.
#[derive(Debug, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Creates an empty message with a capacity of `len` bytes.
    pub fn with_capacity(len: usize) -> Self {
        Self { bytes: Vec::with_capacity(len) }
    }

    /// The complete message.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// Writes a number of one byte.
    pub fn u8(&mut self, n: u8) {
        self.bytes.push(n);
    }

    /// Writes a number of two bytes.
    pub fn u16(&mut self, n: u16) {
        self.fixed(&n.to_be_bytes());
    }

    /// Writes a number of four bytes.
    pub fn u32(&mut self, n: u32) {
        self.fixed(&n.to_be_bytes());
    }

    /// Writes a number of eight bytes.
    pub fn u64(&mut self, n: u64) {
        self.fixed(&n.to_be_bytes());
    }

    /// Writes bytes without their length: `opaque[N]`.
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes `opaque<..2^8-1>`.
    pub fn opaque8(&mut self, bytes: &[u8]) {
        self.u8(u8::try_from(bytes.len()).expect("a field of one-byte length is checked when its task is made"));
        self.fixed(bytes);
    }

    /// Writes `opaque<..2^16-1>`.
    pub fn opaque16(&mut self, bytes: &[u8]) {
        self.u16(u16_len(bytes.len()));
        self.fixed(bytes);
    }

    /// Writes `opaque<..2^32-1>`.
    pub fn opaque32(&mut self, bytes: &[u8]) {
        self.u32(u32_len(bytes.len()));
        self.fixed(bytes);
    }

    /// Writes a vector of `<..2^16-1>` bytes that `content` writes.
    pub fn vector16(&mut self, content: impl FnOnce(&mut Self)) {
        let start = self.reserve::<2>(content);
        let len = u16_len(self.bytes.len() - start);
        self.bytes[start - 2..start].copy_from_slice(&len.to_be_bytes());
    }

    /// Writes a vector of `<..2^32-1>` bytes that `content` writes.
    pub fn vector32(&mut self, content: impl FnOnce(&mut Self)) {
        let start = self.reserve::<4>(content);
        let len = u32_len(self.bytes.len() - start);
        self.bytes[start - 4..start].copy_from_slice(&len.to_be_bytes());
    }

    /// Reserves space for a length, writes the content, and returns its start.
    fn reserve<const LENGTH: usize>(&mut self, content: impl FnOnce(&mut Self)) -> usize {
        self.fixed(&[0; LENGTH]);
        let start = self.bytes.len();
        content(self);
        start
    }
}

fn u16_len(len: usize) -> u16 {
    u16::try_from(len).expect("a field of two-byte length is bounded by its algorithm or checked with its task")
}

fn u32_len(len: usize) -> u32 {
    u32::try_from(len).expect("a field of four-byte length is bounded by the limits on bodies")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &'static [u8]) -> Reader {
        Reader::new(Bytes::from_static(bytes))
    }

    fn why<T: std::fmt::Debug>(result: Result<T, Malformed>) -> &'static str {
        result.unwrap_err().why
    }

    #[test]
    fn numbers_are_big_endian() {
        let mut writer = Writer::with_capacity(15);
        writer.u8(1);
        writer.u16(0x0203);
        writer.u32(0x0405_0607);
        writer.u64(0x0809_0a0b_0c0d_0e0f);
        let bytes = writer.finish();
        assert_eq!(bytes, (1..=15).collect::<Vec<u8>>());

        let mut reader = Reader::new(bytes.into());
        assert_eq!(reader.u8("n"), Ok(1));
        assert_eq!(reader.u16("n"), Ok(0x0203));
        assert_eq!(reader.u32("n"), Ok(0x0405_0607));
        assert_eq!(reader.u64("n"), Ok(0x0809_0a0b_0c0d_0e0f));
        assert_eq!(reader.finish("n"), Ok(()));
    }

    #[test]
    fn read_error_names_the_field() {
        let error = reader(&[1, 2]).u32("Report.time").unwrap_err();
        assert_eq!(error.to_string(), "malformed Report.time: is truncated");
    }

    #[test]
    fn rejects_vector_longer_than_the_message() {
        assert_eq!(why(reader(&[0, 2, 7]).opaque16("v", 0)), "exceeds the message");
        assert_eq!(why(reader(&[255, 255, 255, 255, 7]).opaque32("v", 0)), "exceeds the message");
        assert_eq!(why(reader(&[0]).opaque16("v", 0)), "is truncated");
    }

    #[test]
    fn enforces_minimum_length() {
        assert_eq!(reader(&[0, 0]).opaque16("v", 0), Ok(Bytes::new()));
        assert_eq!(why(reader(&[0, 0]).opaque16("v", 1)), "is shorter than its minimum");
        assert_eq!(why(reader(&[0; 4]).vector32("v", 1, 9, |r| r.u8("i"))), "is shorter than its minimum");
    }

    #[test]
    fn enforces_item_boundaries_and_limit() {
        let items = |max| reader(&[0, 0, 0, 4, 1, 2, 3, 4]).vector32("v", 0, max, |r| r.u16("i"));
        assert_eq!(items(2), Ok(vec![0x0102, 0x0304]));
        assert_eq!(why(items(1)), "has too many items");
        assert_eq!(why(reader(&[0, 3, 1, 2, 3]).vector16("v", 0, |r| r.u16("i"))), "is truncated");
    }

    #[test]
    fn vector_to_end_reads_the_rest() {
        let rest = |bytes, min, max| {
            let mut reader = reader(bytes);
            reader.u8("n").and_then(|_| reader.vector_to_end("v", min, max, |r| r.u16("i")))
        };
        assert_eq!(rest(&[9, 1, 2, 3, 4], 1, 2), Ok(vec![0x0102, 0x0304]));
        assert_eq!(rest(&[9], 0, 2), Ok(vec![]));
        assert_eq!(why(rest(&[9], 1, 2)), "is shorter than its minimum");
        assert_eq!(why(rest(&[9, 1, 2, 3], 1, 2)), "is truncated");
        let too_long = rest(&[9, 1, 2, 3, 4], 1, 1).unwrap_err();
        assert!(too_long.is_too_long() && Malformed::too_many_bytes("v").is_too_long());
    }

    #[test]
    fn with_bytes_returns_the_encoding() {
        let mut reader = reader(&[0, 1, 42, 7]);
        let (field, bytes) = reader.with_bytes(|r| r.opaque16("v", 0)).unwrap();
        assert_eq!((&field[..], &bytes[..]), (&[42][..], &[0, 1, 42][..]));
        assert_eq!(reader.u8("n"), Ok(7));
    }

    #[test]
    fn rejects_trailing_bytes() {
        assert_eq!(why(reader(&[1]).finish("v")), "has trailing bytes");
    }

    #[test]
    fn opaque_fields_are_not_copied() {
        let message = Bytes::from(vec![0, 1, 42]);
        let field = Reader::new(message.clone()).opaque16("v", 1).unwrap();
        assert_eq!(field.as_ptr(), message[2..].as_ptr());
    }

    #[test]
    fn writes_length_prefixes() {
        let mut writer = Writer::with_capacity(16);
        writer.vector32(|w| w.vector16(|w| w.opaque16(b"ab")));
        writer.opaque8(b"c");
        assert_eq!(writer.finish(), [0, 0, 0, 6, 0, 4, 0, 2, b'a', b'b', 1, b'c']);
    }
}
