// Which of a VM's drives are captured, which need not be, and which make the VM unprotectable.
#include <algorithm>
#include <array>

#include "evac/storage_sync/disk_capture.hpp"
#include "qemu_blocks.hpp"

namespace evac::storage_sync {
namespace {

using qmp::Json;

// Filters that a block job of someone else has put above the disk: their node goes away when the
// job ends, and a bitmap on it with them.
constexpr std::array<std::string_view, 5> kJobFilters = {"copy-before-write", "backup-top",
                                                         "mirror_top", "commit_top", "stream"};

// "/machine/peripheral/vd0/virtio-backend" is what people call vd0.
std::string friendly_name(const std::string& qdev, const std::string& device) {
    constexpr std::string_view prefix = "/machine/peripheral/";
    constexpr std::string_view suffix = "/virtio-backend";
    std::string name = qdev;
    if (name.rfind(prefix, 0) == 0) {
        name.erase(0, prefix.size());
        if (name.size() > suffix.size() && name.ends_with(suffix))
            name.erase(name.size() - suffix.size());
        return name;
    }
    return device.empty() ? qdev : device;
}

// Passed-through SCSI devices send the guest's commands past the block layer, where no bitmap sees
// them.
Result<bool> is_passthrough(qmp::Client& client, const std::string& qdev) {
    auto type = client.execute("qom-get", {{"path", qdev}, {"property", "type"}});
    if (!type.ok()) {
        if (type.error().code == Errc::refused)
            return false;  // a device without a QOM path: not SCSI
        return type.error();
    }
    return type->is_string() && (*type == "scsi-block" || *type == "scsi-generic");
}

Status look_at(qmp::Client& client, const Json& entry, const std::vector<NodeInfo>& nodes,
               DiskSurvey& survey) {
    const std::string device = text_of(entry, "device");
    const std::string qdev = text_of(entry, "qdev");
    DiskInfo disk{friendly_name(qdev, device), qdev, {}, {}, 0};
    const auto skip = [&](const char* reason) { survey.skipped.push_back({disk.name, reason}); };
    const auto refuse = [&](std::string reason) {
        survey.refused.push_back({disk.name, std::move(reason)});
    };
    if (!entry.is_object() || !entry.contains("inserted") || !entry["inserted"].is_object()) {
        skip("no medium");
        return {};
    }
    const Json& inserted = entry["inserted"];
    disk.node = text_of(inserted, "node-name");
    disk.format = text_of(inserted, "drv");
    if (qdev.empty()) {
        skip("not attached to a device of the guest");
        return {};
    }
    if (flag_of(inserted, "ro")) {
        skip("read-only: the landing needs the same image at the other site");
        return {};
    }
    const NodeInfo* node = find_node(nodes, disk.node);
    if (disk.node.empty() || node == nullptr) {
        refuse("its block node '" + disk.node + "' is not among QEMU's named nodes");
        return {};
    }
    disk.size_bytes = node->size_bytes;
    const bool job_filter =
        std::find(kJobFilters.begin(), kJobFilters.end(), disk.format) != kJobFilters.end();
    auto passthrough = is_passthrough(client, qdev);
    EVAC_TRY(passthrough);
    if (*passthrough) {
        refuse("a passed-through SCSI device: its writes bypass QEMU's block layer");
    } else if (is_ours(disk.node)) {
        refuse("a former gateway's leftover is on it; recover_disks() comes before the survey");
    } else if (job_filter) {
        refuse("a block job is running on it (node driver '" + disk.format +
               "'); enrol the VM after the job");
    } else if (flag_of(inserted, "encrypted")) {
        refuse("the image is encrypted, and would be stored in clear at the other site");
    } else if (disk.size_bytes == 0 || disk.size_bytes % 512 != 0) {
        refuse("size " + std::to_string(disk.size_bytes) +
               " bytes: a positive multiple of 512 is accepted");
    } else if (std::any_of(survey.disks.begin(), survey.disks.end(),
                           [&](const DiskInfo& other) { return other.node == disk.node; })) {
        refuse("shares block node '" + disk.node + "' with another device");
    } else if (survey.disks.size() >= kDisksMax) {
        refuse("at most " + std::to_string(kDisksMax) + " disks per VM are accepted");
    } else {
        survey.disks.push_back(std::move(disk));
    }
    return {};
}

}  // namespace

Result<DiskSurvey> survey_disks(qmp::Client& client) {
    auto blocks = client.execute("query-block");
    EVAC_TRY(blocks);
    if (!blocks->is_array()) return make_error(Errc::corrupt, "query-block: not an array");
    auto nodes = list_nodes(client);
    EVAC_TRY(nodes);
    DiskSurvey survey;
    for (const Json& entry : *blocks) EVAC_TRY(look_at(client, entry, *nodes, survey));
    return survey;
}

}  // namespace evac::storage_sync
