#include "qemu_blocks.hpp"

#include <algorithm>

#include "evac/core/clock.hpp"
#include "evac/core/units.hpp"

namespace evac::storage_sync {
namespace {

using qmp::Json;

constexpr int kPollMs = 5;  // between looks at a job, when no event comes first

// Entries of a JSON array answer whose member `key` starts with our prefix.
Result<std::vector<std::string>> our_names(qmp::Client& client, const char* command,
                                           const char* key) {
    auto answer = client.execute(command);
    EVAC_TRY(answer);
    if (!answer->is_array())
        return make_error(Errc::corrupt, std::string(command) + ": not an array");
    std::vector<std::string> names;
    for (const Json& entry : *answer) {
        std::string name = text_of(entry, key);
        if (is_ours(name)) names.push_back(std::move(name));
    }
    return names;
}

// Waits until `id` is no longer in the answer of `command`. Events only shorten the wait, so that a
// lost one costs nothing.
Status wait_gone(qmp::Client& client, const char* command, const std::string& id,
                 const char* event) {
    const SystemClock clock;
    const uint64_t deadline_ns = clock.now_ns() + uint64_t{kJobTimeoutMs} * kNsPerMs;
    while (true) {
        auto names = our_names(client, command, "id");
        EVAC_TRY(names);
        if (std::find(names->begin(), names->end(), id) == names->end()) return {};
        if (clock.now_ns() > deadline_ns)
            return make_error(Errc::timeout, "QEMU does not end '" + id + "'");
        auto seen = client.wait_event(event, kPollMs);
        if (!seen.ok() && seen.error().code != Errc::timeout) return seen.error();
    }
}

// blockdev-create: waits for the job's end, and turns its error into ours.
Status create_image(qmp::Client& client, const std::string& job, Json options) {
    EVAC_TRY(client.execute("blockdev-create", {{"job-id", job}, {"options", std::move(options)}}));
    const SystemClock clock;
    const uint64_t deadline_ns = clock.now_ns() + uint64_t{kJobTimeoutMs} * kNsPerMs;
    while (true) {
        auto jobs = client.execute("query-jobs");
        EVAC_TRY(jobs);
        bool found = false;
        for (const Json& entry : *jobs) {
            if (text_of(entry, "id") != job) continue;
            found = true;
            if (text_of(entry, "status") != "concluded") continue;
            const std::string error = text_of(entry, "error");
            EVAC_TRY(client.execute("job-dismiss", {{"id", job}}));
            if (!error.empty())
                return make_error(Errc::refused, "QEMU cannot make an overlay: " + error);
            return {};
        }
        if (!found) return make_error(Errc::corrupt, "QEMU lost job '" + job + "'");
        if (clock.now_ns() > deadline_ns)
            return make_error(Errc::timeout, "QEMU does not end '" + job + "'");
        auto seen = client.wait_event("JOB_STATUS_CHANGE", kPollMs);
        if (!seen.ok() && seen.error().code != Errc::timeout) return seen.error();
    }
}

}  // namespace

std::string text_of(const Json& object, const char* key) {
    if (!object.is_object()) return {};
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string{};
}
uint64_t number_of(const Json& object, const char* key) {
    if (!object.is_object()) return 0;
    const auto found = object.find(key);
    return found != object.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}
bool flag_of(const Json& object, const char* key) {
    if (!object.is_object()) return false;
    const auto found = object.find(key);
    return found != object.end() && found->is_boolean() && found->get<bool>();
}

Result<std::vector<NodeInfo>> list_nodes(qmp::Client& client) {
    auto answer = client.execute("query-named-block-nodes", {{"flat", true}});
    EVAC_TRY(answer);
    if (!answer->is_array() || answer->size() > kNodesMax) {
        return make_error(Errc::corrupt, "query-named-block-nodes: an array of at most " +
                                             std::to_string(kNodesMax) + " nodes is accepted");
    }
    std::vector<NodeInfo> nodes;
    for (const Json& entry : *answer) {
        NodeInfo node{text_of(entry, "node-name"), text_of(entry, "drv"), 0, {}};
        if (entry.is_object() && entry.contains("image")) {
            node.size_bytes = number_of(entry["image"], "virtual-size");
        }
        if (entry.is_object() && entry.contains("dirty-bitmaps") &&
            entry["dirty-bitmaps"].is_array()) {
            for (const Json& bitmap : entry["dirty-bitmaps"]) {
                node.bitmaps.push_back({text_of(bitmap, "name"), number_of(bitmap, "count"),
                                        number_of(bitmap, "granularity"),
                                        flag_of(bitmap, "recording"), flag_of(bitmap, "busy"),
                                        flag_of(bitmap, "inconsistent")});
            }
        }
        nodes.push_back(std::move(node));
    }
    return nodes;
}

const NodeInfo* find_node(const std::vector<NodeInfo>& nodes, std::string_view name) {
    const auto found =
        std::find_if(nodes.begin(), nodes.end(), [&](const NodeInfo& n) { return n.name == name; });
    return found == nodes.end() ? nullptr : &*found;
}

Status add_overlay(qmp::Client& client, const OverlayRequest& request) {
    const std::string file_node = request.name + "-file";
    const std::string job = request.name + "-create";
    EVAC_TRY(
        create_image(client, job, {{"driver", "file"}, {"filename", request.path}, {"size", 0}}));
    EVAC_TRY(
        client.execute("blockdev-add",
                       {{"driver", "file"}, {"filename", request.path}, {"node-name", file_node}}));
    EVAC_TRY(create_image(
        client, job, {{"driver", "qcow2"}, {"file", file_node}, {"size", request.size_bytes}}));
    EVAC_TRY(client.execute("blockdev-add", {{"driver", "qcow2"},
                                             {"node-name", request.name},
                                             {"file", file_node},
                                             {"backing", request.disk_node}}));
    return {};
}

Status remove_overlay(qmp::Client& client, const std::string& name) {
    auto nodes = list_nodes(client);
    EVAC_TRY(nodes);
    for (const std::string& node : {name, name + "-file"}) {
        if (find_node(*nodes, node) != nullptr)
            EVAC_TRY(client.execute("blockdev-del", {{"node-name", node}}));
    }
    return {};
}

Status add_export(qmp::Client& client, const ExportRequest& request) {
    Json bitmap{{"node", request.bitmap_node}, {"name", request.bitmap}};
    EVAC_TRY(client.execute("block-export-add", {{"type", "nbd"},
                                                 {"id", request.id},
                                                 {"name", request.id},
                                                 {"node-name", request.node},
                                                 {"writable", false},
                                                 {"bitmaps", Json::array({std::move(bitmap)})}}));
    return {};
}

Status hold_socket(qmp::Client& client, const std::string& id, int fd) {
    EVAC_TRY(client.execute_with_fd("getfd", {{"fdname", id}}, fd));
    return {};
}

Status remove_export(qmp::Client& client, const std::string& id) {
    auto names = our_names(client, "query-block-exports", "id");
    EVAC_TRY(names);
    if (std::find(names->begin(), names->end(), id) == names->end()) return {};
    EVAC_TRY(client.execute("block-export-del", {{"id", id}, {"mode", "hard"}}));
    // Its client counts as closed from here on. What it never read keeps QEMU waiting for room in
    // the socket, until the last holder of the other end lets go.
    auto released = client.execute("closefd", {{"fdname", id}});
    if (!released.ok() && released.error().code != Errc::refused) return released.error();
    return wait_gone(client, "query-block-exports", id, "BLOCK_EXPORT_DELETED");
}

Status end_job(qmp::Client& client, const std::string& id) {
    auto jobs = client.execute("query-jobs");
    EVAC_TRY(jobs);
    for (const Json& entry : *jobs) {
        if (text_of(entry, "id") != id) continue;
        const bool concluded = text_of(entry, "status") == "concluded";
        auto ended = concluded
                         ? client.execute("job-dismiss", {{"id", id}})
                         : client.execute("block-job-cancel", {{"device", id}, {"force", true}});
        // It may have ended by itself meanwhile; whether it is gone is what counts.
        if (!ended.ok() && ended.error().code != Errc::refused) return ended.error();
    }
    return wait_gone(client, "query-jobs", id, "JOB_STATUS_CHANGE");
}

Status start_nbd_server(qmp::Client& client, const std::string& socket_path) {
    Json address{{"type", "unix"}, {"data", {{"path", socket_path}}}};
    auto started =
        client.execute("nbd-server-start", {{"addr", std::move(address)}, {"max-connections", 4}});
    if (!started.ok()) {
        Error error = std::move(started).error();
        if (error.code == Errc::refused) {
            error.context +=
                "; the gateway needs QEMU's NBD server for itself while a point is read";
        }
        return error;
    }
    return {};
}

Result<std::vector<std::string>> remove_views(qmp::Client& client) {
    std::vector<std::string> removed;
    auto exports = our_names(client, "query-block-exports", "id");
    EVAC_TRY(exports);
    for (const std::string& id : *exports) {
        EVAC_TRY(remove_export(client, id));
        removed.push_back("export " + id);
    }
    auto jobs = our_names(client, "query-jobs", "id");
    EVAC_TRY(jobs);
    for (const std::string& id : *jobs) {
        EVAC_TRY(end_job(client, id));
        removed.push_back("job " + id);
    }
    // An overlay holds its file node, so the order matters: what is still in use is tried again
    // once.
    for (int pass = 0; pass < 2; ++pass) {
        auto nodes = list_nodes(client);
        EVAC_TRY(nodes);
        for (const NodeInfo& node : *nodes) {
            if (!is_ours(node.name)) continue;
            auto deleted = client.execute("blockdev-del", {{"node-name", node.name}});
            if (deleted.ok()) removed.push_back("node " + node.name);
            if (!deleted.ok() && (pass == 1 || deleted.error().code != Errc::refused))
                return deleted.error();
        }
    }
    return removed;
}

Result<std::vector<std::string>> remove_bitmaps(qmp::Client& client) {
    std::vector<std::string> removed;
    auto nodes = list_nodes(client);
    EVAC_TRY(nodes);
    for (const NodeInfo& node : *nodes) {
        for (const BitmapInfo& bitmap : node.bitmaps) {
            if (!is_ours(bitmap.name)) continue;
            EVAC_TRY(client.execute("block-dirty-bitmap-remove",
                                    {{"node", node.name}, {"name", bitmap.name}}));
            removed.push_back("bitmap " + node.name + "/" + bitmap.name);
        }
    }
    return removed;
}

}  // namespace evac::storage_sync
