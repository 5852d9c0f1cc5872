//! Image names without a registry, as Podman understands them: containers-registries.conf(5).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use serde::Deserialize;

use crate::files;
use crate::person::Person;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct RegistriesConf {
    unqualified_search_registries: Option<Vec<String>>,
    aliases: BTreeMap<String, String>,
}

/// The full name of an image; `None` where `name` is one. Fails where nothing says which registry is
/// meant, or more than one may be.
pub fn full(name: &str, person: &Person) -> Result<Option<String>> {
    let users = person.config().map(|config| config.join("containers"));
    // A user's own comes in place of the machine's.
    let users = users.filter(|directory| directory.join("registries.conf").exists());
    full_by(name, &users.unwrap_or_else(|| "/etc/containers".into()))
}

fn full_by(name: &str, directory: &Path) -> Result<Option<String>> {
    let first = name.split('/').next().unwrap_or_default();
    if name.contains('/') && (first.contains(['.', ':']) || first == "localhost") {
        return Ok(None);
    }
    let (mut alias, mut registries) = (None, Vec::new());
    let main = directory.join("registries.conf");
    for file in std::iter::once(main).chain(files::drop_ins(&directory.join("registries.conf.d"))?)
    {
        let content: RegistriesConf = files::read_toml(&file)?.unwrap_or_default();
        alias = content.aliases.get(name).cloned().or(alias);
        registries = content.unqualified_search_registries.unwrap_or(registries);
    }
    match (alias, &registries[..]) {
        (Some(alias), _) => Ok(Some(alias)),
        (None, [registry]) if name.contains('/') || registry != "docker.io" => {
            Ok(Some(format!("{registry}/{name}")))
        }
        (None, [registry]) => Ok(Some(format!("{registry}/library/{name}"))),
        (None, []) => bail!(
            "{name} names no registry, and no alias or search registry of containers-registries.conf(5) \
             does; write it in full, for example docker.io/library/{name}"
        ),
        (None, several) => bail!(
            "{name} may be in {}; write it in full, for example {}/{name}",
            several.join(" or "),
            several[0]
        ),
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
        let write = |registries: &str| {
            let text = format!(
                "unqualified-search-registries = [{registries}]\n[aliases]\nfedora = \"quay.io/fedora/fedora\"\n"
            );
            std::fs::write(directory.join("registries.conf"), text).unwrap();
        };
        write("\"docker.io\"");
        for (name, expected) in [
            ("x.org/a", None),
            ("localhost/a", None),
            ("h:5000/a", None),
            ("fedora", Some("quay.io/fedora/fedora")),
            ("debian", Some("docker.io/library/debian")),
            ("ann/debian", Some("docker.io/ann/debian")),
        ] {
            assert_eq!(full_by(name, &directory).unwrap().as_deref(), expected, "{name}");
        }
        for (registries, said) in
            [("", "docker.io/library/debian"), ("\"a.org\", \"b.org\"", "a.org or b.org")]
        {
            write(registries);
            let error = full_by("debian", &directory).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
