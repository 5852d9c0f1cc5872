//! Configuration files: reading those of a directory, and writing one.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use toolbx_arch::base::message::Call;

/// `*.conf` in a directory, in the order of their names; none, if there is no such directory.
pub fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.call(|| format!("read {}", directory.display()))?,
    };
    let is_conf = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "conf");
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_conf).collect();
    files.sort();
    Ok(files)
}

/// What a TOML file says, if there is one.
pub fn read_toml<T: DeserializeOwned>(file: &Path) -> Result<Option<T>> {
    match std::fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => {
            let text = text.call(|| format!("read {}", file.display()))?;
            let content = toml::from_str(&text);
            content.map(Some).with_context(|| format!("understand {}", file.display()))
        }
    }
}

/// Writes a file so that readers see the old one or the new one, and nothing in between; of several
/// who write it at once, one after the other.
pub fn write(file: &Path, text: &str) -> Result<()> {
    let directory = file.parent().context("a file without a directory")?;
    std::fs::create_dir_all(directory).call(|| format!("mkdir {}", directory.display()))?;
    // No engine reads a file of that name, and no other process has it.
    let new = file.with_extension(format!("new-{}", std::process::id()));
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| std::fs::rename(&new, file));
    if renamed.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    renamed.call(|| format!("write {}", file.display()))
}
