//! Writes the manual pages and the completions of `toolbx-arch` into the directories MAN and
//! COMPLETIONS: manuals MAN COMPLETIONS

#[allow(dead_code, unreachable_pub)] // a module of another program
#[path = "../src/args.rs"]
mod args;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;

const NAME: &str = "toolbx-arch";

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let mut directory = || arguments.next().context("usage: manuals MAN COMPLETIONS");
    let (man, completions) = (directory()?, directory()?);
    write_manuals(&man)?;
    write_completions(&completions)
}

/// A page for the program, and one for each of its commands.
fn write_manuals(to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    // The version belongs to one build, the pages to the sources.
    let program = args::Arguments::command().version(env!("CARGO_PKG_VERSION"));
    let commands = program.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let pages = commands.map(|command| {
        let name = format!("{NAME}-{}", command.get_name());
        let shown = format!("{NAME} {}", command.get_name());
        (name.clone(), command.display_name(name).bin_name(shown))
    });
    for (name, command) in pages.chain([(NAME.to_owned(), program.clone())]).collect::<Vec<_>>() {
        write_manual(command, &to.join(format!("{name}.1")))?;
    }
    Ok(())
}

fn write_manual(command: Command, to: &Path) -> Result<()> {
    let manual = clap_mangen::Man::new(command).date("").source("toolbx-arch").manual("");
    let mut page = Vec::new();
    manual.render(&mut page)?;
    // Lines of examples are to stay lines.
    let page =
        String::from_utf8(page)?.replace(".SH EXTRA\n", ".SH EXAMPLES AND EXIT STATUS\n.nf\n");
    std::fs::write(to, page).with_context(|| to.display().to_string())
}

fn write_completions(to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut args::Arguments::command(), NAME, to)?;
    }
    Ok(())
}
