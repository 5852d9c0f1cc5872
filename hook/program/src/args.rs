//! What `toolbx-arch` understands. Its help, manual pages and completions are made of this.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The version; `make build` adds the commit.
const VERSION: &str = match option_env!("TOOLBX_ARCH_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Containers of another CPU architecture: whether they work here, and why not
#[derive(Debug, Parser)]
#[command(
    name = "toolbx-arch",
    version = VERSION,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  toolbx-arch doctor                    will it work on this machine, and what is missing
  toolbx-arch explain mycontainer       why it is emulated, or is not
  toolbx-arch pull --arch arm64 debian  the arm64 variant, beside the native one

Containers need none of this: podman run --platform linux/arm64 IMAGE simply works once the
hook is installed.

Exit status: 0 done, 1 failed or (doctor) with warnings, 2 usage or (doctor) will not work.
More: toolbx-arch(1), toolbx-arch-hook(8), toolbx-arch-policy(5)"
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check everything that emulated containers need, and say how to mend it
    ///
    /// As root it checks what rootful containers need, as a user what rootless ones need. Exit status:
    /// 0 all is well, 1 there are warnings, 2 emulated containers will not work.
    Doctor(Doctor),
    /// Show the targets: their names, and the emulator that each one has here
    List(List),
    /// Say why a container or an image is emulated, or is not
    ///
    /// Shows what each source says, which rule decided, and what the hook did at the last start. It
    /// never changes anything.
    ///
    /// A record of the last start counts if root or the caller sent it and the journal saw neither another
    /// program send it nor a container's process; it is marked as one that may be forged, unless the
    /// journal saw the hook, outside of every container.
    Explain(Explain),
    /// Get an image for another architecture, beside the native one
    ///
    /// The variant is looked for before anything is copied, and its programs are looked at after: many
    /// images declare a wrong architecture. The image gets the label toolbox-arch.
    Pull(Pull),
    /// Switch the hook on for Podman, for all containers or for annotated ones
    ///
    /// Writes toolbx-arch.conf in containers.conf.d, or removes it where the package's own drop-in does.
    /// Builds follow --hooks-dir, and other engines their own configuration.
    Enable(Enable),
    /// Switch the hook off for Podman; enable takes that back
    ///
    /// Writes toolbx-arch.conf in containers.conf.d, which overrides the package's drop-in. Builds follow
    /// --hooks-dir, and other engines their own configuration.
    Disable(Where),
    /// Print or install a CDI specification: a device for each target that has an emulator
    ///
    /// With it Docker, containerd, CRI-O and Podman run the hook for whoever asks for the device:
    /// podman run --device toolbx.dev/arch=arm64 IMAGE. The device "all" is for every target that has an
    /// emulator now, and with "auto" the container's programs tell.
    Cdi(Cdi),
    /// Prepare emulators: copies with the launcher in them, for sudo and for arguments
    ///
    /// The hook uses the copies in /usr/libexec/toolbx-arch/emulators; without one it makes a copy in memory
    /// for each container, which takes some milliseconds. Copies that are fresh stay, and those of
    /// emulators that are gone are removed. The packages run it when an emulator changes.
    Prepare(Prepare),
    /// Try the sandbox, or a target in it; what doctor starts
    #[command(hide = true)]
    Try(Try),
}

#[derive(Debug, Args)]
pub struct Try {
    /// The target
    pub target: Option<String>,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only these architectures, by any of their names
    #[arg(value_name = "ARCH")]
    pub only: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// A container, running or not, or an image, as Podman knows it
    #[arg(required_unless_present = "bundle", conflicts_with = "bundle")]
    pub name: Option<String>,
    /// An OCI bundle instead
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Pull {
    /// The architecture, by any of its names; not needed where the image's tag ends in one
    #[arg(long)]
    pub arch: Option<String>,
    /// Store it under this name instead of IMAGE:TAG-ARCH
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<String>,
    /// Whether the registry has to speak TLS, with a certificate that is trusted
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    /// The image, for example fedora-toolbox:42 or quay.io/centos/centos:stream9
    pub image: String,
}

#[derive(Debug, Args)]
pub struct Enable {
    /// For containers with an annotation toolbx.arch only; else for all: their programs tell what they need
    #[arg(long)]
    pub annotation_only: bool,
    /// Also in Podman's stage precreate, so that plain `sudo podman run` works
    #[arg(long)]
    pub precreate: bool,
    #[command(flatten)]
    pub whose: Where,
}

#[derive(Debug, Args)]
pub struct Where {
    /// For the caller only, below ~/.config (the default for users)
    #[arg(long, conflicts_with = "system")]
    pub user: bool,
    /// For everybody, below /etc (the default for root)
    #[arg(long)]
    pub system: bool,
    /// Show what would be changed, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Prepare {
    /// Only the emulators of these architectures, by any of their names; else all
    #[arg(value_name = "ARCH")]
    pub only: Vec<String>,
    /// Change nothing; exit status 1 if there is something to do
    #[arg(long)]
    pub check: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Cdi {
    /// Write it to /etc/cdi/toolbx-arch.json instead
    #[arg(long)]
    pub install: bool,
    /// Remove that file
    #[arg(long, conflicts_with = "install")]
    pub remove: bool,
}
