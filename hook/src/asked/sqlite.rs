//! Reads one value from a SQLite database. Without SQLite, which would be a megabyte of C that runs as
//! root; and without locks, since whoever holds one may hold it for long.
//!
//! Whatever is not as expected counts as not found. How much is read is bounded, whatever is in the
//! file. "§" is a section of <https://www.sqlite.org/fileformat2.html>.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// A table whose first column is its primary key, a TEXT.
    pub table: &'a str,
    /// The key of the row.
    pub key: &'a str,
    /// The column that has the value.
    pub column: &'a str,
}

/// How long a writer is waited for. Transactions of Podman take some milliseconds, most of them spent
/// waiting for the disk.
const PATIENCE: Duration = Duration::from_millis(15);
/// Between two transactions there may be less than a millisecond.
const PAUSE: Duration = Duration::from_micros(250);

/// The value, a TEXT or a BLOB, that `query` finds in the database `file`, which was opened at `path`.
///
/// `None` also where others keep writing for longer than 15 milliseconds, and where what was written
/// last is in a write-ahead log.
#[must_use]
pub fn find(file: &File, path: &Path, query: Query) -> Option<Vec<u8>> {
    let start = Instant::now();
    let wait = || {
        thread::sleep(PAUSE);
        start.elapsed() < PATIENCE
    };
    find_while(wait, file, path, query)
}

