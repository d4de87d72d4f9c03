#pragma once
// Capture of one VM's disks at home: dirty bitmaps rotated in one transaction, a point-in-time view
// over NBD.
//
// clang-format off
//   recover_disks(), survey_disks()   after every (re)connection to QEMU
//   create(), then once
//     start_tracking()                new bitmaps; the first point reads all
//     or adopt()                      goes on with those of a gateway that died
//   per round:
//     prepare_point(kind)             before the guest is stopped (slow: NBD server, overlays)
//     begin_point()                   ONE transaction over all disks; guest stopped, or running
//     read_point(sink)                NBD reads; for `live` the guest may run meanwhile
//     release_view()                  optional: ends export and overlay once reading is done
//     finish_point(end)               when it is known what became of the data: drops or merges
//                                     the bitmap
// clang-format on
//
// A write of the guest is never forgotten: it is in the tracking bitmap, in the rotated one (merged
// back unless the point was captured), or the next point is a full compare. That holds over the
// death of the gateway at any instruction: both bitmaps are QEMU's.
//
// Owner: one thread at a time (the round's capture worker), which also owns the qmp::Client
// meanwhile. Everything made inside QEMU (bitmaps, exports, nodes, jobs) has a name that starts
// with "evac-".
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/log.hpp"
#include "evac/core/result.hpp"

namespace evac::qmp {
class Client;
}

namespace evac::storage_sync {

inline constexpr size_t kDisksMax = 32;                  // per VM
inline constexpr uint64_t kReadChunkBytes = 512 * 1024;  // one NBD read
inline constexpr size_t kReadsInFlight = 8;  // full ones: 4 MiB of buffers per reading thread
inline constexpr uint64_t kOverlayBytesDefault = 4ULL << 30;  // fleecing overlays of one VM
// 4 KiB bits up to 1 TiB (32 MiB per bitmap), then coarser, so that a bitmap stays within 2^28
// bits. 4 KiB is the unit of everything behind: coarser bits would make a point read (never send)
// up to 16 times more.
inline constexpr uint64_t kBitmapBitsMax = 1ULL << 28;

struct DiskInfo {
    std::string name;    // stable for the VM: the device's qdev id or path, else the drive's name
    std::string qdev;    // QOM path or id of the guest's device; may be empty
    std::string node;    // block node that the device writes to (root of its graph)
    std::string format;  // driver of that node: raw, qcow2, ...
    uint64_t size_bytes = 0;  // virtual size
};
struct DiskRemark {
    std::string name;
    std::string reason;  // for people
};
struct DiskSurvey {
    std::vector<DiskInfo> disks;      // to be captured, in QEMU's order
    std::vector<DiskRemark> skipped;  // harmless: cdrom, read-only, empty, not attached to a device
    std::vector<DiskRemark> refused;  // the VM cannot be protected with these
};
// Asks QEMU (query-block, query-named-block-nodes). Call recover_disks() before: a leftover hides
// the disk's node. Errors: those of qmp::Client; corrupt when the answer is malformed.
Result<DiskSurvey> survey_disks(qmp::Client& client);

enum class Verdict : uint8_t {
    taken,
    dropped,  // the page is not kept: the point is incomplete, reading goes on
    stop,     // reading ends here; what follows is not delivered
};

// Where a point's blocks go. Called on the thread that runs read_point(), ascending within a disk.
// May block (backpressure is wanted here, unlike for RAM), but not for ever: a live view costs the
// guest an overlay that grows.
class BlockSink {
  public:
    virtual ~BlockSink() = default;
    // `bytes` is exactly kPageBytes, valid during the call; the disk's last page is zero-padded.
    // Never all zero.
    virtual Verdict page(size_t disk, uint64_t page, ByteSpan bytes) = 0;
    // [first, first + count) reads as zeros (holes, zero extents, zero pages).
    virtual Verdict zeros(size_t disk, uint64_t first, uint64_t count) = 0;
};

enum class PointKind : uint8_t {
    live,  // fleecing overlay: the view stays at the instant of begin_point() while the guest goes
           // on
    stopped,  // the guest stays stopped until finish_point(): the disk itself is exported,
              // read-only
};
enum class PointEnd : uint8_t {
    captured,  // all of it is kept: the rotated bitmap is forgotten. Only legal when read_point()
               // was complete.
    partial,   // everything delivered with `taken` is kept, the rest is not: bitmap merged back; a
               // first sync goes on at its cursor in the next point
    lost,      // nothing may be assumed of what this point delivered: merged back, cursor as before
               // this point
};

struct DiskReadStats {
    bool full = false;        // (also) read allocated extents: first sync or compare
    bool complete = false;    // every page that had to be delivered was taken
    uint64_t pages = 0;       // delivered with content
    uint64_t zero_pages = 0;  // delivered as zeros
    uint64_t dropped_pages = 0;
    uint64_t read_bytes = 0;      // over NBD
    uint64_t dirty_bytes = 0;     // by the bitmap
    uint64_t synced_to_page = 0;  // cursor of the first sync; the disk's page count when done
};
struct PointStats {
    std::vector<DiskReadStats> disks;
    bool complete = false;
    uint64_t overlay_bytes = 0;  // sum of all overlays when reading ended
};
struct RecoverReport {
    std::vector<std::string> removed;  // what a former gateway had left behind inside QEMU
    // No bitmap is left, so what was written meanwhile is unknown. False: adopt() may find one.
    bool full_compare_needed = true;
};
enum class Leftovers : uint8_t {
    all,
    keep_tracking,  // bitmaps stay for adopt(); what a point has opened goes
};

// Removes everything named "evac-" from QEMU, our NBD server and the files. An NBD server that is
// not ours is left alone. `run_dir`, `tag`, `overlay_dir` as in CaptureOptions.
struct CaptureOptions;
Result<RecoverReport> recover_disks(qmp::Client& client, const CaptureOptions& options, Logger& log,
                                    Leftovers which = Leftovers::all);

struct CaptureOptions {
    std::string run_dir{};  // absolute, exists; for the NBD socket; gateway and QEMU both reach it
                            // under this path
    std::string tag{};      // names the files of this VM in both folders: [A-Za-z0-9_.-]{1,64}
    std::string overlay_dir{};  // absolute, exists; QEMU writes overlays here; empty = run_dir
    // All overlays of the VM together; must be free in overlay_dir. Reading fails beyond, and they
    // go at once.
    uint64_t overlay_bytes_max = kOverlayBytesDefault;
    uint64_t granularity_bytes =
        0;  // of the bitmaps; a power of two, 4 KiB to 64 KiB; 0 = by size (see above)
    int nbd_timeout_ms = 30'000;  // without any progress of a read
};

class DiskCapture {
  public:
    // `disks` as surveyed. Both references outlive the object. Does nothing to QEMU yet.
    static Result<std::unique_ptr<DiskCapture>> create(qmp::Client& client,
                                                       std::vector<DiskInfo> disks,
                                                       CaptureOptions options, Logger& log);
    // Leaves QEMU as it is (like a crash); call stop_tracking() for an orderly end.
    virtual ~DiskCapture() = default;

