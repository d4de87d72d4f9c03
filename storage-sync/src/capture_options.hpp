#pragma once
// What follows from CaptureOptions alone: their limits, names of files, and the removal of what a
// gateway before this one left under those names.
#include <cstdint>
#include <string>

#include "evac/core/result.hpp"
#include "evac/storage_sync/disk_capture.hpp"

namespace evac::storage_sync {

// invalid_argument names field, value and what is accepted.
Status check_options(const CaptureOptions& options);
// 0 asked: by the disk's size.
uint64_t choose_granularity(uint64_t asked_bytes, uint64_t size_bytes);

const std::string& overlay_dir_of(const CaptureOptions& options);
std::string socket_path_of(const CaptureOptions& options);
std::string overlay_path_of(const CaptureOptions& options, size_t disk);

}  // namespace evac::storage_sync