/// Looks until nobody writes meanwhile, or `wait` has no more patience.
fn find_while(
    mut wait: impl FnMut() -> bool,
    file: &File,
    path: &Path,
    query: Query,
) -> Option<Vec<u8>> {
    // SQLite names journals after the file that a link leads to.
    if !path.symlink_metadata().ok()?.is_file() {
        return None;
    }
    let (journal, log) = (beside(path, "-journal"), beside(path, "-wal"));
    loop {
        let header = Header::read(file)?;
        // Such a log lasts for as long as the engine runs.
        if header.may_have_log() && size(&log) > 0 {
            return None;
        }
        // Whoever writes has a journal before, and has moved the header's change counter when it is
        // gone (§ 1.3.6, § 3).
        if !is_in_use(&journal) {
            let found = Database::new(file, &header)?.find(query);
            if !is_in_use(&journal) && Header::read(file)? == header {
                return found;
            }
        }
        if !wait() {
            return None;
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// How large a journal is; 0 if there is none, `u64::MAX` for what cannot be one.
fn size(journal: &Path) -> u64 {
    match journal.symlink_metadata() {
        Ok(found) if found.is_file() => found.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        _ => u64::MAX,
    }
}

/// Whether pages may have been written that this rollback journal is to restore. Its count of pages
/// (§ 3) stays zero until they are on the disk.
fn is_in_use(journal: &Path) -> bool {
    let mut start = [0; 12];
    let is_begun = |file: File| file.read_exact_at(&mut start, 0).is_ok() && start[8..] == [0; 4];
    match size(journal) {
        0 => false,
        u64::MAX => true,
        _ => !File::open(journal).is_ok_and(is_begun),
    }
}

/// The database header (§ 1.3).
#[derive(PartialEq)]
struct Header([u8; Self::LENGTH]);

impl Header {
    const LENGTH: usize = 100;

    fn read(file: &File) -> Option<Self> {
        let mut header = [0; Self::LENGTH];
        file.read_exact_at(&mut header, 0).ok()?;
        Some(Self(header))
    }

    /// Whether it says what we know: the format, the versions to write and to read it, what part of
    /// a page a payload may take, and UTF-8.
    fn is_understood(&self) -> bool {
        self.0.starts_with(b"SQLite format 3\0")
            && self.0[18..20].iter().all(|version| [1, 2].contains(version))
            && self.0[21..24] == [64, 32, 32]
            && self.0[56..60] == [0, 0, 0, 1]
    }

    /// Whether what is written goes into a write-ahead log first (§ 4).
    fn may_have_log(&self) -> bool {
        self.0[18..20].contains(&2)
    }

    fn page_size(&self) -> usize {
        match u16::from_be_bytes([self.0[16], self.0[17]]) {
            1 => 65536,
            size => size.into(),
        }
    }

    /// How much of each page is not for the database, but for extensions of SQLite.
    fn reserved(&self) -> usize {
        self.0[20].into()
    }
}

/// A database that is being looked through.
struct Database<'a> {
    file: &'a File,
    page_size: usize,
    /// What of each page is used; at least 480 bytes.
    usable: usize,
    /// How many more bytes may be looked at, however the pages refer to each other.
    budget: usize,
}

/// Where a value is.
#[derive(Default)]
struct Place {
    /// The root page of the table.
    table: Option<u32>,
    /// The root page of the index of its primary key.
    index: Option<u32>,
    /// The position of the column.
    column: Option<usize>,
}

impl<'a> Database<'a> {
    /// A container takes some ten kilobytes in Podman's. But what an image brings is in it too, of
    /// which engines take 4 MiB, and a byte of that may become six: no image must be able to hide
    /// what the user has said. Counted are a value and the pages that it is on.
    const BUDGET: usize = 64 * 1024 * 1024;

    fn new(file: &'a File, header: &Header) -> Option<Self> {
        let page_size = header.page_size();
        let usable = page_size.checked_sub(header.reserved())?;
        // "The usable size is not allowed to be less than 480" (§ 1.3.4).
        let is_possible = page_size.is_power_of_two() && page_size >= 512 && usable >= 480;
        let database = Self { file, page_size, usable, budget: Self::BUDGET };
        (is_possible && header.is_understood()).then_some(database)
    }

    fn find(&mut self, query: Query) -> Option<Vec<u8>> {
        let place = self.place(query.table, query.column)?;
        let rowid = self.rowid(place.index?, query.key.as_bytes())?;
        let row = self.row(place.table?, rowid)?;
        // Whatever the index is of, the row says whose it is.
        let is_wanted = row.text(0)? == query.key.as_bytes();
        is_wanted.then_some(row.text_or_blob(place.column?)?.to_vec())
    }

    /// Looks all through the schema (§ 2.6), a table whose root is page 1; its columns are type,
    /// name, name of the table, root page, SQL.
    fn place(&mut self, table: &str, column: &str) -> Option<Place> {
        let index = format!("sqlite_autoindex_{table}_1");
        let (mut place, mut pages) = (Place::default(), vec![1]);
        while let Some(number) = pages.pop() {
            let page = self.page(number).filter(|page| page.is_of_table)?;
            pages.extend(page.last_child);
            for cell in page.cells() {
                let cell = cell?;
                if cell.child.is_some() {
                    pages.extend(cell.child);
                    continue;
                }
                let entry = self.record(&page, &cell)?;
                match (entry.text(0)?, entry.text(1)?) {
                    (b"table", name) if name == table.as_bytes() => {
                        place.table = u32::try_from(entry.integer(3)?).ok();
                        place.column = position(column, entry.text(4)?);
                    }
                    (b"index", name) if name == index.as_bytes() => {
                        place.index = u32::try_from(entry.integer(3)?).ok();
                    }
                    _ => {}
                }
            }
        }
        Some(place)
    }

    /// The row that has `key`, by the index whose root is page `number`.
    fn rowid(&mut self, mut number: u32, key: &[u8]) -> Option<i64> {
        loop {
            let page = self.page(number).filter(|page| !page.is_of_table)?;
            let mut next = page.last_child;
            for cell in page.cells() {
                let cell = cell?;
                let entry = self.record(&page, &cell)?;
                match entry.text(0)?.cmp(key) {
                    Ordering::Less => {}
                    Ordering::Equal => return entry.integer(1),
                    Ordering::Greater => {
                        next = cell.child;
                        break;
                    }
                }
            }
            number = next?;
        }
    }

    /// A row of the table whose root is page `number`.
    fn row(&mut self, mut number: u32, rowid: i64) -> Option<Record> {
        loop {
            let page = self.page(number).filter(|page| page.is_of_table)?;
            let mut next = page.last_child;
            for cell in page.cells() {
                let cell = cell?;
                if cell.rowid == rowid && cell.child.is_none() {
                    return self.record(&page, &cell);
                }
                if cell.rowid >= rowid {
                    next = cell.child;
                    break;
                }
            }
            number = next?;
        }
    }

    /// What is used of page `number`, counted from 1.
    fn read(&mut self, number: u32) -> Option<Vec<u8>> {
        self.budget = self.budget.checked_sub(self.page_size)?;
        let mut bytes = vec![0; self.usable];
        let offset = u64::from(number.checked_sub(1)?) * self.page_size as u64;
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// Page `number` of a b-tree.
    fn page(&mut self, number: u32) -> Option<Page> {
        let start = if number == 1 { Header::LENGTH } else { 0 };
        Page::parse(self.read(number)?, start)
    }

    /// The whole content of a leaf's or an index's cell.
    fn record(&mut self, page: &Page, cell: &Cell) -> Option<Record> {
        const SMALLEST: usize = 16; // so that a page full of empty cells costs something too
        let length = usize::try_from(cell.length).ok()?;
        self.budget = self.budget.checked_sub(length.max(SMALLEST))?;
        let here = self.length_on_page(page, length);
        let (content, rest) = cell.content.split_at_checked(here)?;
        let (mut content, mut next) = (content.to_vec(), rest.first_chunk().copied());
        // The rest is on a chain of pages, each of which begins with the number of the next (§ 1.7).
        while content.len() < length {
            let page = self.read(u32::from_be_bytes(next?))?;
            next = page.first_chunk().copied();
            content.extend(page[4..].iter().take(length - content.len()));
        }
        Some(Record(content))
    }

    /// How much of a content of `length` bytes is on the `page` itself (§ 1.6: X, M and K there).
    fn length_on_page(&self, page: &Page, length: usize) -> usize {
        let share = |part| (self.usable - 12) * part / 255 - 23;
        let (most, least) =
            (if page.is_of_table { self.usable - 35 } else { share(64) }, share(32));
        if length <= most {
            return length;
        }
        // So the last page of the chain is full.
        let fitting = least + (length - least) % (self.usable - 4);
        if fitting <= most { fitting } else { least }
    }
}

/// A page of a b-tree (§ 1.6).
struct Page {
    bytes: Vec<u8>,
    /// Where in it the offsets of the cells are.
    offsets: Range<usize>,
    /// Of the tree of a table, or else of an index.
    is_of_table: bool,
    /// What is behind the last cell. A leaf has no children.
    last_child: Option<u32>,
}

/// A cell on a page of a b-tree (§ 1.6).
struct Cell<'a> {
    /// What is before it. A leaf's cell has no child.
    child: Option<u32>,
    /// Of a table.
    rowid: i64,
    /// How long its content is; without one, 0.
    length: u64,
    /// As much of the content as is on the page, or more.
    content: &'a [u8],
}

impl Page {
    fn parse(bytes: Vec<u8>, start: usize) -> Option<Self> {
        let mut header = bytes.get(start..)?;
        let (is_of_table, is_leaf) = match take(&mut header, 1)? {
            [2] => (false, false),
            [5] => (true, false),
            [10] => (false, true),
            [13] => (true, true),
            _ => return None,
        };
        let [_, _, high, low, ..] = *take(&mut header, 7)? else { return None };
        let last_child = if is_leaf { None } else { Some(take_u32(&mut header)?) };
        let first = bytes.len() - header.len();
        let offsets = first..first + 2 * usize::from(u16::from_be_bytes([high, low]));
        Some(Self { bytes, offsets, is_of_table, last_child })
    }

    /// The cells, in the order of their keys; `None` for one that cannot be.
    fn cells(&self) -> impl Iterator<Item = Option<Cell<'_>>> {
        self.offsets.clone().step_by(2).map(|at| {
            let offset = self.bytes.get(at..at + 2)?.try_into().ok()?;
            self.cell(self.bytes.get(usize::from(u16::from_be_bytes(offset))..)?)
        })
    }

    fn cell<'a>(&self, mut bytes: &'a [u8]) -> Option<Cell<'a>> {
        let child = if self.last_child.is_some() { Some(take_u32(&mut bytes)?) } else { None };
        let has_content = !self.is_of_table || child.is_none();
        let length = if has_content { take_varint(&mut bytes)? } else { 0 };
        let rowid = if self.is_of_table { take_varint(&mut bytes)?.cast_signed() } else { 0 };
        Some(Cell { child, rowid, length, content: bytes })
    }
}

