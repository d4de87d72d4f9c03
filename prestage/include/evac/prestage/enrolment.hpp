#pragma once
// What a running QEMU is, asked over QMP, and whether it can be protected.
// Owner: any one thread at a time; blocking.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/core/log.hpp"
#include "evac/core/result.hpp"
#include "evac/prestage/captured_page.hpp"
#include "evac/prestage/stream_parser.hpp"

namespace evac::qmp {
class Client;
}

namespace evac::prestage {

inline constexpr size_t kFactsTextBytesMax = 1024 * 1024;
inline constexpr size_t kFactsStringBytesMax = 4096;
inline constexpr size_t kFactsListMax = 4096;

struct DiskFacts {
    std::string node_name;  // of the guest's device; auto-generated ones start with '#'
    std::string device;     // qdev id or QOM path of the device that uses it
    std::string file;       // image file name or URI
    std::string format;     // raw, qcow2
    uint64_t size_bytes = 0;
    bool read_only = false;

    bool operator==(const DiskFacts&) const = default;
};

struct VmFacts {
    std::string name;  // -name, may be empty
    std::string uuid;
    std::string qemu_version;               // "7.2.22"
    std::string machine_type;               // alias resolved: "pc-q35-7.2"
    std::string accelerator;                // "kvm" or "tcg"
    std::string cpu_model;                  // QOM type: "qemu64-x86_64-cpu"
    std::vector<std::string> cpu_features;  // "eax=1 EDX=0x078bfbfd", one per feature word, sorted
    uint32_t vcpus = 0;
    uint64_t memory_bytes = 0;          // base memory
    uint64_t memory_plugged_bytes = 0;  // hot-plugged
    std::string memory_backend;         // id, "pc.ram" unless named
    bool memory_shared = false;         // share=on
    std::vector<std::string>
        devices;                // canonical lines, sorted: PCI path, ids, class; QOM path and type
    uint64_t devices_hash = 0;  // FNV-1a of the lines
    std::vector<RamBlock>
        ram_blocks;  // in the stream's order; empty when not probed (incoming side)
    std::vector<DiskFacts> disks;
    bool background_snapshot = false;        // the capability could be enabled
    std::string background_snapshot_reason;  // why not, in QEMU's words
    std::vector<std::string> blockers;       // of migration, in QEMU's words
    std::string run_state;                   // "running", "paused", "inmigrate", ...
    std::string migration_tls;               // tls-creds set for migrations; empty = none

    bool operator==(const VmFacts&) const = default;
};

struct Refusal {
    std::string reason;  // for the operator: field, value, what is accepted
};

struct Difference {
    std::string field;
    std::string home;
    std::string away;
    std::string message() const;  // "cpu_model: home has 'a', away has 'b'"
};

struct FactsOptions {
    std::string run_dir;  // for the probe's socket; empty = do not probe (no RAM blocks, no
                          // blockers by attempt)
};

// Asks QEMU. With a run_dir a running or paused VM is also probed: `migrate` is begun at a trickle,
// its RAM block list read, and cancelled; the guest is not stopped by that. Capabilities and
// parameters are left as found.
Result<VmFacts> collect_facts(qmp::Client& client, const FactsOptions& options, const Clock& clock,
                              Logger& log);

// Why this VM can not be protected; empty = it can.
std::vector<Refusal> refusals(const VmFacts& facts);

// What would make a landing of `home` on `away` (a QEMU waiting for it) wrong. Run state, blockers,
// file names, background-snapshot, accelerator, name, memory sharing and QEMU version are not
// compared.
std::vector<Difference> compare(const VmFacts& home, const VmFacts& away);

// RAM blocks in the stream's order, then the writable disks: the VM's region list. The main RAM is
// the block named as the memory backend.
std::vector<RegionInfo> region_list(const VmFacts& facts);

// For the wire: JSON text of at most kFactsTextBytesMax. Parsing refuses unknown types and whatever
// exceeds the limits.
std::string facts_to_text(const VmFacts& facts);
Result<VmFacts> facts_from_text(std::string_view text);

}  // namespace evac::prestage
