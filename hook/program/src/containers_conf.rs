//! Podman's configuration, as far as it says where hooks are: containers.conf(5).

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;

use crate::files;

/// Where Podman looks for hooks if nobody says otherwise, for root and for everybody.
pub const DEFAULT_HOOKS: &str = "/usr/share/containers/oci/hooks.d";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainersConf {
    engine: EngineTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EngineTable {
    /// Directories; in newer versions also a table, which says whether to append.
    hooks_dir: Option<Vec<toml::Value>>,
}

/// A file that names directories of hooks.
#[derive(Debug, PartialEq, Eq)]
pub struct Naming {
    pub file: PathBuf,
    pub directories: Vec<PathBuf>,
    /// Whether they come in addition to those of the files before.
    pub appends: bool,
}

/// What files name directories of hooks, in the order in which they are read. `user` is where an
/// ordinary user's configuration is; `root` is / but in tests; the file `except` is left out. Fails
/// where a file cannot be read or understood: then Podman would fail too.
pub fn namings(root: &Path, user: Option<&Path>, except: Option<&Path>) -> Result<Vec<Naming>> {
    let instead = std::env::var_os("CONTAINERS_CONF").filter(|file| !file.is_empty());
    let files = match instead {
        Some(file) => vec![file.into()],
        None => usual_files(root, user)?,
    };
    let files = files.into_iter().filter(|file| Some(file.as_path()) != except);
    files.filter_map(|file| naming(file).transpose()).collect()
}

fn usual_files(root: &Path, user: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut files = vec![root.join("usr/share/containers/containers.conf")];
    let user = user.map(|user| user.join("containers"));
    for directory in [root.join("etc/containers")].into_iter().chain(user) {
        files.push(directory.join("containers.conf"));
        files.extend(files::drop_ins(&directory.join("containers.conf.d"))?);
    }
    Ok(files)
}

/// Where Podman looks for hooks, given these.
pub fn hook_directories(namings: &[Naming]) -> Vec<PathBuf> {
    namings.iter().fold(vec![DEFAULT_HOOKS.into()], |before, naming| {
        let before = if naming.appends { before } else { Vec::new() };
        before.into_iter().chain(naming.directories.iter().cloned()).collect()
    })
}

fn naming(file: PathBuf) -> Result<Option<Naming>> {
    let content: ContainersConf = files::read_toml(&file)?.unwrap_or_default();
    Ok(content.engine.hooks_dir.map(|values| Naming {
        directories: values.iter().filter_map(|value| Some(value.as_str()?.into())).collect(),
        appends: values
            .iter()
            .any(|value| value.get("append").and_then(toml::Value::as_bool) == Some(true)),
        file,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &Path, text: &str) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    #[test]
    fn a_later_file_comes_in_place_of_those_before() {
        let root = std::env::temp_dir().join(format!("toolbx-arch-conf-{}", std::process::id()));
        let (etc, user) = (root.join("etc/containers"), root.join("home/.config"));
        let directories = |user| hook_directories(&namings(&root, user, None).unwrap());
        assert_eq!(directories(None), [PathBuf::from(DEFAULT_HOOKS)]);
        write(
            &etc.join("containers.conf"),
            "# a comment\n[engine] # another\nhooks_dir = [\"/a\"]\n",
        );
        write(&etc.join("containers.conf.d/x.conf"), "[containers]\npids_limit = 1\n");
        write(&etc.join("containers.conf.d/y.other"), "no TOML");
        assert_eq!(directories(None), [PathBuf::from("/a")]);
        write(
            &etc.join("containers.conf.d/z.conf"),
            "[engine]\nhooks_dir = [\"/b\", {append = true}]\n",
        );
        assert_eq!(directories(None), ["/a", "/b"].map(PathBuf::from));
        write(&user.join("containers/containers.conf"), "engine.hooks_dir = []\n");
        assert!(directories(Some(&user)).is_empty());
        write(&etc.join("containers.conf.d/w.conf"), "[engine\n");
        let error = format!("{:#}", namings(&root, None, None).unwrap_err());
        assert!(error.contains("w.conf"), "{error}");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