/// A row, or an entry of an index (§ 2.1).
struct Record(Vec<u8>);

impl Record {
    /// The serial type and the bytes of a column.
    fn column(&self, position: usize) -> Option<(u64, &[u8])> {
        let mut bytes = self.0.as_slice();
        let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
        let (header, mut values) = self.0.split_at_checked(length)?;
        let mut types = header.get(self.0.len() - bytes.len()..)?;
        for _ in 0..position {
            let length = value_length(take_varint(&mut types)?)?;
            take(&mut values, length)?;
        }
        let serial_type = take_varint(&mut types)?;
        Some((serial_type, take(&mut values, value_length(serial_type)?)?))
    }

    fn text_or_blob(&self, position: usize) -> Option<&[u8]> {
        self.column(position).filter(|(serial_type, _)| *serial_type >= 12).map(|(_, bytes)| bytes)
    }

    fn text(&self, position: usize) -> Option<&[u8]> {
        let is_text = self.column(position)?.0 % 2 == 1;
        self.text_or_blob(position).filter(|_| is_text)
    }

    fn integer(&self, position: usize) -> Option<i64> {
        let (serial_type, bytes) = self.column(position)?;
        let sign = bytes.first().map_or(0, |byte| i64::from(byte.cast_signed() >> 7));
        match serial_type {
            1..=6 => Some(bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte))),
            8 => Some(0),
            9 => Some(1),
            _ => None,
        }
    }
}

/// How many bytes a value of this serial type has.
fn value_length(serial_type: u64) -> Option<usize> {
    Some(match serial_type {
        0 | 8 | 9 => 0,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return None, // reserved
        1..=4 => usize::try_from(serial_type).ok()?,
        _ => usize::try_from((serial_type - 12) / 2).ok()?,
    })
}

/// The position of `column` in a table that `sql` makes. `None` too if another column before it has
/// brackets: then it may have no place in the rows.
fn position(column: &str, sql: &[u8]) -> Option<usize> {
    let (_, columns) = str::from_utf8(sql).ok()?.split_once('(')?;
    let mut plain = columns.split(',').take_while(|definition| !definition.contains('('));
    plain.position(|definition| definition.split_whitespace().next() == Some(column))
}

/// Takes the first `count` of `bytes`.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    bytes.split_off(..count)
}

/// Takes a number of four bytes.
fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(take(bytes, 4)?.try_into().ok()?))
}

/// Takes a number of up to nine bytes: seven bits of each, the highest first; of a ninth, all eight
/// (§ 1.6).
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for _ in 0..8 {
        let byte = *bytes.split_off_first()?;
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some(value);
        }
    }
    Some(value << 8 | u64::from(*bytes.split_off_first()?))
}

#[cfg(test)]
mod tests;
