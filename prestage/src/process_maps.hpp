#pragma once
// The mappings of a process, as /proc/PID/maps lists them. Internal to this library.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/result.hpp"

namespace evac::prestage {

struct ProcessMapping {
    uint64_t begin = 0, end = 0;  // addresses
    uint64_t offset = 0;          // in the file
    uint64_t device = 0;          // major << 32 | minor
    uint64_t inode = 0;
    bool shared = false;
    std::string name;
};

// begin-end perms offset major:minor inode [name]; nothing for any other text.
std::optional<ProcessMapping> parse_mapping(std::string_view line);

// In the kernel's order: by address. At most 64 MiB of text are read.
Result<std::vector<ProcessMapping>> read_mappings(int pid);

// The file shown at [address, address + size) by shared mappings of one file that begin at its
// offset 0 and leave no gap; otherwise why not.
Result<ProcessMapping> shared_file_at(const std::vector<ProcessMapping>& mappings, uint64_t address,
                                      uint64_t size);

}  // namespace evac::prestage
