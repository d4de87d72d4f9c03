#pragma once
// The staged copy of one VM at away: region files that a landing uses as they are, an open delta
// beside them, and sealed recovery points.
//
//   put / put_zero ... put        pages of round e arrive, in any order
//   seal(e, device state)         the recovery point moves from the last sealed one to e,
//   atomically
//
// Before the first seal there is no recovery point to protect: puts go straight into the region
// files. Afterwards they go to the open delta log, and reach the region files only behind a durable
// seal record.
//
// Durability: seal() returns when the seal record is durable (one fdatasync of the log; for the
// first seal the region files are synced before it) and the region files hold the point (for every
// process on this machine; checkpoint() makes that durable as well and frees the log). A process
// crash at any instant loses nothing that was put. A power loss keeps the last sealed point whole,
// and may lose unsealed puts and older points; RAM files on tmpfs are lost with the machine (open()
// then says so).
//
// Owner: the ingest thread, for every method. Blocking file I/O.
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "evac/core/bytes.hpp"
#include "evac/core/ids.hpp"
#include "evac/core/result.hpp"
#include "evac/core/units.hpp"
#include "evac/storage_sync/files.hpp"

namespace evac::storage_sync {

inline constexpr size_t kNameBytesMax = 255;             // of a VM or region
inline constexpr uint64_t kRegionBytesMax = 1ULL << 47;  // 128 TiB
inline constexpr uint64_t kDeviceStateBytesMax = 64 * kMiB;
inline constexpr uint64_t kLogBytesDefault = 64ULL << 30;  // open delta on disk
inline constexpr uint64_t kDeltaEntriesDefault =
    16ULL << 20;  // pages and zero runs in the open delta: 64 GiB
inline constexpr uint64_t kUndoBytesDefault = 16ULL << 30;  // all undo files of a VM
inline constexpr uint32_t kPointsDefault = 3;
inline constexpr uint32_t kPointsMax = 64;
inline constexpr uint64_t kFingerprintsPerCallMax = 65536;

struct StagedRegion {
    RegionKind kind{};
    std::string name;         // QEMU's block name, or the disk's name
    uint64_t size_bytes = 0;  // of the block or disk; RAM: a multiple of 4096; disks: of 512
};
struct StagedSpec {
    std::string name;  // the VM's name
    VmId vm{};
    std::vector<StagedRegion> regions;  // index = RegionId; 1 to kRegionsMax, at most one main_ram
};
struct StagedOptions {
    uint64_t log_bytes_max = kLogBytesDefault;
    // Open delta in memory: a table of 24-byte slots, 3/4 full at most: 32-64 bytes per page, 80
    // per zero run.
    uint64_t delta_entries_max = kDeltaEntriesDefault;
    uint64_t undo_bytes_max = kUndoBytesDefault;
    uint32_t points_max = kPointsDefault;  // recovery points kept, the newest included; 1 = no undo
    // Random: a guest that knew it could forge log records inside a torn page. Copies get their
    // ids from it, too.
    uint64_t nonce_seed = 0;
};

struct SealManifest {
    uint64_t batches = 0;      // of the VM, as counted by home; stored, not judged
    int64_t wall_unix_ms = 0;  // of the instant that the point shows
    bool keep_previous =
        true;  // false: no undo is written (shorter; for a handover's last seal), older points go
};
struct RecoveryPoint {
    Epoch epoch{};
    SealManifest manifest;
    uint64_t device_state_bytes = 0;
};
struct StagedStats {
    uint64_t open_pages = 0;  // entries of the open delta (0 before the first seal)
    uint64_t open_zero_runs = 0;
    uint64_t log_bytes = 0;  // open and sealed logs on disk
    uint64_t undo_bytes = 0;
    uint64_t puts = 0, zero_puts = 0,
             stale_puts = 0;    // since open; stale: a newer version was there
    uint64_t staged_bytes = 0;  // of distinct puts since open
};

enum class PutOutcome : uint8_t { kept, stale };
using PageHasher = std::function<Fingerprint(ByteSpan page)>;

class StagedVm {
  public:
    // `dir` and `ram_dir` belong to this VM alone (made when absent; main RAM goes to ram_dir,
    // which may be on tmpfs or the same as dir). The region files are all zeros. Errors:
    // invalid_argument, already_exists, io.
    static Result<std::unique_ptr<StagedVm>> create(Files& files, const std::string& dir,
                                                    const std::string& ram_dir,
                                                    const StagedSpec& spec,
                                                    const StagedOptions& options);
    // Finishes what a crash interrupted. Errors: not_found (no metadata: nothing was ever created),
    // corrupt (metadata or log header damaged, region file lost or of another size: names the
    // file), io.
    static Result<std::unique_ptr<StagedVm>> open(Files& files, const std::string& dir,
                                                  const StagedOptions& options);
    // Deletes all files of a VM that is not open; also after a create() that a crash cut short.
    static Status remove(Files& files, const std::string& dir, const std::string& ram_dir);