    // recover_disks(), and back to the state before start_tracking().
    virtual Result<RecoverReport> recover() = 0;

    // Adds the first bitmap to every disk; the next point is a full one. All disks or none.
    virtual Status start_tracking() = 0;
    // Instead of start_tracking(): goes on with the bitmaps that a DiskCapture before this one left
    // in this very QEMU process, for the same disks, sizes and granularities. An unfinished point's
    // bitmap is merged back, so that it counts as `lost`; a first sync goes on at its cursor.
    // True: the next point delivers whatever was written since the last *finished* point began.
    // The caller must know what became of the pages of finished points: those that it has not kept
    // are read again by reread(), and where it knows nothing, request_full_compare().
    // False: nothing fits (the log says why), QEMU is as after recover(): start_tracking().
    // After an error the object is unusable.
    virtual Result<bool> adopt() = 0;

    // Removes bitmaps and whatever a point still holds; refused while none is tracked.
    virtual Status stop_tracking() = 0;

    // refused: a disk was resized or replaced (names the disk), the NBD server belongs to someone
    // else, too little space for the overlays (a full overlay would fail the guest's writes in
    // QEMU 7.2), wrong order of calls.
    virtual Status prepare_point(PointKind kind) = 0;
    // Undoes prepare_point() when begin_point() will not be called.
    virtual Status cancel_prepared() = 0;
    virtual Status begin_point() = 0;
    // Once per point. Errors: io/timeout (NBD), refused (resized; overlay over its limit: the view
    // is gone then, the guest is safe). After an error call finish_point(partial or lost). A
    // dropped page is not an error.
    virtual Result<PointStats> read_point(BlockSink& sink) = 0;
    // Bytes that the overlays of this point occupy now (0 for `stopped`): to be watched by a sink
    // that blocks long.
    virtual uint64_t overlay_bytes() const = 0;
    virtual Status release_view() = 0;
    // After an error of this call the object is unusable: reconnect, recover().
    virtual Status finish_point(PointEnd end) = 0;

    // The next point reads everything (away lost its copy, or a captured point was lost
    // afterwards). Told to QEMU at once, so that it holds for an adopt() after this process too:
    // false where that could not be done (nothing is tracked yet, or QEMU refused), and then it
    // holds for this object, its adopt() included, only.
    virtual bool request_full_compare() = 0;
    // The next point also delivers pages [first, first + count) of a disk, whatever the bitmaps
    // say (they were captured, and lost afterwards). Asked again by each point until one ends as
    // `captured`; asked during a point, it is the next one's. In memory only: after adopt() the
    // caller asks again. Bounded: of more than 65536 separate runs, more around them is read.
    virtual void reread(size_t disk, uint64_t first, uint64_t count) = 0;
    virtual bool first_sync_done() const = 0;
    virtual const std::vector<DiskInfo>& disks() const = 0;
};

}  // namespace evac::storage_sync
