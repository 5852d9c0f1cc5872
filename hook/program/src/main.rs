//! toolbx-arch, the program for people: says whether containers of another architecture work here,
//! why, and how to mend it. See toolbx-arch(1). What containers need is in the hook alone.
#![allow(unreachable_pub)] // a program: `pub` says what the other modules may use

mod args;
mod caller;
mod cdi;
mod containers_conf;
mod doctor;
mod explain;
mod files;
mod history;
mod hooks_d;
mod list;
mod person;
mod podman;
mod prepare;
mod pull;
mod rootfs;
mod short_names;
mod switch;
mod terminal;
mod topic;
mod trial;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use toolbx_arch::base::message;

use crate::args::{Arguments, Command};

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    // What is written is for every user's engine to read, and for nobody else to write.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match run(&command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("toolbx-arch: error: {}", message::line(&error));
            // 1 would say that there are warnings only.
            if matches!(command, Command::Doctor(_)) {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Does what is asked for. Returns the exit status.
fn run(command: &Command) -> Result<ExitCode> {
    let done = match command {
        Command::Doctor(arguments) => return doctor::run(arguments),
        Command::Prepare(arguments) => return prepare::run(arguments),
        Command::List(arguments) => list::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Pull(arguments) => pull::run(arguments),
        Command::Enable(arguments) => switch::enable(arguments),
        Command::Disable(arguments) => switch::disable(arguments),
        Command::Cdi(arguments) => cdi::run(arguments),
        Command::Try(arguments) => trial::run(arguments),
    };
    done.map(|()| ExitCode::SUCCESS)
}
