use std::hint::black_box;
use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Makes the process fit to hold secrets and sessions: no core dump, no reading of its memory by others of the same user, and as many
/// descriptors as it may have.
pub fn harden() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let descriptors = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: descriptors.maximum, maximum: descriptors.maximum })?;
    Ok(())
}

/// Lets the C library keep a little of what sessions free, for each thread.
///
/// Its default gives memory back to the kernel and faults it in again with every burst of packets, which costs a twentieth of all that a
/// session takes. The threshold is twice the largest block that was ever freed (mallopt(3), M_MMAP_THRESHOLD): freeing one is the way to
/// set it that needs neither the environment nor a call that is not safe.
pub(super) fn keep_freed_memory() {
    const BLOCK: usize = 192 * 1024;
    drop(black_box(Vec::<u8>::with_capacity(black_box(BLOCK))));
}
