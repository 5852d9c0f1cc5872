//! Best-effort syslog: one datagram to the host's daemon, or none. Nothing here can stop a
//! container or make it wait.
//!
//! The socket is connected before the hook enters a container and is used after. That is why the
//! message carries no time (the daemon adds its own, as it does for the C library's): telling the
//! local time would read the container's `/etc/localtime`.

use std::os::unix::net::UnixDatagram;

/// Where a daemon listens: the traditional place, and systemd's own.
const SOCKETS: [&str; 2] = ["/dev/log", "/run/systemd/journal/dev-log"];
/// Facility daemon (RFC 3164, section 4.1.1), in the place it has in a priority.
const FACILITY_DAEMON: u8 = 3 << 3;

/// How bad it is (RFC 3164, section 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Severity {
    /// A container was refused.
    Error = 3,
    /// A container was served, and cannot have all that it would have otherwise.
    Warning = 4,
    /// A container was served.
    Info = 6,
}

/// A connection to syslog, if there is a daemon.
#[derive(Debug)]
pub struct Log {
    socket: Option<UnixDatagram>,
}

impl Log {
    /// Connects to the first daemon that is there.
    #[must_use]
    pub fn connect() -> Self {
        Self { socket: Self::connected() }
    }

    /// A socket that is connected to it, if there is one.
    fn connected() -> Option<UnixDatagram> {
        let socket = UnixDatagram::unbound().ok()?;
        SOCKETS.iter().find(|path| socket.connect(path).is_ok())?;
        // A daemon that does not read would block us once its queue is full.
        socket.set_nonblocking(true).ok()?;
        Some(socket)
    }

    /// Sends one message, if that can be done at once.
    pub fn send(&self, severity: Severity, message: &str) {
        if let Some(socket) = &self.socket {
            let priority = FACILITY_DAEMON | severity as u8;
            let pid = std::process::id();
            let _ =
                socket.send(format!("<{priority}>toolbx-arch-hook[{pid}]: {message}").as_bytes());
        }
    }
}
