//! Best-effort syslog: one datagram to the host's daemon, or none. Nothing here can stop a
//! container or make it wait.
//!
//! The socket is one of our own: `syslog::unix` would make one that waits for a daemon that does not read, and
//! would not look at systemd's place.

use std::io::Write;
use std::os::unix::net::UnixDatagram;

pub use syslog::Severity;
use syslog::{Facility, LogFormat, Logger, LoggerBackend};

/// Where a daemon listens: the traditional place, and systemd's own.
const SOCKETS: [&str; 2] = ["/dev/log", "/run/systemd/journal/dev-log"];

/// A connection to syslog, if there is a daemon.
pub struct Log(Option<Logger<LoggerBackend, Format>>);

impl Log {
    /// Connects to the first daemon that is there.
    #[must_use]
    pub fn connect() -> Self {
        Self(connected().map(|socket| Logger::new(LoggerBackend::Unix(socket), Format)))
    }

    /// Sends one message, if that can be done at once.
    pub fn send(&mut self, severity: Severity, message: &str) {
        if let Some(Logger { backend, formatter }) = &mut self.0 {
            let _ = formatter.format(backend, severity, message);
        }
    }
}

/// A socket that is connected to a daemon, if there is one.
fn connected() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    SOCKETS.iter().find(|path| socket.connect(path).is_ok())?;
    // A daemon that does not read would block us once its queue is full.
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

/// Priority, name and pid, and no time: the daemon adds its own, the local one (RFC 3164, section 4.1.2), which
/// nobody here knows without a database of time zones.
struct Format;

impl LogFormat<&str> for Format {
    fn format<W: Write>(
        &self,
        to: &mut W,
        severity: Severity,
        message: &str,
    ) -> syslog::Result<()> {
        let priority = Facility::LOG_DAEMON as u8 | severity as u8;
        let pid = std::process::id();
        write!(to, "<{priority}>toolbx-arch-hook[{pid}]: {message}").map_err(syslog::Error::Write)
    }
}
