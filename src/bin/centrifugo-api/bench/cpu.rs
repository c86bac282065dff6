//! The CPU time of this process.

use std::time::Duration;

/// What this process has used until now, in user mode and in the kernel, by all of its threads.
#[cfg(unix)]
pub(super) fn used() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

/// Not known on this system without code that Rust cannot check.
#[cfg(not(unix))]
pub(super) fn used() -> Option<Duration> {
    None
}
