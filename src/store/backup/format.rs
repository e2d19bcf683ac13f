//! The bytes of a backup.
//!
//! ```text
//! magic      "dapbox backup, version 1\n"
//! header     length (4 bytes), CBOR: see Header
//! records    one after the other
//!   1        a row as it was copied: length of the key (4), length of the value (4), key, value
//!   2        a row as it is since, laid out like 1
//!   3        a row that is gone since: length of the key (4), key
//! 4          the end: number of records (8), the moment that they show (8)
//! hash       SHA-256 of everything before it (32)
//! ```
//!
//! Numbers are unsigned and big-endian. Records of kind 1 come in the order of their keys, each key once; those of kinds
//! 2 and 3 say what has changed since. Applied in order, they give the rows of one moment. Nothing follows the hash, so
//! that a file that was cut off, or continued, is noticed, as is any change.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use dapbox_protocol::model::{Secret, Time};

/// The start of every backup, before its version and a newline.
const MAGIC: &[u8] = b"dapbox backup, version ";
/// The version that is written.
const VERSION: &[u8] = b"1\n";
/// The maximum length of the header.
const MAX_HEADER: u32 = 64 << 10;
/// The maximum length of a key.
const MAX_KEY: u32 = 1 << 10;
/// The maximum length of a value, above the longest configurable body.
const MAX_VALUE: u32 = 1 << 30;

const ROW: u8 = 1;
const CHANGED: u8 = 2;
const GONE: u8 = 3;
const END: u8 = 4;

/// The header of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// When the backup started.
    pub begun: Time,
    /// The version of the program.
    pub program: String,
    /// The layout version of the data directory.
    pub layout: u32,
    /// The key that its secrets are encrypted with, if it is included.
    pub key: Option<Secret>,
}

/// A record of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A copied row.
    Row(Vec<u8>, Vec<u8>),
    /// A row that changed after it was copied.
    Changed(Vec<u8>, Vec<u8>),
    /// The key of a row that was deleted after it was copied.
    Gone(Vec<u8>),
}

impl Record {
    /// The length of key and value, in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Row(key, value) | Self::Changed(key, value) => key.len() + value.len(),
            Self::Gone(key) => key.len(),
        }
    }
}

/// Why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It is no backup.
    #[error("the file is not a backup")]
    Foreign,
    /// A later release created it.
    #[error("the backup was made by a newer release; restore it with that release or a newer one")]
    Newer,
    /// It is truncated.
    #[error("the backup is truncated; use another one")]
    CutOff,
    /// It is damaged.
    #[error("the backup is damaged ({0}); use another one")]
    Damaged(String),
    /// The input failed.
    #[error("cannot read the backup: {0}")]
    Io(io::Error),
}

impl FormatError {
    fn damaged(why: impl ToString) -> Self {
        Self::Damaged(why.to_string())
    }
}

/// Writes a backup.
pub(super) struct Writer<W> {
    out: W,
    hash: Sha256,
    records: u64,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    pub(super) fn new(out: W, header: &Header) -> io::Result<Self> {
        let mut writer = Self { out, hash: Sha256::new(), records: 0, bytes: 0 };
        let mut bytes = Vec::new();
        ciborium::into_writer(header, &mut bytes).map_err(io::Error::other)?;
        writer.put(MAGIC)?;
        writer.put(VERSION)?;
        writer.put_length(bytes.len(), MAX_HEADER)?;
        writer.put(&bytes)?;
        Ok(writer)
    }

    /// Writes a record.
    pub(super) fn record(&mut self, record: &Record) -> io::Result<()> {
        self.records += 1;
        let (kind, key, value) = match record {
            Record::Row(key, value) => (ROW, key, Some(value)),
            Record::Changed(key, value) => (CHANGED, key, Some(value)),
            Record::Gone(key) => (GONE, key, None),
        };
        self.put(&[kind])?;
        self.put_length(key.len(), MAX_KEY)?;
        if let Some(value) = value {
            self.put_length(value.len(), MAX_VALUE)?;
        }
        self.put(key)?;
        value.map_or(Ok(()), |value| self.put(value))
    }

