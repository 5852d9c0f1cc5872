//! The label that Toolbx gives its containers. Engines pass no label on to hooks, so it is read where
//! Podman and containers/storage have written it down; without calling Podman, or waiting for its
//! locks.
//!
//! Whatever is missing, not as expected, too large, or what others could have written counts as no
//! label.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::arch::Arch;
use crate::asked::annotations;
use crate::asked::sqlite::{self, Query};
use crate::host::trust::Host;

/// Larger files of the storage are not read: that would take more time than there is.
const FILE_MAX: u64 = 16 * 1024 * 1024;
/// As much as the configurations of most images have, so that few calls read them, and no more: see
/// [`crate::asked::oci`].
const FILE_USUAL: usize = 2 * 1024;

/// How the log calls the label of a container, and of an image.
pub const OF_CONTAINER: &str = "toolbox-arch label";
/// See [`OF_CONTAINER`].
pub const OF_IMAGE: &str = "toolbox-arch label of the image";

/// A label `toolbox-arch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Whose it is, as the log calls it.
    pub source: &'static str,
    /// Its value.
    pub value: String,
}

impl Label {
    /// The architectures that it names. `None` where it cannot be understood: it may be meant for somebody
    /// else.
    #[must_use]
    pub fn named(&self) -> Option<Vec<&'static Arch>> {
        annotations::parse(self.source, &self.value).ok()
    }
}

/// The label of the container whose bundle, on `host`, is `bundle`, or else of its image. `None` also where
/// another engine than Podman or Buildah made the bundle.
#[must_use]
pub fn find(bundle: &Path, host: &Host) -> Option<Label> {
    find_by(&trusted(host), bundle)
}

fn find_by(open: &Open, bundle: &Path) -> Option<Label> {
    let place = Place::of(open, bundle)?;
    let label = |source, labels: Option<Labels>| Some(Label { source, value: labels?.arch? });
    let of_container = || label(OF_CONTAINER, place.container()?.labels);
    let of_image = || label(OF_IMAGE, place.image()?.config?.labels);
    of_container().or_else(of_image)
}

/// A file that nobody but the caller could have written.
fn trusted(host: &Host) -> impl Fn(&Path) -> Option<File> {
    |path| host.open(path, &[]).ok()?
}

/// Opens a file, if it is there and its content is to be believed.
type Open<'a> = dyn Fn(&Path) -> Option<File> + 'a;

/// The bundle that Podman makes for the container `id` whose root directory is `root`.
#[must_use]
pub fn bundle_of(id: &str, root: &Path) -> Option<PathBuf> {
    // GRAPHROOT/DRIVER/LAYER/merged, or the like.
    let driver = root.ancestors().nth(2)?;
    let containers = format!("{}-containers", driver.file_name()?.to_str()?);
    Some(driver.with_file_name(containers).join(id).join("userdata"))
}

/// Where containers/storage keeps a container.
struct Place<'a> {
    open: &'a Open<'a>,
    /// `graphroot` in storage.conf.
    graph_root: &'a Path,
    /// The storage driver, for example `overlay`.
    driver: &'a str,
    /// The container.
    id: &'a str,
}

#[derive(Debug, Deserialize)]
struct Labels {
    #[serde(rename = "toolbox-arch")]
    arch: Option<String>,
}

/// What Podman's database says of a container (`libpod/container_config.go`).
#[derive(Debug, Deserialize)]
struct Container {
    labels: Option<Labels>,
}

/// A container in the files of containers/storage.
#[derive(Debug, Deserialize)]
struct Record {
    id: String,
    image: Option<String>,
}

/// An image configuration (OCI image specification).
#[derive(Debug, Deserialize)]
struct Image {
    config: Option<ImageConfig>,
}

#[derive(Debug, Deserialize)]
struct ImageConfig {
    #[serde(rename = "Labels")]
    labels: Option<Labels>,
}

impl<'a> Place<'a> {
    /// By GRAPHROOT/DRIVER-containers/ID/userdata.
    fn of(open: &'a Open<'a>, bundle: &'a Path) -> Option<Self> {
        let directory = bundle.parent()?;
        let containers = directory.parent()?;
        Some(Self {
            open,
            graph_root: containers.parent()?,
            driver: containers.file_name()?.to_str()?.strip_suffix("-containers")?,
            id: directory.file_name()?.to_str()?,
        })
    }

