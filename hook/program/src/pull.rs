//! `toolbx-arch pull`: gets the variant of an image for another architecture with skopeo, and stores it
//! beside the native one.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::{Descriptor, Os, Platform};
use serde::Deserialize;
use serde_json::Value;
use toolbx_arch::arch::{self, Arch};
use toolbx_arch::base::message;

use crate::args::Pull;
use crate::person::Person;
use crate::podman::said;
use crate::{caller, short_names, terminal};

/// What is to be got, and as what it is to be stored.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    /// The image, without the architecture at the end of its tag.
    image: Reference,
    arch: &'static Arch,
    /// What it is called here afterwards.
    stored: String,
}

/// `NAME[:TAG]` or `NAME@DIGEST`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reference {
    name: String,
    /// With its ":" or "@".
    tag: String,
}

pub fn run(arguments: &Pull) -> Result<()> {
    let mut image = Reference::parse(&arguments.image)?;
    if let Some(full) = short_names::full(&image.name, &Person::calling()?)? {
        image.name = full;
    }
    let wish = Wish::of(&image, arguments)?;
    let from = format!("docker://{}", wish.image);
    let tls = format!("--tls-verify={}", arguments.tls_verify);
    let variants = variants(&from, &tls)?;
    let platform = choose(&variants, wish.arch, &wish.image)?;
    copy(&from, &wish.stored, platform, arguments.tls_verify)?;
    record(&wish, platform)?;
    let says = if is_for(&wish)? { "is for" } else { "has no program that tells; it declares" };
    terminal::print(&format!("{} {says} {}\n", wish.stored, wish.arch.name));
    Ok(())
}

impl Wish {
    fn of(given: &Reference, arguments: &Pull) -> Result<Self> {
        let (image, suffix) = given.without_suffix();
        let asked = match &arguments.arch {
            Some(name) => Some(arch::find(name).with_context(|| arch::unknown(name))?),
            None => None,
        };
        let arch = match (asked, suffix) {
            (Some(asked), Some((_, suffix))) if asked != suffix => bail!(
                "{} says that it is for {}, --arch says {}; leave one of them out",
                arguments.image,
                suffix.name,
                asked.name
            ),
            (Some(arch), _) | (None, Some((_, arch))) => arch,
            (None, None) => {
                bail!("for which architecture? say --arch NAME; toolbx-arch list shows all names")
            }
        };
        let stored = match (&arguments.name, suffix) {
            (Some(name), _) => Reference::parse(name)?.to_string(),
            (None, Some(_)) => given.to_string(),
            (None, None) => {
                ensure!(
                    !image.tag.starts_with('@'),
                    "{image} has no tag that could get the architecture; say --as NAME"
                );
                format!("{image}-{}", arch.oci.unwrap_or(arch.name))
            }
        };
        Ok(Self { image, arch, stored })
    }
}

impl Reference {
    /// Understands an image's name; without a tag it gets `:latest`.
    fn parse(text: &str) -> Result<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
        ensure!(
            !text.is_empty() && text.chars().all(is_plain) && !text.starts_with('-'),
            "{} is not the name of an image; write [REGISTRY/]NAME[:TAG]",
            message::shown(text)
        );
        let last = text.rfind('/').map_or(0, |slash| slash + 1);
        let tag = text.find('@').or_else(|| text[last..].find(':').map(|colon| last + colon));
        let (name, tag) = tag.map_or((text, ":latest"), |tag| text.split_at(tag));
        Ok(Self { name: name.to_owned(), tag: tag.to_owned() })
    }

    /// Without the architecture that its tag ends in, and that; `fedora-toolbox:42-aarch64`.
    fn without_suffix(&self) -> (Self, Option<(&str, &'static Arch)>) {
        let found = self.tag.rsplit_once('-').filter(|_| self.tag.starts_with(':'));
        match found.and_then(|(tag, suffix)| Some((tag, (suffix, arch::find(suffix)?)))) {
            Some((tag, suffix)) if tag != ":" => {
                (Self { name: self.name.clone(), tag: tag.to_owned() }, Some(suffix))
            }
            _ => (self.clone(), None),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.tag)
    }
}

/// The variants that the image has, by its manifest; by its configuration, if it has one only.
fn variants(from: &str, tls: &str) -> Result<Vec<Platform>> {
    let manifest = skopeo(&["inspect", "--raw", tls, from])?;
    let manifest = serde_json::from_slice(&manifest);
    let manifest: Value = manifest.with_context(|| format!("the manifest of {from}"))?;
    if let Some(variants) = listed(&manifest) {
        return Ok(variants);
    }
    let config = skopeo(&["inspect", "--config", tls, from])?;
    // It names its platform as an index does.
    let platform = serde_json::from_slice(&config);
    Ok(vec![platform.with_context(|| format!("the configuration of {from}"))?])
}