    /// Writes the end. Returns the numbers of records and bytes.
    pub(super) fn finish(mut self, moment: Time) -> io::Result<(u64, u64)> {
        self.put(&[END])?;
        self.put(&self.records.to_be_bytes())?;
        self.put(&moment.0.to_be_bytes())?;
        let hash = self.hash.clone().finalize();
        self.put(&hash)?;
        self.out.flush()?;
        Ok((self.records, self.bytes))
    }

    fn put_length(&mut self, length: usize, most: u32) -> io::Result<()> {
        let length = u32::try_from(length).ok().filter(|length| *length <= most);
        let length = length.ok_or_else(|| io::Error::other("a row exceeds the maximum length of a backup"))?;
        self.put(&length.to_be_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// Reads a backup. Takes no more memory than the length of the input, for any input.
pub(super) struct Reader<R> {
    input: R,
    hash: Sha256,
    records: u64,
    bytes: u64,
    header: Header,
    moment: Option<Time>,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub(super) fn new(mut input: R) -> Result<Self, FormatError> {
        let mut start = Vec::new();
        let length = MAGIC.len() + VERSION.len();
        input.by_ref().take(length as u64).read_to_end(&mut start).map_err(FormatError::Io)?;
        match start.strip_prefix(MAGIC) {
            Some(VERSION) => {}
            Some(version) if version.len() == VERSION.len() && version[0].is_ascii_digit() => {
                return Err(FormatError::Newer);
            }
            _ if MAGIC.starts_with(&start) && !start.is_empty() => return Err(FormatError::CutOff),
            Some(version) if version.len() < VERSION.len() => return Err(FormatError::CutOff),
            _ => return Err(FormatError::Foreign),
        }
        let header = Header { begun: Time(0), program: String::new(), layout: 0, key: None };
        let mut hash = Sha256::new();
        hash.update(&start);
        let mut reader = Self { input, hash, records: 0, bytes: length as u64, header, moment: None };
        let length = reader.length(MAX_HEADER)?;
        let bytes = reader.take(length)?;
        let mut rest = &bytes[..];
        reader.header = ciborium::from_reader(&mut rest).map_err(|_| FormatError::damaged("its header"))?;
        if rest.is_empty() { Ok(reader) } else { Err(FormatError::damaged("trailing bytes after its header")) }
    }

    /// The header. It is verified only after the end was read.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// The moment of the snapshot, once everything was read and verified.
    pub(super) fn moment(&self) -> Option<Time> {
        self.moment
    }

    /// The numbers of records and bytes read.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.records, self.bytes)
    }

    /// Reads the next record; `None` at the verified end.
    pub(super) fn next(&mut self) -> Result<Option<Record>, FormatError> {
        if self.moment.is_some() {
            return Ok(None);
        }
        let [kind] = self.array()?;
        if kind == END {
            self.end()?;
            return Ok(None);
        }
        if ![ROW, CHANGED, GONE].contains(&kind) {
            return Err(FormatError::damaged("a record has an unknown kind"));
        }
        let key = self.length(MAX_KEY)?;
        let value = if kind == GONE { 0 } else { self.length(MAX_VALUE)? };
        let key = self.take(key)?;
        self.records += 1;
        Ok(Some(match kind {
            ROW => Record::Row(key, self.take(value)?),
            CHANGED => Record::Changed(key, self.take(value)?),
            _ => Record::Gone(key),
        }))
    }

    fn end(&mut self) -> Result<(), FormatError> {
        let records = u64::from_be_bytes(self.array()?);
        let moment = Time(u64::from_be_bytes(self.array()?));
        let expected: [u8; 32] = self.hash.clone().finalize().into();
        if self.array::<32>()? != expected {
            return Err(FormatError::damaged("its checksum does not match"));
        }
        if records != self.records {
            return Err(FormatError::damaged("its number of records does not match"));
        }
        if self.input.read(&mut [0]).map_err(FormatError::Io)? != 0 {
            return Err(FormatError::damaged("trailing bytes after its end"));
        }
        self.moment = Some(moment);
        Ok(())
    }

    fn length(&mut self, most: u32) -> Result<u32, FormatError> {
        let length = u32::from_be_bytes(self.array()?);
        if length <= most { Ok(length) } else { Err(FormatError::damaged("a length is out of range")) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FormatError::CutOff,
            _ => FormatError::Io(error),
        })?;
        self.hash.update(bytes);
        self.bytes += N as u64;
        Ok(bytes)
    }

    fn take(&mut self, length: u32) -> Result<Vec<u8>, FormatError> {
        let mut bytes = Vec::new();
        // Allocates with the actual length.
        self.input.by_ref().take(length.into()).read_to_end(&mut bytes).map_err(FormatError::Io)?;
        if bytes.len() < length as usize {
            return Err(FormatError::CutOff);
        }
        self.hash.update(&bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header { begun: Time(7), program: "0.1.0".into(), layout: 1, key: Some(Secret::new(vec![1, 2, 3])) }
    }

    fn encode(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, &header()).unwrap();
        records.iter().for_each(|record| writer.record(record).unwrap());
        assert_eq!(writer.finish(Time(9)).unwrap().0, records.len() as u64);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Record>, FormatError> {
        let mut reader = Reader::new(bytes)?;
        let mut records = Vec::new();
        while let Some(record) = reader.next()? {
            records.push(record);
        }
        assert_eq!((reader.header(), reader.moment()), (&header(), Some(Time(9))));
        assert_eq!(reader.progress(), (records.len() as u64, bytes.len() as u64));
        Ok(records)
    }

    fn record() -> impl Strategy<Value = Record> {
        let bytes = |len| proptest::collection::vec(any::<u8>(), 0..len);
        prop_oneof![
            (bytes(80), bytes(3000)).prop_map(|(key, value)| Record::Row(key, value)),
            (bytes(80), bytes(3000)).prop_map(|(key, value)| Record::Changed(key, value)),
            bytes(80).prop_map(Record::Gone),
        ]
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(records in proptest::collection::vec(record(), 0..8)) {
            prop_assert_eq!(decode(&encode(&records)).unwrap(), records);
        }

        #[test]
        fn detects_every_flipped_bit(
            records in proptest::collection::vec(record(), 1..4),
            place in any::<prop::sample::Index>(),
            bit in 0..8u32,
        ) {
            let mut bytes = encode(&records);
            let place = place.index(bytes.len());
            bytes[place] ^= 1u8 << bit;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn detects_truncation_and_trailing_bytes(
            records in proptest::collection::vec(record(), 1..4),
            place in any::<prop::sample::Index>(),
        ) {
            let bytes = encode(&records);
            let error = decode(&bytes[..place.index(bytes.len())]).unwrap_err();
            let empty = place.index(bytes.len()) == 0;
            prop_assert!(matches!(error, FormatError::CutOff) || empty && matches!(error, FormatError::Foreign));
            let longer = [&bytes[..], &[0]].concat();
            prop_assert!(decode(&longer).is_err());
        }

        #[test]
        fn rejects_arbitrary_bytes(rest in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(decode(&rest).is_err());
            let bytes = [MAGIC, VERSION, &rest].concat();
            prop_assert!(decode(&bytes).is_err());
        }
    }

    #[test]
    fn rejects_newer_backup() {
        assert!(matches!(decode(b"dapbox backup, version 2\nand so on"), Err(FormatError::Newer)));
        assert!(matches!(decode(b"something else altogether, and long"), Err(FormatError::Foreign)));
    }

    #[test]
    fn length_field_allocates_no_memory() {
        let mut bytes = encode(&[]);
        bytes.truncate(bytes.len() - 1 - 8 - 8 - 32);
        bytes.extend_from_slice(&[&[ROW][..], &4u32.to_be_bytes(), &MAX_VALUE.to_be_bytes(), b"keyvalue"].concat());
        assert!(matches!(decode(&bytes), Err(FormatError::CutOff)));
    }
}
