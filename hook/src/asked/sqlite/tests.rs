//! With databases that SQLite itself makes, by Python.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::*;

/// Makes the table as Podman does, after a PRAGMA.
const SCHEMA: &str = "
db.execute('PRAGMA ' + sys.argv[2])
db.executescript('''
    BEGIN;
    CREATE TABLE IF NOT EXISTS IDNamespace(
            ID TEXT PRIMARY KEY NOT NULL
    );
    CREATE TABLE IF NOT EXISTS ContainerConfig(
            ID              TEXT    PRIMARY KEY NOT NULL,
            Name            TEXT    UNIQUE NOT NULL,
            PodID           TEXT,
            JSON            TEXT    NOT NULL,
            FOREIGN KEY (ID)    REFERENCES IDNamespace(ID)    DEFERRABLE INITIALLY DEFERRED,
            FOREIGN KEY (PodID) REFERENCES PodConfig(ID)
    );
    COMMIT;
''')
";

/// Opens the database; `insert` makes a row.
const OPEN: &str = "
import select, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
def insert(id, json):
    db.execute('INSERT INTO ContainerConfig VALUES (?, ?, NULL, ?)', (id, 'name of ' + id, json))
def wait():
    print('ready', flush=True)
    sys.stdin.read()
";

/// A database, in a directory that goes away with it.
struct Database(PathBuf);

impl Database {
    /// What `script` makes of it.
    fn new(name: &str, pragma: &str, script: &str) -> Self {
        let name = format!("toolbx-arch sqlite {name} {}", std::process::id());
        let database = Self(std::env::temp_dir().join(name));
        let _ = std::fs::remove_dir_all(&database.0);
        std::fs::create_dir_all(&database.0).unwrap();
        let script = [OPEN, SCHEMA, script].concat();
        assert!(database.python(&script).arg(pragma).status().unwrap().success());
        database
    }

    fn path(&self) -> PathBuf {
        self.0.join("db.sql")
    }

    fn journal(&self) -> PathBuf {
        self.0.join("db.sql-journal")
    }

    fn python(&self, script: &str) -> Command {
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(self.path());
        python
    }

    /// Starts `script` in another process, and returns when that waits.
    fn start(&self, script: &str) -> Running {
        let mut python = self.python(&[OPEN, script].concat());
        let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Running(child)
    }

    fn find(&self, key: &str) -> Option<Vec<u8>> {
        self.find_of("ContainerConfig", key, "JSON")
    }

    fn find_of(&self, table: &str, key: &str, column: &str) -> Option<Vec<u8>> {
        let file = File::open(self.path()).unwrap();
        let start = Instant::now();
        let found = find(&file, &self.path(), Query { table, key, column });
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        found
    }

