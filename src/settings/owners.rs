use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Purpose;

/// Who may own what the broker trusts: root, whoever we are, and, for an administrator's check, whoever the daemon is.
#[derive(Debug)]
pub(super) struct Owners(Vec<u32>);

impl Owners {
    pub(super) fn new(purpose: Purpose, state_dir: &Path) -> Self {
        let mut owners = vec![0, rustix::process::geteuid().as_raw()];
        // The daemon's user is known by its state directory, which holds the very keys: it is trusted already.
        if purpose == Purpose::Check
            && let Ok(metadata) = fs::metadata(state_dir)
        {
            owners.push(metadata.uid());
        }
        Self(owners)
    }

    pub(super) fn owned(&self, path: &Path, metadata: &Metadata) -> Result<(), String> {
        let owner = metadata.uid();
        match self.0.contains(&owner) {
            true => Ok(()),
            false => {
                Err(format!("{} belongs to user {owner}: it must belong to root or to the daemon's user (chown root)", path.display()))
            }
        }
    }

    /// Only an owner can change it.
    pub(super) fn trusted(&self, path: &Path, metadata: &Metadata) -> Result<(), String> {
        self.owned(path, metadata)?;
        match metadata.mode() & 0o022 {
            0 => Ok(()),
            _ => Err(format!(
                "{} can be written by others than its owner (mode {:04o}): chmod go-w",
                path.display(),
                metadata.mode() & 0o7777
            )),
        }
    }
}
