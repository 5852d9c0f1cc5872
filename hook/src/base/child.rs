//! Work done in a child process, which can be killed where a thread could not; and a process with two threads
//! cannot enter a user namespace.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Signal, WaitOptions};

use crate::base::kernel;
use crate::base::message::Call;

/// What `work` answers, if it does within this time; nothing where it ends without an answer. Of more than
/// `max` bytes the first ones.
///
/// `None` if it takes longer: then it was killed, and may hang even so. Fails where there can be no child.
pub fn answer(
    patience: Duration,
    max: u64,
    work: impl FnOnce() -> Vec<u8>,
) -> Result<Option<Vec<u8>>> {
    let (answer, sender) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).call(|| "pipe to a child".into())?;
    let Some(child) = kernel::fork().call(|| "fork".into())? else {
        // Who waits until our standard streams are closed must not wait for what hangs.
        leave_standard_streams();
        let _ = end_with_parent();
        drop(answer);
        let _ = File::from(sender).write_all(&work());
        std::process::exit(0);
    };
    drop(sender);
    let answer = read_within(patience, max, answer);
    let options = if answer.is_some() {
        WaitOptions::empty()
    } else {
        let _ = rustix::process::kill_process(child, Signal::KILL);
        // What hangs in the kernel does so even now; it is then nobody's child when we end.
        WaitOptions::NOHANG
    };
    let _ = rustix::process::waitpid(Some(child), options);
    Ok(answer)
}

/// What is written to the pipe until its other end is closed; `None` if that is not in time.
fn read_within(patience: Duration, max: u64, pipe: OwnedFd) -> Option<Vec<u8>> {
    let end = Instant::now() + patience;
    let mut pipe = File::from(pipe).take(max);
    let mut text = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok()?;
        let mut fds = [PollFd::new(pipe.get_ref(), PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(0) => return None,
            Err(Errno::INTR) => continue,
            Ok(_) | Err(_) => {}
        }
        let mut part = [0; 4096];
        match pipe.read(&mut part) {
            Ok(0) | Err(_) => return Some(text),
            Ok(length) => text.extend_from_slice(&part[..length]),
        }
    }
}

/// Has this process killed when its parent ends: what nobody waits for is not done. Until its ids change.
pub fn end_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .call(|| "prctl PR_SET_PDEATHSIG".into())
}

fn leave_standard_streams() {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_killed_and_what_dies_has_no_answer() {
        let patience = Duration::from_millis(200);
        let within = |work: fn() -> Vec<u8>| answer(patience, 100_000, work).unwrap();
        assert_eq!(within(|| b"yes".to_vec()), Some(b"yes".to_vec()));
        assert_eq!(within(|| vec![7; 200_000]), Some(vec![7; 100_000]));
        assert_eq!(within(|| std::process::exit(3)), Some(Vec::new()));
        assert_eq!(
            within(|| loop {
                std::thread::park();
            }),
            None
        );
    }
}
