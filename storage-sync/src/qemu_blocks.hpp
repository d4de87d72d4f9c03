#pragma once
// The QMP conversations of disk capture, one function each. Everything made has a name starting
// with kPrefix. Errors: those of qmp::Client; corrupt when an answer lacks what it must hold.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "evac/core/result.hpp"
#include "evac/qmp/client.hpp"

namespace evac::storage_sync {

inline constexpr std::string_view kPrefix = "evac-";
inline constexpr int kJobTimeoutMs = 30'000;
inline constexpr size_t kNodesMax = 4096;  // in one QEMU; more is not looked at

struct BitmapInfo {
    std::string name;
    uint64_t count_bytes = 0;  // dirty
    uint64_t granularity_bytes = 0;
    bool recording = false;
    bool busy = false;
    bool inconsistent = false;
};
struct NodeInfo {
    std::string name;
    std::string driver;
    uint64_t size_bytes = 0;
    std::vector<BitmapInfo> bitmaps;
};

inline bool is_ours(std::string_view name) {
    return name.substr(0, kPrefix.size()) == kPrefix;
}

Result<std::vector<NodeInfo>> list_nodes(qmp::Client& client);
const NodeInfo* find_node(const std::vector<NodeInfo>& nodes, std::string_view name);

// A qcow2 overlay at `path`, made and opened by QEMU, with `disk_node` below it. Nodes `name` and
// `name`-file.
struct OverlayRequest {
    std::string name;
    std::string path;
    std::string disk_node;
    uint64_t size_bytes = 0;
};
Status add_overlay(qmp::Client& client, const OverlayRequest& request);
Status remove_overlay(qmp::Client& client, const std::string& name);

struct ExportRequest {
    std::string id;  // also the NBD export's name
    std::string node;
    std::string bitmap_node;
    std::string bitmap;
};
Status add_export(qmp::Client& client, const ExportRequest& request);
// QEMU keeps a duplicate of the socket of this export's client, so that the connection outlives this
// process, until remove_export().
Status hold_socket(qmp::Client& client, const std::string& id, int fd);
// Cuts off its client and waits until it is gone; absent is fine.
Status remove_export(qmp::Client& client, const std::string& id);

// Cancels (or dismisses) the job and waits until it is gone; absent is fine.
Status end_job(qmp::Client& client, const std::string& id);

Status start_nbd_server(qmp::Client& client, const std::string& socket_path);

// All that is named "evac-". Both return what was removed.
Result<std::vector<std::string>> remove_views(qmp::Client& client);  // exports, jobs, nodes
Result<std::vector<std::string>> remove_bitmaps(qmp::Client& client);

// Member `key` of a JSON object when it has that type, else a default.
std::string text_of(const qmp::Json& object, const char* key);
uint64_t number_of(const qmp::Json& object, const char* key);
bool flag_of(const qmp::Json& object, const char* key);

}  // namespace evac::storage_sync
