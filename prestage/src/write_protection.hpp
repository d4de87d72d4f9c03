#pragma once
// QEMU 7.2 (tried: 7.2.22) leaves guest memory write-protected when a background snapshot fails or
// is cancelled: nobody answers the userfaultfd any more, so the guest hangs for good at its next
// write to a page that was not sent yet, and so may QEMU's main loop. This takes the protection off
// from outside, through a duplicate of QEMU's userfaultfd (pidfd_getfd). Needs CAP_SYS_PTRACE, or
// the same user and ptrace_scope 0. Internal to this library.
#include "evac/core/result.hpp"

namespace evac::prestage {

// Mappings of the process that are write-protected and were released. 0 when there were none. Only
// to be called when no background snapshot is being read by anybody. Errors: io (no permission,
// kernel before 5.6).
Result<int> lift_write_protection(int pid);

// The process has a userfaultfd open, which QEMU has outside of a background snapshot only when one
// broke before.
bool has_userfault_fd(int pid);

}  // namespace evac::prestage
