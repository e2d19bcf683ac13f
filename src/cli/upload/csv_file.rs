//! A CSV file with one measurement per row. It is read twice: to validate all rows, and to upload them.

use std::{
    fs::File,
    io::{self, Cursor, Read, Seek},
    path::Path,
    sync::Arc,
};

use csv::{ByteRecord, Position, Trim};

use super::measure;
use crate::{cli::Failure, model::VdafConfig, vdaf::Measurement};

/// Maximum size of a stream, in bytes. It is kept in memory, because it cannot be read twice.
const MAX_STREAM: u64 = 256 << 20;
/// Delimiters to detect.
const DELIMITERS: &[u8] = b",;\t|";
/// The byte order mark of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The byte order marks of UTF-16.
const UTF_16: [[u8; 2]; 2] = [[0xff, 0xfe], [0xfe, 0xff]];

/// An open CSV file with a valid header.
pub struct CsvFile {
    source: Source,
    layout: Layout,
}

/// The source of the bytes.
enum Source {
    File(File),
    Memory(Arc<[u8]>),
}

/// The delimiter and columns of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    delimiter: u8,
    /// Number of columns.
    width: usize,
    /// Positions of the measurement's columns.
    positions: Vec<usize>,
}

/// A row.
pub struct Row {
    /// Line number of its start.
    pub line: u64,
    /// The measurement, or the error.
    pub measurement: Result<Measurement, String>,
}

impl CsvFile {
    /// Opens a file, or standard input for `-`, and finds the named columns.
    pub fn open(path: &Path, columns: &[String], delimiter: Option<u8>) -> Result<Self, Failure> {
        let source = if path == Path::new("-") {
            in_memory(io::stdin().lock())?
        } else {
            let file = File::open(path)?;
            // A pipe cannot be read twice.
            if file.metadata()?.is_file() { Source::File(file) } else { in_memory(file)? }
        };
        let layout = layout(&source, columns, delimiter)?;
        Ok(Self { source, layout })
    }

    /// Returns the file, unless the source is a stream.
    pub fn file(&self) -> Option<&File> {
        match &self.source {
            Source::File(file) => Some(file),
            Source::Memory(_) => None,
        }
    }

    /// Iterates over all rows.
    pub fn rows<'a>(&'a self, vdaf: &'a VdafConfig) -> io::Result<impl Iterator<Item = io::Result<Row>> + use<'a>> {
        let records = self.source.reader(self.layout.delimiter)?.into_byte_records().skip(1);
        Ok(records.map(move |record| {
            let record = record.map_err(io::Error::from)?;
            let line = record.position().map_or(0, Position::line);
            Ok(Row { line, measurement: self.layout.measurement(&record, vdaf) })
        }))
    }
}

impl Source {
    /// Creates a reader of all records, including the header.
    fn reader(&self, delimiter: u8) -> io::Result<csv::Reader<Box<dyn Read + '_>>> {
        let mut builder = csv::ReaderBuilder::new();
        builder.has_headers(false).flexible(true).trim(Trim::All).delimiter(delimiter);
        Ok(builder.from_reader(self.bytes()?))
    }

    fn bytes(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::File(file) => {
                let mut file = file;
                file.rewind()?;
                Box::new(file)
            }
            Self::Memory(bytes) => Box::new(Cursor::new(bytes)),
        })
    }
}

impl Layout {
    fn measurement(&self, record: &ByteRecord, vdaf: &VdafConfig) -> Result<Measurement, String> {
        if record.len() != self.width {
            return Err(format!("the row has {} cells, but the header has {}", record.len(), self.width));
        }
        let cell = |position: &usize| {
            let cell = record.get(*position).unwrap_or_default();
            std::str::from_utf8(cell).map_err(|_| format!("'{}' is not UTF-8 text", String::from_utf8_lossy(cell)))
        };
        let cells = self.positions.iter().map(cell).collect::<Result<Vec<_>, _>>()?;
        measure::of_row(&cells, vdaf)
    }
}

