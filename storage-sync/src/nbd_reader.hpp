#pragma once
// Reads one export of a point over NBD: extents first, then their content, in ascending order.
#include <cstdint>
#include <functional>
#include <string>

#include "evac/core/result.hpp"
#include "evac/storage_sync/disk_capture.hpp"
#include "page_set.hpp"

namespace evac::storage_sync {

struct NbdReadRequest {
    std::string socket_path;
    std::string export_name;
    std::string bitmap;           // name without "qemu:dirty-bitmap:"
    uint64_t size_bytes = 0;      // expected; another size is refused
    uint64_t full_from_page = 0;  // dirty pages below, everything from here on
    size_t disk = 0;              // passed to the sink
    int timeout_ms = 0;           // without progress
    const PageSet& again;         // pages to be read whatever the bitmap says
};

struct NbdReadOutcome {
    DiskReadStats stats;
    bool stopped = false;  // by the sink
};

// `hold` is given the connected socket before anything is said on it. Its duplicate must outlive
// the export: QEMU 7.2 of Debian aborts when the client of a disk with an I/O thread goes away by
// itself (it may close a connection in its main thread only, and does so in the disk's). So the
// client never disconnects; removing the export does, in QEMU's main thread. `check` is asked
// before each batch of reads; its error ends the reading. Errors: io, timeout, refused (size),
// whatever `check` says. `outcome` is filled in either case.
Status read_export(const NbdReadRequest& request, BlockSink& sink,
                   const std::function<Status(int)>& hold, const std::function<Status()>& check,
                   NbdReadOutcome& outcome);

}  // namespace evac::storage_sync
