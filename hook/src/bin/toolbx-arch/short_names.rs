//! Image names without a registry, as Podman understands them: containers-registries.conf(5).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    aliases: BTreeMap<String, String>,
}

/// The full name of an image; `None` where `name` is one. Fails where nothing says which registry is
/// meant.
pub fn full(name: &str) -> Result<Option<String>> {
    full_by(name, &files(Path::new("/etc/containers")))
}

fn full_by(name: &str, files: &[PathBuf]) -> Result<Option<String>> {
    let first = name.split('/').next().unwrap_or_default();
    if name.contains('/') && (first.contains(['.', ':']) || first == "localhost") {
        return Ok(None);
    }
    let (mut alias, mut registries) = (None, Vec::new());
    for file in files {
        let content = read(file)?;
        alias = content.aliases.get(name).cloned().or(alias);
        registries = content.unqualified_search_registries.unwrap_or(registries);
    }
    match (alias, registries.first()) {
        (Some(alias), _) => Ok(Some(alias)),
        (None, Some(registry)) if name.contains('/') || registry != "docker.io" => {
            Ok(Some(format!("{registry}/{name}")))
        }
        (None, Some(registry)) => Ok(Some(format!("{registry}/library/{name}"))),
        (None, None) => bail!(
            "{name} names no registry, and no alias or search registry of containers-registries.conf(5) \
             does; write it in full, for example docker.io/library/{name}"
        ),
    }
}

/// The configuration, in the order in which it is read.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join("registries.conf.d"));
    let mut drop_ins: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    drop_ins.sort();
    std::iter::once(directory.join("registries.conf")).chain(drop_ins).collect()
}

fn read(file: &Path) -> Result<File> {
    match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(File::default()),
        text => toml::from_str(&text.with_context(|| format!("read {}", file.display()))?)
            .with_context(|| format!("understand {}", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_get_a_registry() {
        let directory =
            std::env::temp_dir().join(format!("toolbx-arch-names-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("registries.conf");
        std::fs::write(
            &file,
            "unqualified-search-registries = [\"docker.io\"]\n[aliases]\nfedora = \"quay.io/fedora/fedora\"\n",
        )
        .unwrap();
        let files = [file];
        for (name, expected) in [
            ("x.org/a", None),
            ("localhost/a", None),
            ("h:5000/a", None),
            ("fedora", Some("quay.io/fedora/fedora")),
            ("debian", Some("docker.io/library/debian")),
            ("ann/debian", Some("docker.io/ann/debian")),
        ] {
            assert_eq!(full_by(name, &files).unwrap().as_deref(), expected, "{name}");
        }
        let error = full_by("debian", &[]).unwrap_err().to_string();
        assert!(error.contains("docker.io/library/debian"), "{error}");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
