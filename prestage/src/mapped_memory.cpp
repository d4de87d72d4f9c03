// Finding the file behind a VM's main RAM.
#include "evac/prestage/mapped_memory.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>

#include "evac/qmp/client.hpp"
#include "json_access.hpp"
#include "migration_control.hpp"
#include "process_maps.hpp"

namespace evac::prestage {
namespace {

using qmp::Json;

// RAM on every x86 machine, in one piece with what lies below it (but for the VGA window), so that
// the block's begin follows from it.
constexpr uint64_t kProbeAddress = 0x100000;

std::string proc(int pid, const std::string& rest) {
    return "/proc/" + std::to_string(pid) + "/" + rest;
}

// "Host virtual address for 0x100000 (pc.ram) is 0x7f1b240ff000" -> where the block begins.
Result<uint64_t> block_address(qmp::Client& client, const std::string& backend) {
    const auto answer =
        client.execute("human-monitor-command", Json{{"command-line", "gpa2hva 0x100000"}});
    if (!answer.ok()) return answer.error();
    const std::string text = json::text(*answer);
    const auto refuse = [&] {
        return make_error(Errc::refused,
                          "guest address 0x100000 is not in memory backend '" + backend +
                              "'; QEMU says: " + text.substr(0, text.find_first_of("\r\n")));
    };
    const std::string marker = " (" + backend + ") is 0x";
    const size_t at = text.find(marker);
    if (at == std::string::npos) return refuse();
    uint64_t address = 0;
    const char* const end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data() + at + marker.size(), end, address, 16);
    if (parsed.ec != std::errc{} || address < kProbeAddress) return refuse();
    return address - kProbeAddress;
}

std::string range_name(const ProcessMapping& mapping) {
    char text[48];
    std::snprintf(text, sizeof(text), "map_files/%llx-%llx",
                  static_cast<unsigned long long>(mapping.begin),
                  static_cast<unsigned long long>(mapping.end));
    return text;
}

UniqueFd open_to_read(const std::string& path) {
    return UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
}

// Places where the file may be opened; which of them shows the right one is found out afterwards.
// QEMU keeps its memory's descriptor open; the path is as QEMU sees it.
std::vector<std::string> candidates(int pid, const ProcessMapping& mapping) {
    std::vector<std::string> out{proc(pid, range_name(mapping))};
    if (mapping.name.starts_with('/')) out.push_back(proc(pid, "root") + mapping.name);
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(proc(pid, "fd"), error)) {
        struct stat info {};
        if (::stat(entry.path().c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
            info.st_ino == mapping.inode)
            out.push_back(entry.path().string());
    }
    return out;
}

}  // namespace

Result<std::unique_ptr<MappedMemory>> MappedMemory::open(qmp::Client& client, const VmFacts& facts,
                                                         const Clock& clock) {
    const std::string backend = "memory backend '" + facts.memory_backend + "'";
    if (!facts.memory_shared) {
        return make_error(Errc::refused,
                          backend +
                              " is not shared (share=off); a memory-backend-memfd or "
                              "-file with share=on is accepted");
    }
    const auto block = std::ranges::find(facts.ram_blocks, facts.memory_backend, &RamBlock::name);
    if (block == facts.ram_blocks.end() || block->size_bytes % kPageBytes != 0) {
        return make_error(Errc::refused, backend + " is not among the RAM blocks in whole pages");
    }
    const int pid = client.peer_pid();
    if (pid <= 0) {
        return make_error(Errc::refused, "QEMU's process behind '" + client.path() +
                                             "' is not known on this host");
    }
    const auto address = block_address(client, facts.memory_backend);
    if (!address.ok()) return address.error();
    const auto mappings = read_mappings(pid);
    if (!mappings.ok()) return mappings.error();
    const auto theirs = shared_file_at(*mappings, *address, block->size_bytes);
    if (!theirs.ok()) return theirs.error();

    Error last = make_error(Errc::refused, "RAM file '" + theirs->name + "' of " + backend +
                                               " could not be opened (needs QEMU's user or root)");
    for (const std::string& path : candidates(pid, *theirs)) {
        UniqueFd file = open_to_read(path);
        if (!file.valid()) continue;
        std::unique_ptr<MappedMemory> memory(new MappedMemory(std::move(file), *block, clock));
        memory->file_name_ = theirs->name;
        const Status mapped = memory->map();
        if (!mapped.ok()) {
            last = mapped.error();
            continue;
        }
        const auto own = read_mappings(::getpid());
        if (!own.ok()) return own.error();
        const auto ours =
            shared_file_at(*own, reinterpret_cast<uint64_t>(memory->base_), block->size_bytes);
        if (!ours.ok() || ours->inode != theirs->inode || ours->device != theirs->device) {
            last = make_error(Errc::refused, "'" + path + "' is not the file that QEMU has mapped");
            continue;
        }
        memory->pid_ = pid;
        memory->host_address_ = *address;
        memory->identity_ = {theirs->device, theirs->inode};
        return memory;
    }
    return last;
}

Result<std::unique_ptr<MappedMemory>> MappedMemory::from_file(UniqueFd file, RamBlock block,
                                                              const Clock& clock) {
    if (block.size_bytes == 0 || block.size_bytes % kPageBytes != 0) {
        return make_error(Errc::invalid_argument, "RAM block '" + block.name + "' of " +
                                                      std::to_string(block.size_bytes) +
                                                      " bytes; whole pages are accepted");
    }
    std::unique_ptr<MappedMemory> memory(
        new MappedMemory(std::move(file), std::move(block), clock));
    memory->file_name_ = "descriptor " + std::to_string(memory->file_.get());
    EVAC_TRY(memory->map());
    return memory;
}

Status MappedMemory::check_unchanged() {
    if (lost_) {
        return make_error(Errc::refused,
                          "RAM file '" + file_name_ + "' was lost; the VM has to be examined anew");
    }
    struct stat info {};
    if (::fstat(file_.get(), &info) != 0 ||
        static_cast<uint64_t>(info.st_size) < block_.size_bytes) {
        lost_ = true;
        return make_error(Errc::refused, "RAM file '" + file_name_ + "' has " +
                                             std::to_string(info.st_size) + " bytes now, " +
                                             std::to_string(block_.size_bytes) + " are accepted");
    }
    if (pid_ == 0) return {};
    const auto mappings = read_mappings(pid_);
    if (!mappings.ok()) return mappings.error();
    const auto theirs = shared_file_at(*mappings, host_address_, block_.size_bytes);
    if (theirs.ok() && Identity{theirs->device, theirs->inode} == identity_) return {};
    lost_ = true;
    return make_error(Errc::refused, "QEMU's memory is not in RAM file '" + file_name_ +
                                         "' any more" +
                                         (theirs.ok() ? "" : ": " + theirs.error().context));
}

bool can_snapshot_beside_mapping(qmp::Client& client) {
    const auto parameters = client.execute("query-migrate-parameters");
    if (!parameters.ok()) return false;
    SavedSettings saved;
    const Status applied = apply_capabilities(client, {"x-ignore-shared", "background-snapshot"},
                                              json::number(*parameters, "max-bandwidth"), saved);
    const Status restored = restore_settings(client, saved);
    return applied.ok() && restored.ok();
}

}  // namespace evac::prestage
