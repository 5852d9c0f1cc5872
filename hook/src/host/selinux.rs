//! The labels by which `SELinux` tells who may execute a file.

use std::fmt;
use std::fs::File;

use anyhow::Result;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::base::message::Call;

/// The extended attribute that is a file's label.
const ATTRIBUTE: &str = "security.selinux";
/// More than any policy's labels need.
const LABEL_MAX: usize = 4096;

/// A file's label; or that it has none.
#[derive(Debug, PartialEq, Eq)]
pub struct SelinuxLabel(Option<Vec<u8>>);

impl SelinuxLabel {
    /// That of `file`.
    pub fn of(file: &File) -> Result<Self> {
        let mut label = [0; LABEL_MAX];
        match rustix::fs::fgetxattr(file, ATTRIBUTE, &mut label) {
            Ok(length) => Ok(Self(Some(label[..length].to_vec()))),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(Self(None)),
            Err(errno) => Err(errno).call(|| format!("fgetxattr {ATTRIBUTE}")),
        }
    }

    /// Gives it to `file`. Where there is none, nothing is to be given.
    pub fn give(&self, file: &File) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |label| {
            rustix::fs::fsetxattr(file, ATTRIBUTE, label, XattrFlags::empty())
                .call(|| format!("fsetxattr {ATTRIBUTE}"))
        })
    }
}

impl fmt::Display for SelinuxLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            // The kernel ends it with a NUL.
            Some(label) => f.write_str(String::from_utf8_lossy(label).trim_end_matches('\0')),
            None => f.write_str("none"),
        }
    }
}