    /// Makes it these bytes.
    fn put(&self, bytes: &[u8]) -> &Self {
        std::fs::write(self.path(), bytes).unwrap();
        self
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Another process that has the database open.
struct Running(Child);

impl Running {
    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

/// Four hundred rows that are left of six hundred; some far longer than a page, half of them BLOBs.
const MANY: &str = "
db.execute('BEGIN')
for i in range(600):
    n = i * 7919 % 600
    json = '%d:' % n + 'x' * (n * n * 37 % 3000 * (41 if n % 50 == 0 else 1))
    insert('%064x' % n, json if n % 2 else json.encode())
for n in range(0, 600, 3):
    db.execute('DELETE FROM ContainerConfig WHERE ID = ?', ('%064x' % n,))
db.execute('COMMIT')
";

/// Row `n` of them.
fn one_of_many(n: usize) -> (String, Vec<u8>) {
    let length = n * n * 37 % 3000 * if n.is_multiple_of(50) { 41 } else { 1 };
    (format!("{n:064x}"), format!("{n}:{}", "x".repeat(length)).into_bytes())
}

#[test]
fn every_row_of_many() {
    for pragma in [
        "page_size = 512",
        "page_size = 1024",
        "page_size = 4096",
        "page_size = 16384",
        "page_size = 65536",
        "auto_vacuum = FULL",
    ] {
        let database = Database::new(&format!("many {pragma}"), pragma, MANY);
        for n in 0..600 {
            let (key, json) = one_of_many(n);
            assert!(database.find(&key) == (n % 3 != 0).then_some(json), "{n}, {pragma}");
        }
        for key in ["", "0", "g", &"f".repeat(64), &"0".repeat(5000)] {
            assert_eq!(database.find(key), None, "{key}, {pragma}");
        }
    }
}

#[test]
fn keys_on_overflow_pages() {
    let script = "for n in range(99): insert('%02d' % n + 'k' * n * 30, '%d' % n)";
    let database = Database::new("keys", "page_size = 512", script);
    for n in 0..99 {
        let key = format!("{n:02}{}", "k".repeat(n * 30));
        assert_eq!(database.find(&key).unwrap(), n.to_string().into_bytes());
    }
}

#[test]
fn other_tables_columns_and_types() {
    let script = "
insert('c0', '{}')
insert('', 'of no name')
insert('empty', '')
insert('large', 'x' * 40000000)
insert('fits', 'x' * 25000000)
db.execute('ALTER TABLE ContainerConfig ADD COLUMN New TEXT')
db.executescript('''
    CREATE TABLE Other(ID TEXT PRIMARY KEY, JSON TEXT, New TEXT);
    INSERT INTO Other VALUES ('c0', 'json', 'new');
    CREATE TABLE Number(ID TEXT PRIMARY KEY, JSON);
    INSERT INTO Number VALUES ('c0', 7);
    CREATE TABLE NumberedBy(ID INTEGER PRIMARY KEY, JSON TEXT);
    INSERT INTO NumberedBy VALUES (0, 'json');
    CREATE TABLE NotFirst(Name TEXT UNIQUE, ID TEXT PRIMARY KEY, JSON TEXT);
    INSERT INTO NotFirst VALUES ('name', 'c0', 'json');
    CREATE TABLE Generated(ID TEXT PRIMARY KEY, Name AS (lower(ID)), JSON TEXT);
    INSERT INTO Generated VALUES ('c0', 'json');
    CREATE TABLE NoRowid(ID TEXT PRIMARY KEY, JSON TEXT) WITHOUT ROWID;
    INSERT INTO NoRowid VALUES ('c0', 'json');
    CREATE TABLE NoKey(ID TEXT, JSON TEXT);
    INSERT INTO NoKey VALUES ('c0', 'json');
    CREATE VIEW View AS SELECT ID, JSON FROM ContainerConfig;
''')";
    let database = Database::new("schemas", "page_size = 512", script);
    for (table, key, column, value) in [
        ("ContainerConfig", "c0", "JSON", Some("{}")),
        ("ContainerConfig", "c0", "ID", Some("c0")),
        ("ContainerConfig", "c0", "Name", Some("name of c0")),
        ("ContainerConfig", "c0", "PodID", None),
        ("ContainerConfig", "c0", "json", None),
        ("ContainerConfig", "c0", "New", None),
        ("ContainerConfig", "", "JSON", Some("of no name")),
        ("ContainerConfig", "empty", "JSON", Some("")),
        ("ContainerConfig", "c1", "JSON", None),
        ("ContainerConfig", "large", "JSON", None),
        ("Other", "c0", "JSON", Some("json")),
        ("Number", "c0", "JSON", None),
        ("NumberedBy", "0", "JSON", None),
        ("NotFirst", "c0", "JSON", None),
        ("Generated", "c0", "JSON", None),
        ("NoRowid", "c0", "JSON", None),
        ("NoKey", "c0", "JSON", None),
        ("View", "c0", "JSON", None),
        ("Nothing", "c0", "JSON", None),
    ] {
        let found = database.find_of(table, key, column);
        assert_eq!(found.as_deref(), value.map(str::as_bytes), "{table} {key} {column}");
    }
    // As large as an image can make it.
    let fits = database.find_of("ContainerConfig", "fits", "JSON");
    assert_eq!(fits.map(|value| value.len()), Some(25_000_000));
}

#[test]
fn what_is_no_database_of_ours() {
    let utf16 = Database::new("utf-16", "encoding = 'UTF-16le'", "insert('c0', '{}')");
    assert_eq!(utf16.find("c0"), None);
    let database = Database::new("odd", "page_size = 4096", "insert('c0', '{}')");
    let good = std::fs::read(database.path()).unwrap();
    assert_eq!(database.find("c0").unwrap(), b"{}");
    // Name, page size, versions, reserved, fractions, encoding.
    for (at, byte) in
        [(0, b'T'), (16, 0), (16, 0x11), (17, 1), (18, 3), (19, 0), (20, 255), (21, 63), (59, 2)]
    {
        let mut bytes = good.clone();
        bytes[at] = byte;
        assert_eq!(database.put(&bytes).find("c0"), None, "{at}");
    }
    for text in ["", "no database", "SQLite format 3\0", &"SQLite format 3\0".repeat(999)] {
        assert_eq!(database.put(text.as_bytes()).find("c0"), None, "{text}");
    }
    // A large one.
    let file = File::options().write(true).open(database.put(b"").path()).unwrap();
    file.set_len(100 << 20).unwrap();
    assert_eq!(database.find("c0"), None);
    file.write_all_at(&good, 0).unwrap();
    assert_eq!(database.find("c0").unwrap(), b"{}");
    // A link: its journals would be elsewhere.
    std::fs::rename(database.path(), database.0.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", database.path()).unwrap();
    assert_eq!(database.find("c0"), None);
}

/// A database with interior pages and chains of overflow pages, and its bytes.
fn small(name: &str) -> (Database, Vec<u8>) {
    let script = "for n in range(12): insert('%064x' % n, '%d:' % n + 'x' * n * 60)";
    let database = Database::new(name, "page_size = 512", script);
    let bytes = std::fs::read(database.path()).unwrap();
    assert!(bytes.len() < 20_000);
    (database, bytes)
}

#[test]
fn cut_anywhere() {
    let (database, good) = small("cut");
    let key = format!("{:064x}", 11);
    let whole = database.find(&key).unwrap();
    for length in (0..good.len()).step_by(7) {
        let found = database.put(&good[..length]).find(&key);
        assert!(found.is_none_or(|found| found == whole), "{length}");
    }
}

#[test]
fn any_byte_changed() {
    let (database, good) = small("changed");
    let key = format!("{:064x}", 11);
    let file = File::options().write(true).open(database.path()).unwrap();
    for (at, byte) in good.iter().enumerate() {
        for mask in [0xff, 1] {
            file.write_all_at(&[byte ^ mask], at as u64).unwrap();
            let _ = database.find(&key); // in time, and without a panic
        }
        file.write_all_at(&[*byte], at as u64).unwrap();
    }
    assert!(database.find(&key).is_some());
}

#[test]
fn pages_that_lead_anywhere() {
    let (database, good) = small("cycles");
    let pages = u32::try_from(good.len() / 512).unwrap();
    let file = File::options().write(true).open(database.path()).unwrap();
    for number in 2..=pages {
        // Where a chain's page has the next, and an interior page its last child.
        for at in [0, 8] {
            for target in [0, 1, number, pages / 2, pages, pages + 1, u32::MAX] {
                let at = u64::from(number - 1) * 512 + at;
                file.write_all_at(&target.to_be_bytes(), at).unwrap();
                for key in [0, 5, 11, 99] {
                    let _ = database.find(&format!("{key:064x}"));
                }
            }
            file.write_all_at(&good, 0).unwrap();
        }
    }
}

#[test]
fn a_page_full_of_cells() {
    let (database, good) = small("cells");
    // All cells the same one, in the free part of the header or at the end of a page of 64 KiB, which
    // is its own child.
    for (kind, cell) in [
        (5, &[0, 0, 0, 1, 0][..]),
        (2, &[0, 0, 0, 1, 3, 2, 13, b'a']),
        (13, &[0, 0]),
        (13, &[6, 0, 5, 13, 13, 0, 0, b'a']),
    ] {
        for at in [72, 65536 - cell.len()] {
            let mut page = good[..100].to_vec();
            page[16..18].copy_from_slice(&[0, 1]);
            page.extend([kind, 0, 0, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0, 1]);
            page.extend(u16::try_from(at).unwrap().to_be_bytes().repeat(0x7ff0));
            page.resize(65536, 0);
            page[at..at + cell.len()].copy_from_slice(cell);
            assert_eq!(database.put(&page).find("c0"), None, "{kind} {at}");
        }
    }
}

#[test]
fn a_write_ahead_log() {
    let script = "db.execute('PRAGMA journal_mode = WAL'); insert('c0', 'old')";
    let database = Database::new("wal", "page_size = 4096", script);
    assert_eq!(database.find("c0").unwrap(), b"old");
    let engine =
        database.start("db.execute('UPDATE ContainerConfig SET JSON = ?', ['new']); wait()");
    assert_eq!(database.find("c0"), None);
    engine.end();
    assert_eq!(database.find("c0").unwrap(), b"new");
}

#[test]
fn a_journal() {
    const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let database = Database::new("journal", "page_size = 4096", "insert('c0', '{}')");
    for (count, found) in [(&[0, 0, 0, 0][..], true), (&[], false), (&[0, 0, 0, 1], false)] {
        std::fs::write(database.journal(), [&MAGIC, count].concat()).unwrap();
        assert_eq!(database.find("c0").is_some(), found, "{count:?}");
    }
    std::fs::write(database.journal(), "").unwrap();
    assert!(database.find("c0").is_some());
    std::fs::write(database.journal(), "x").unwrap();
    assert_eq!(database.find("c0"), None);
    std::fs::rename(database.journal(), database.0.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", database.journal()).unwrap();
    assert_eq!(database.find("c0"), None);
    // One that is gone at the second look.
    let wait = || std::fs::remove_file(database.journal()).is_ok();
    let file = File::open(database.path()).unwrap();
    let query = Query { table: "ContainerConfig", key: "c0", column: "JSON" };
    assert_eq!(find_while(wait, &file, &database.path(), query).unwrap(), b"{}");
}

#[test]
fn a_lock_is_not_waited_for() {
    let database = Database::new("locked", "page_size = 4096", MANY);
    let (key, json) = one_of_many(1);
    let engine = database.start("db.execute('BEGIN EXCLUSIVE'); wait()");
    assert_eq!(database.find(&key).unwrap(), json);
    engine.end();
    // With little memory, it writes before the end of the transaction.
    let engine = database.start(
        "
db.execute('PRAGMA cache_size = 1')
db.execute('BEGIN EXCLUSIVE')
db.execute('UPDATE ContainerConfig SET JSON = ?', ['new'])
wait()
db.execute('ROLLBACK')",
    );
    assert!(database.journal().metadata().unwrap().len() > 0);
    assert_eq!(database.find(&key), None);
    engine.end();
    assert_eq!(database.find(&key).unwrap(), json);
}

#[test]
fn what_is_found_while_another_process_writes_is_whole() {
    let database = Database::new("busy", "page_size = 4096", "insert('c0', '0' * 9000)");
    // The row is of one digit only, and moves.
    let engine = database.start(
        "
db.execute('PRAGMA synchronous = OFF')
print('ready', flush=True)
n = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    n = n + 1
    db.execute('BEGIN EXCLUSIVE')
    if n % 2: db.execute('DELETE FROM ContainerConfig WHERE ID != ?', ['c0'])
    else: [insert('c%d' % i, '[]' * i) for i in range(1, 300)]
    db.execute('UPDATE ContainerConfig SET JSON = ?', [str(n % 10) * (9000 + n % 7 * 1000)])
    db.execute('COMMIT')",
    );
    let mut count = 0;
    for found in (0..150).filter_map(|_| database.find("c0")) {
        assert!(found.len() >= 9000 && found.iter().all(|digit| *digit == found[0]));
        count += 1;
    }
    engine.end();
    assert!(count > 0);
}

#[test]
fn numbers() {
    let varint = |bytes: &[u8]| take_varint(&mut &*bytes);
    for (bytes, number) in [
        (&[][..], None),
        (&[0x7f], Some(127)),
        (&[0x81, 0], Some(128)),
        (&[0x81], None),
        (&[0xff; 8], None),
        (&[0xff; 9], Some(u64::MAX)),
    ] {
        assert_eq!(varint(bytes), number, "{bytes:?}");
    }
    for (record, number) in [
        (&[2, 1, 0xff][..], Some(-1)),
        (&[2, 2, 0x80, 0], Some(-32768)),
        (&[2, 5, 0, 1, 0, 0, 0, 0], Some(1 << 32)),
        (&[2, 6, 0x80, 0, 0, 0, 0, 0, 0, 0], Some(i64::MIN)),
        (&[2, 8], Some(0)),
        (&[2, 9], Some(1)),
        (&[], None),
        (&[2], None),
        (&[9, 1], None),
        (&[2, 0], None),
        (&[2, 4, 0], None),
        (&[2, 7, 0, 0, 0, 0, 0, 0, 0, 0], None),
        (&[2, 10], None),
        (&[0xff; 20], None),
    ] {
        assert_eq!(Record(record.to_vec()).integer(0), number, "{record:?}");
    }
}