    virtual ~StagedVm() = default;  // keeps everything on disk

    virtual const StagedSpec& spec() const = 0;
    virtual std::string region_path(
        RegionId region) const = 0;  // RAM: raw, the block's size; disk: raw sparse image
    virtual StagedStats stats() const = 0;

    // --- staging. A page is kPageBytes; the bytes of the last page beyond the region's size must
    // be zero and are not stored. Refused after mark_landed(). unavailable: the open delta is at a
    // limit (log bytes or entries). io: disk full or broken; the recovery point and everything put
    // before stay as they are. The newest epoch wins, an equal epoch overwrites; epochs up to the
    // sealed one are stale.
    virtual Result<PutOutcome> put(RegionId region, uint64_t page, Epoch epoch, ByteSpan bytes) = 0;
    virtual Result<PutOutcome> put_zero(RegionId region, uint64_t first, uint64_t count,
                                        Epoch epoch) = 0;
    // What is staged now: open delta over region file.
    virtual Status read(RegionId region, uint64_t page, std::span<std::byte, kPageBytes> out) = 0;
    // Fingerprints of [first, first + count), count <= kFingerprintsPerCallMax; holes cost one hash
    // in all.
    virtual Result<std::vector<Fingerprint>> fingerprints(RegionId region, uint64_t first,
                                                          uint64_t count,
                                                          const PageHasher& hasher) = 0;

    // --- recovery points
    // `epoch` > the sealed one and >= every epoch put. Room for the point is reserved first: on
    // "disk full" the old point stands, the open delta is kept, and seal() may be called again.
    // After an io error while the record is made durable, or behind it, every call but the const
    // ones is refused: destroy and open(), which shows the old point or the new one.
    virtual Status seal(Epoch epoch, ByteSpan device_state, const SealManifest& manifest) = 0;
    // Makes the applied point durable in the region files and frees its log. Cheap when nothing is
    // pending; call when idle. seal() does it by itself when the one before is still pending.
    virtual Status checkpoint() = 0;
    // Forgets what was put since the last seal. refused before the first seal.
    virtual Status discard_open_delta() = 0;
    virtual std::vector<RecoveryPoint> points()
        const = 0;  // oldest first; empty before the first seal
    // A newer version of the page is here: put() of this epoch would answer stale.
    virtual bool superseded(RegionId region, uint64_t page, Epoch epoch) const = 0;
    virtual Epoch sealed_epoch() const = 0;  // 0 = none
    // Names this copy: random, never 0, durable, another one after create() and restore_point().
    // While it stays the same, what was sealed stays: sealed_epoch() never goes back.
    virtual uint64_t copy_id() const = 0;
    virtual Result<Bytes> device_state(Epoch epoch) = 0;  // not_found: no such point
    // Rolls the region files back to an older point; the open delta (at once) and newer points are
    // forgotten. Resumed by open() when a crash interrupts it.
    virtual Status restore_point(Epoch epoch) = 0;

    // --- landing
    // While held (a drill maps the files), seal() and restore_point() answer unavailable; puts go
    // on. Not persistent.
    virtual void set_hold(bool held) = 0;
    // MUST precede the start of a QEMU that writes to the files: afterwards nothing here touches
    // them again (a crash would otherwise redo the log over a running guest). Durable. Discards the
    // open delta; syncs the disks' files. refused: never sealed.
    virtual Status mark_landed() = 0;
    virtual bool landed() const = 0;
    // The landing did not happen and nothing was written to the files: staging goes on.
    virtual Status unmark_landed() = 0;
};

}  // namespace evac::storage_sync