/// The variants that an image index lists. One that cannot be understood is left out, and keeps nobody
/// from the others. `None` if this is the manifest of an image.
fn listed(manifest: &Value) -> Option<Vec<Platform>> {
    let platform = |entry| Descriptor::deserialize(entry).ok()?.platform().clone();
    Some(manifest["manifests"].as_array()?.iter().filter_map(platform).collect())
}

/// `ARCHITECTURE[/VARIANT]`.
fn name_of(platform: &Platform) -> String {
    let variant = variant_of(platform).map(|variant| format!("/{variant}"));
    format!("{}{}", platform.architecture(), variant.unwrap_or_default())
}

fn variant_of(platform: &Platform) -> Option<&str> {
    platform.variant().as_deref().filter(|variant| !variant.is_empty())
}

/// The variant for `arch`. Where there are several, the newest: they are for the same emulator.
fn choose<'a>(variants: &'a [Platform], arch: &Arch, image: &Reference) -> Result<&'a Platform> {
    let for_linux = || variants.iter().filter(|platform| *platform.os() == Os::Linux);
    let is_for = |platform: &&Platform| {
        let names = [name_of(platform), platform.architecture().to_string()];
        names.iter().find_map(|name| arch::find(name)) == Some(arch)
    };
    let newest = for_linux().filter(is_for).max_by_key(|platform| variant_of(platform));
    newest.with_context(|| {
        let others: Vec<_> = for_linux().map(name_of).collect();
        format!("{image} has no variant for {}; it has {}", arch.name, others.join(", "))
    })
}

/// Lets skopeo copy the image into Podman's storage, and show its progress.
fn copy(from: &str, stored: &str, platform: &Platform, tls_verify: bool) -> Result<()> {
    let mut command = Command::new("skopeo");
    command
        .args(["copy", "--override-os", "linux", "--override-arch"])
        .arg(platform.architecture().to_string())
        .arg(format!("--src-tls-verify={tls_verify}"));
    if let Some(variant) = variant_of(platform) {
        command.args(["--override-variant", variant]);
    }
    let status = command.arg(from).arg(format!("containers-storage:{stored}")).status();
    ensure!(started(status)?.success(), "skopeo could not copy {from}; see above");
    Ok(())
}

/// Writes Toolbx's label, which the hook reads, into what was stored: an image of the same layers.
fn record(wish: &Wish, platform: &Platform) -> Result<()> {
    let name = wish.arch.oci.unwrap_or(wish.arch.name);
    let containerfile = format!("FROM {}\nLABEL toolbox-arch={name}\n", wish.stored);
    let mut build = Command::new("podman")
        .args(["build", "--quiet", "--pull=never", "--identity-label=false"])
        .arg(format!("--platform=linux/{}", name_of(platform)))
        .args(["--tag", &wish.stored, "--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("podman build")?;
    // Closed at once: nothing more comes.
    let written = build.stdin.take().map(|mut stdin| stdin.write_all(containerfile.as_bytes()));
    let status = build.wait().context("podman build")?;
    written.transpose().context("podman build")?;
    ensure!(status.success(), "{} is stored, but cannot get the label toolbox-arch", wish.stored);
    Ok(())
}

/// Whether the programs of what was stored are what was asked for. Fails where they are something
/// else; `false` where none can be looked at.
fn is_for(wish: &Wish) -> Result<bool> {
    let output = Command::new(caller::this_program()?)
        .args(["explain", "--json", "--", &wish.stored])
        .output()
        .context("toolbx-arch explain")?;
    ensure!(output.status.success(), "{}", said(&output));
    let explained: Value = serde_json::from_slice(&output.stdout)?;
    let detected = explained["detected"]["target"].as_str();
    match detected {
        Some(detected) if detected != wish.arch.name => bail!(
            "{} is stored, but its programs are for {detected}, whatever it declares; remove it: \
             podman rmi {0}",
            wish.stored
        ),
        detected => Ok(detected.is_some()),
    }
}

fn skopeo(arguments: &[&str]) -> Result<Vec<u8>> {
    let output: Output = started(Command::new("skopeo").args(arguments).output())?;
    ensure!(output.status.success(), "skopeo: {}", reason(&output));
    Ok(output.stdout)
}

fn started<T>(result: std::io::Result<T>) -> Result<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("skopeo is not installed; install the package skopeo")
        }
        result => result.context("skopeo"),
    }
}