/// Reads a stream into memory.
fn in_memory(stream: impl Read) -> Result<Source, Failure> {
    let mut bytes = Vec::new();
    stream.take(MAX_STREAM + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_STREAM {
        return Err(Failure::new(format!(
            "the stream is larger than {} MiB (hint: save it to a file)",
            MAX_STREAM >> 20
        )));
    }
    Ok(Source::Memory(Arc::from(bytes)))
}

/// Reads the header. Without a given delimiter, selects the one that yields the most columns, among those that yield the
/// measurement's columns.
fn layout(source: &Source, columns: &[String], delimiter: Option<u8>) -> Result<Layout, Failure> {
    let mut start = Vec::new();
    source.bytes()?.take(2).read_to_end(&mut start)?;
    if UTF_16.iter().any(|mark| start == mark) {
        return Err(Failure::new("the file is encoded in UTF-16 (hint: save it as CSV in UTF-8)"));
    }
    let candidates = delimiter.map_or(DELIMITERS.to_vec(), |delimiter| vec![delimiter]);
    let mut best: Option<(bool, usize, Result<Layout, String>)> = None;
    for delimiter in candidates {
        let header = header(source, delimiter)?;
        let width = header.len();
        let layout = locate(&header, columns).map(|positions| Layout { delimiter, width, positions });
        if best.as_ref().is_none_or(|(is_found, most, _)| (layout.is_ok(), width) > (*is_found, *most)) {
            best = Some((layout.is_ok(), width, layout));
        }
    }
    let layout = best.map_or(Err("missing header".to_owned()), |(.., layout)| layout);
    layout.map_err(Failure::usage)
}

/// Reads the names of the columns.
fn header(source: &Source, delimiter: u8) -> Result<Vec<Vec<u8>>, Failure> {
    let mut record = ByteRecord::new();
    if !source.reader(delimiter)?.read_byte_record(&mut record)? {
        return Err(Failure::new("the file is empty (hint: the first line names the columns)"));
    }
    let names = record.iter().enumerate().map(|(index, name)| match index {
        0 => name.strip_prefix(BYTE_ORDER_MARK).unwrap_or(name).trim_ascii().to_vec(),
        _ => name.to_vec(),
    });
    Ok(names.collect())
}

/// Locates columns. Each text is a column name, `#` with a number, or several of these separated by commas.
fn locate(header: &[Vec<u8>], columns: &[String]) -> Result<Vec<usize>, String> {
    let mut positions = Vec::new();
    for text in columns {
        match find(header, text) {
            Err(_) if text.contains(',') => {
                for name in text.split(',') {
                    positions.push(find(header, name.trim())?);
                }
            }
            found => positions.push(found?),
        }
    }
    Ok(positions)
}

fn find(header: &[Vec<u8>], name: &str) -> Result<usize, String> {
    let found: Vec<usize> = (0..header.len()).filter(|index| header[*index] == name.as_bytes()).collect();
    let number = || name.strip_prefix('#')?.parse::<usize>().ok()?.checked_sub(1).filter(|index| *index < header.len());
    match (&found[..], number()) {
        ([index], _) => Ok(*index),
        ([], Some(index)) => Ok(index),
        ([], None) => {
            let known: Vec<_> = header.iter().map(|name| String::from_utf8_lossy(name)).collect();
            Err(format!("unknown column '{name}' (columns: {})", known.join(", ")))
        }
        (several, _) => {
            let numbers: Vec<_> = several.iter().map(|index| format!("#{}", index + 1)).collect();
            Err(format!("several columns are named '{name}' (hint: use one of {})", numbers.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MaxMeasurement;

    const SUM: VdafConfig = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };

    fn file(text: &[u8], columns: &[&str], delimiter: Option<u8>) -> Result<CsvFile, Failure> {
        let columns: Vec<_> = columns.iter().map(|&name| name.to_owned()).collect();
        let source = Source::Memory(Arc::from(text));
        let layout = layout(&source, &columns, delimiter)?;
        Ok(CsvFile { source, layout })
    }

    fn rows(file: &CsvFile, vdaf: &VdafConfig) -> Vec<(u64, Result<Measurement, String>)> {
        file.rows(vdaf).unwrap().map(|row| row.unwrap()).map(|row| (row.line, row.measurement)).collect()
    }

    fn numbers(text: &[u8], columns: &[&str]) -> Vec<u128> {
        let file = file(text, columns, None).unwrap();
        let number = |(line, measurement)| match measurement {
            Ok(Measurement::Number(number)) => number,
            other => panic!("line {line}: {other:?}"),
        };
        rows(&file, &SUM).into_iter().map(number).collect()
    }

    #[test]
    fn detects_delimiter_and_columns() {
        for text in
            ["a,b\n1,2\n", "a;b\n1;2\n", "a\tb\n1\t2\n", "a|b\n1|2\n", " a , b \r\n 1 , 2 \r\n", "\u{feff}b\n2\n"]
        {
            assert_eq!(numbers(text.as_bytes(), &["b"]), [2], "{text:?}");
        }
        // Of two matching delimiters, the one that yields more columns.
        assert_eq!(numbers(b"b;x,y;z\n2;3,4;5\n", &["b"]), [2]);
        assert_eq!(numbers(b"\xef\xbb\xbf\"a\",b\n7,2\n", &["a"]), [7]);
        assert!(file(b"a;b\n1;2\n", &["b"], Some(b',')).is_err());
        let error = file(b"a;b\n1;2\n", &["c"], None).err().unwrap();
        assert!(error.message().contains("columns: a, b"), "{}", error.message());
        assert!(file(b"\xff\xfea\0", &["a"], None).err().unwrap().message().contains("UTF-16"));
        assert!(file(b"", &["a"], None).err().unwrap().message().contains("empty"));
    }

    #[test]
    fn finds_ambiguous_columns() {
        let text = b"\"size, in cm\",x,x\n1,2,3\n";
        assert_eq!(numbers(text, &["size, in cm"]), [1]);
        assert_eq!(numbers(text, &["#3"]), [3]);
        let error = file(text, &["x"], None).err().unwrap();
        assert!(error.message().contains("#2, #3"), "{}", error.message());
        let vector = VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(8), length: 2, chunk_length: 1 };
        let both = file(text, &["#3,#2"], None).unwrap();
        assert_eq!(rows(&both, &vector), [(2, Ok(Measurement::Vector(vec![3, 2])))]);
        let both = file(b"b,a\n1,2\n", &["a", "b"], None).unwrap();
        assert_eq!(rows(&both, &vector), [(2, Ok(Measurement::Vector(vec![2, 1])))]);
    }

    #[test]
    fn ignores_encoding_of_unused_columns() {
        let text = b"Stra\xdfe;n\nM\xfcller;1\n\"two\nlines\";2\nx;\xfc\n";
        let read = rows(&file(text, &["n"], None).unwrap(), &SUM);
        assert_eq!(read[0], (2, Ok(Measurement::Number(1))));
        assert_eq!(read[1], (3, Ok(Measurement::Number(2))));
        assert_eq!(read[2].0, 5);
        assert!(read[2].1.as_ref().unwrap_err().contains("UTF-8"), "{read:?}");
    }

    #[test]
    fn rejects_rows_of_wrong_width() {
        let read = rows(&file(b"a,b\n1\n1,2\n1,2,3\n300,1\n", &["a"], None).unwrap(), &SUM);
        let is_active: Vec<bool> = read.iter().map(|(_, measurement)| measurement.is_ok()).collect();
        assert_eq!(is_active, [false, true, false, false], "{read:?}");
        assert!(read[3].1.as_ref().unwrap_err().contains("the maximum 255"), "{read:?}");
    }
}