    /// From Podman's database, where that is SQLite (Podman 4.8 and later, unless told otherwise;
    /// `libpod/sqlite_state_internal.go`). Podman adds the labels of the image there.
    fn container(&self) -> Option<Container> {
        let path = self.graph_root.join("db.sql");
        let file = (self.open)(&path)?;
        let query = Query { table: "ContainerConfig", key: self.id, column: "JSON" };
        serde_json::from_slice(&sqlite::find(&file, &path, query)?).ok()
    }

    /// The configuration of its image, from the files of containers/storage.
    fn image(&self) -> Option<Image> {
        let containers = self.graph_root.join(format!("{}-containers", self.driver));
        let image = ["containers.json", "volatile-containers.json"]
            .iter()
            .filter_map(|name| self.read(&containers.join(name)))
            .flat_map(|records: Vec<Record>| records)
            .find(|record| record.id == self.id)?
            .image
            .filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let directory = self.graph_root.join(format!("{}-images", self.driver)).join(&image);
        // Most images have the digest of their configuration for an id (`computeID` in containers/image;
        // not those of the first schema, and of zstd:chunked). For others one is looked for.
        let named = directory.join(big_data_name(&format!("sha256:{image}")));
        let file = (self.open)(&named).or_else(|| (self.open)(&some_configuration(&directory)?))?;
        parsed(file)
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Option<T> {
        parsed((self.open)(path)?)
    }
}

fn parsed<T: DeserializeOwned>(file: File) -> Option<T> {
    let mut text = Vec::with_capacity(FILE_USUAL);
    let length = file.take(FILE_MAX + 1).read_to_end(&mut text).ok()?;
    if length as u64 > FILE_MAX {
        return None;
    }
    serde_json::from_slice(&text).ok()
}

/// The file of an image's big data item `key` in containers/storage. A key with anything but a-z, 0-9 and
/// dots in it, such as a digest, is in base64 there (`makeBigDataBaseName` in its `store.go`).
fn big_data_name(key: &str) -> String {
    format!("={}", base64(key.as_bytes()))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let four_of = |three: &[u8]| {
        let byte = |i: usize| u32::from(*three.get(i).unwrap_or(&0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        let digit = |i: usize| char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63]);
        [0, 1, 2, 3].map(|i| if i <= three.len() { digit(i) } else { '=' })
    };
    bytes.chunks(3).flat_map(four_of).collect()
}

/// A configuration in an image's directory, if there is one.
fn some_configuration(directory: &Path) -> Option<PathBuf> {
    // The beginning of "sha256:" in base64.
    const CONFIG: &[u8] = b"=c2hhMjU2O";
    let mut files = std::fs::read_dir(directory).ok()?.flatten();
    let file = files.find(|file| file.file_name().as_encoded_bytes().starts_with(CONFIG))?;
    Some(file.path())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    const ID: &str = "c0";

    /// A graph root that goes away with it.
    struct GraphRoot(PathBuf);

    impl GraphRoot {
        fn new(name: &str) -> Self {
            let name = format!("toolbx-arch labels%#?ü-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(path.join("overlay-containers")).unwrap();
            std::fs::create_dir_all(path.join("overlay-images/1f")).unwrap();
            Self(path)
        }

        fn put(&self, path: &str, text: &str) -> &Self {
            std::fs::write(self.0.join(path), text).unwrap();
            self
        }

        fn with_image(&self, label: &str) -> &Self {
            self.put(
                "overlay-containers/containers.json",
                r#"[{"id":"c1"},{"id":"c0","image":"1f"}]"#,
            )
            .put("overlay-images/1f/=bWFuaWZlc3Q=", "[]")
            .put(
                "overlay-images/1f/=c2hhMjU2OjFm",
                &format!(
                    r#"{{"architecture":"amd64","config":{{"Labels":{{"toolbox-arch":{label}}}}}}}"#
                ),
            )
        }

        /// Puts the row of the container into a database.
        fn with_database(&self, json: &str) -> &Self {
            const SCRIPT: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute('CREATE TABLE IF NOT EXISTS ContainerConfig(ID TEXT PRIMARY KEY, JSON TEXT)')
db.execute('REPLACE INTO ContainerConfig VALUES (?, ?)', (sys.argv[2], sys.argv[3].encode()))
db.commit()
";
            let mut python = Command::new("python3");
            python.args(["-c", SCRIPT]).arg(self.0.join("db.sql")).args([ID, json]);
            assert!(python.status().unwrap().success());
            self
        }

        fn find(&self) -> Option<String> {
            self.find_by(&|path| File::open(path).ok()).map(|label| label.value)
        }

        fn find_by(&self, open: &Open) -> Option<Label> {
            find_by(open, &bundle_of(ID, &self.0.join("overlay/layer/merged")).unwrap())
        }
    }

    impl Drop for GraphRoot {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn of_the_image() {
        let root = GraphRoot::new("image");
        assert_eq!(root.find(), None);
        assert_eq!(root.with_image(r#""arm64""#).find().unwrap(), "arm64");
    }

    #[test]
    fn of_the_image_among_other_digests() {
        let root = GraphRoot::new("digests");
        let file = |digest: &str| format!("overlay-images/1f/{}", big_data_name(digest));
        for other in 0..9 {
            root.put(&file(&format!("sha256:{other}")), "{}");
        }
        assert_eq!(root.with_image(r#""arm64""#).find().unwrap(), "arm64");
    }

    #[test]
    fn of_an_image_whose_id_is_another_digest() {
        let root = GraphRoot::new("another");
        let file = |digest| root.0.join("overlay-images/1f").join(big_data_name(digest));
        root.with_image(r#""arm64""#);
        std::fs::rename(file("sha256:1f"), file("sha256:2f")).unwrap();
        assert_eq!(root.find().unwrap(), "arm64");
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        // Section 10.
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xf0]), "+/A=");
    }

    #[test]
    fn of_the_container_and_else_of_the_image() {
        let root = GraphRoot::new("both");
        root.with_image(r#""arm64""#);
        for (json, value, source) in [
            (
                r#"{"labels":{"a":"b","toolbox-arch":"s390x"},"new":1}"#,
                "s390x",
                "toolbox-arch label",
            ),
            (r#"{"labels":{"toolbox-arch":""}}"#, "", "toolbox-arch label"),
            (r#"{"labels":{"a":"b"}}"#, "arm64", "toolbox-arch label of the image"),
            (r#"{"labels":{"toolbox-arch":7}}"#, "arm64", "toolbox-arch label of the image"),
            (r#"{"labels":null}"#, "arm64", "toolbox-arch label of the image"),
            ("{}", "arm64", "toolbox-arch label of the image"),
            ("", "arm64", "toolbox-arch label of the image"),
        ] {
            let label = root.with_database(json).find_by(&|path| File::open(path).ok()).unwrap();
            assert_eq!((label.value.as_str(), label.source), (value, source), "{json}");
        }
        root.put("db.sql", "no database");
        assert_eq!(root.find().unwrap(), "arm64");
    }

    #[test]
    fn surprises_are_no_label() {
        let root = GraphRoot::new("surprises");
        assert_eq!(root.with_image("7").find(), None);
        for text in [
            "",
            "{}",
            "[7]",
            "[[]]",
            r#"[{"id":"c0"}]"#,
            r#"[{"id":"c0","image":""}]"#,
            r#"[{"id":"c0","image":"../x"}]"#,
            r#"[{"id":"c0","image":"2f"}]"#,
            "[{",
        ] {
            root.put("overlay-containers/containers.json", text);
            assert_eq!(root.find(), None, "{text}");
        }
        let huge = format!(r#"[{{"id":"c0","image":"1f","x":"{}"}}]"#, "y".repeat(100 << 20));
        root.put("overlay-containers/containers.json", &huge);
        let start = std::time::Instant::now();
        assert_eq!(root.find(), None);
        assert!(start.elapsed().as_secs() < 2);
        let host = Host::current().unwrap();
        for bundle in ["/", "/run/bundle", "/a/b-containers", "relative"] {
            assert_eq!(find(Path::new(bundle), &host), None, "{bundle}");
        }
        // What others can write, as below the parents of a --rootfs.
        root.put("overlay-containers/containers.json", "[]").with_image(r#""arm64""#);
        assert_eq!(root.find().unwrap(), "arm64");
        root.with_database(r#"{"labels":{"toolbox-arch":"s390x"}}"#);
        assert_eq!(root.find().unwrap(), "s390x");
        std::fs::set_permissions(&root.0, Permissions::from_mode(0o777)).unwrap();
        assert_eq!(root.find_by(&trusted(&host)), None);
    }
}