/// What skopeo says went wrong: the message of its log line.
fn reason(output: &Output) -> String {
    let line = said(output);
    match line.split_once("msg=\"") {
        Some((_, message)) => message.trim_end_matches('"').replace("\\\"", "\""),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::image::{
        Digest, ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder, MediaType,
        PlatformBuilder, SCHEMA_VERSION,
    };

    use super::*;

    fn wish(
        image: &str,
        arch: Option<&str>,
        name: Option<&str>,
    ) -> Result<(String, &'static str, String)> {
        let arguments = Pull {
            arch: arch.map(str::to_owned),
            name: name.map(str::to_owned),
            tls_verify: true,
            image: image.to_owned(),
        };
        let wish = Wish::of(&Reference::parse(image)?, &arguments)?;
        Ok((wish.image.to_string(), wish.arch.name, wish.stored))
    }

    #[test]
    fn the_variant_gets_a_name_of_its_own() {
        for (image, arch, name, from, target, stored) in [
            ("x.org/a", Some("arm64"), None, "x.org/a:latest", "aarch64", "x.org/a:latest-arm64"),
            (
                "x.org:5000/a:1",
                Some("s390x"),
                None,
                "x.org:5000/a:1",
                "s390x",
                "x.org:5000/a:1-s390x",
            ),
            ("a:42-aarch64", None, None, "a:42", "aarch64", "a:42-aarch64"),
            ("a:42-aarch64", Some("arm64"), None, "a:42", "aarch64", "a:42-aarch64"),
            ("a:42-rc1", Some("arm/v7"), None, "a:42-rc1", "arm", "a:42-rc1-arm"),
            ("a@sha256:00", Some("arm64"), Some("b"), "a@sha256:00", "aarch64", "b:latest"),
        ] {
            let expected = (from.to_owned(), target, stored.to_owned());
            assert_eq!(wish(image, arch, name).unwrap(), expected, "{image}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for (image, arch, said) in [
            ("a:1-s390x", Some("arm64"), "leave one of them out"),
            ("a", None, "say --arch"),
            ("a", Some("arm65"), "did you mean"),
            ("a@sha256:00", Some("arm64"), "say --as"),
            ("a b", Some("arm64"), "not the name of an image"),
            ("--all", Some("arm64"), "not the name of an image"),
            ("", Some("arm64"), "not the name of an image"),
        ] {
            let error = format!("{:#}", wish(image, arch, None).unwrap_err());
            assert!(error.contains(said), "{image}: {error}");
        }
    }

    fn platform(os: &str, architecture: &str, variant: &str) -> Platform {
        let platform = PlatformBuilder::default().os(os).architecture(architecture);
        let platform = if variant.is_empty() { platform } else { platform.variant(variant) };
        platform.build().unwrap()
    }

    #[test]
    fn chooses_the_newest_variant_that_fits() {
        let variants = [
            platform("linux", "arm", "v5"),
            platform("linux", "arm", "v7"),
            platform("linux", "arm", ""),
            platform("linux", "arm64", "v8"),
            platform("windows", "s390x", ""),
        ];
        let image = Reference::parse("a").unwrap();
        let choose = |name| choose(&variants, arch::find(name).unwrap(), &image);
        assert_eq!(choose("arm").unwrap(), &variants[1]);
        assert_eq!(choose("arm64").unwrap(), &variants[3]);
        let error = choose("s390x").unwrap_err().to_string();
        assert_eq!(
            error,
            "a:latest has no variant for s390x; it has arm/v5, arm/v7, arm, arm64/v8"
        );
    }

    #[test]
    fn one_entry_that_is_not_understood_hides_no_other() {
        let digest: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let mut descriptor = Descriptor::new(MediaType::ImageManifest, 1, digest);
        descriptor.set_platform(Some(platform("linux", "arm64", "v8")));
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .manifests(vec![descriptor.clone(); 8])
            .build();
        let mut index = serde_json::to_value(index.unwrap()).unwrap();
        let entries = index["manifests"].as_array_mut().unwrap();
        entries[0]["platform"].as_object_mut().unwrap().remove("architecture");
        entries[1]["platform"]["architecture"] = 7.into();
        entries[2]["platform"] = Value::Null;
        entries[3].as_object_mut().unwrap().remove("platform");
        entries[4] = "arm64".into();
        entries[5]["digest"] = "../..".into();
        entries[6]["platform"]["architecture"] = "z80".into();
        entries[6]["platform"]["variant"] = "".into();
        let variants = listed(&index).unwrap();
        assert_eq!(variants.iter().map(name_of).collect::<Vec<_>>(), ["z80", "arm64/v8"]);

        let layers = vec![descriptor.clone()];
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .config(descriptor)
            .layers(layers)
            .build();
        assert_eq!(listed(&serde_json::to_value(manifest.unwrap()).unwrap()), None);
    }

    #[test]
    fn a_configuration_names_its_platform() {
        let config = ImageConfigurationBuilder::default()
            .os("linux")
            .architecture("arm")
            .variant("v7".to_owned())
            .build();
        let config = serde_json::to_value(config.unwrap()).unwrap();
        assert_eq!(Platform::deserialize(config).unwrap(), platform("linux", "arm", "v7"));
    }

    #[test]
    fn names_of_architectures_are_kept() {
        for arch in &arch::ARCHES {
            let name = arch.oci.unwrap_or(arch.name);
            // oci-spec 0.10 takes it for arm64be. No image has been seen of either.
            if name != "armbe" {
                assert_eq!(oci_spec::image::Arch::from(name).to_string(), name);
            }
        }
    }
}
