// Asking a QEMU what it is.
#include "evac/prestage/enrolment.hpp"

#include <algorithm>
#include <array>
#include <cstdio>

#include "capture_socket.hpp"
#include "evac/core/units.hpp"
#include "evac/qmp/client.hpp"
#include "json_access.hpp"
#include "migration_control.hpp"

namespace evac::prestage {
namespace {

using qmp::Json;

constexpr int kProbeMs = 10'000;
constexpr uint64_t kProbeBandwidth =
    64 * 1024;  // bytes/s: too slow for the probe's migration to get anywhere
constexpr int kBridgeDepthMax = 16;

std::string hex(uint64_t value, int digits) {
    std::array<char, 24> text{};
    std::snprintf(text.data(), text.size(), "%0*llx", digits,
                  static_cast<unsigned long long>(value));
    return text.data();
}

std::string strip(std::string text, std::string_view suffix) {
    if (text.ends_with(suffix)) text.resize(text.size() - suffix.size());
    return text;
}

Result<Json> qom_get(qmp::Client& client, const std::string& path, const std::string& property) {
    return client.execute("qom-get", Json{{"path", path}, {"property", property}});
}

uint64_t fnv1a(const std::vector<std::string>& lines) {
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (const std::string& line : lines) {
        for (const char c : line + "\n")
            hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    }
    return hash;
}

Status ask_identity(qmp::Client& client, VmFacts& facts) {
    const auto version = client.execute("query-version");
    if (!version.ok()) return version.error();
    const Json& qemu = json::member(*version, "qemu");
    facts.qemu_version = std::to_string(json::number(qemu, "major")) + "." +
                         std::to_string(json::number(qemu, "minor")) + "." +
                         std::to_string(json::number(qemu, "micro"));
    const auto name = client.execute("query-name");
    if (!name.ok()) return name.error();
    facts.name = json::text(*name, "name");
    const auto uuid = client.execute("query-uuid");
    if (!uuid.ok()) return uuid.error();
    facts.uuid = json::text(*uuid, "UUID");
    const auto kvm = client.execute("query-kvm");
    if (!kvm.ok()) return kvm.error();
    facts.accelerator = json::flag(*kvm, "enabled") ? "kvm" : "tcg";
    const auto machine = qom_get(client, "/machine", "type");
    if (!machine.ok()) return machine.error();
    facts.machine_type = strip(json::text(*machine), "-machine");
    const auto guest = query_guest(client);
    if (!guest.ok()) return guest.error();
    facts.run_state = guest->status;
    return {};
}

Status ask_cpus(qmp::Client& client, VmFacts& facts) {
    const auto cpus = client.execute("query-cpus-fast");
    if (!cpus.ok()) return cpus.error();
    const Json& list = json::array(*cpus);
    facts.vcpus = static_cast<uint32_t>(list.size());
    if (list.empty()) return {};
    const std::string path = json::text(list.front(), "qom-path");
    const auto type = qom_get(client, path, "type");
    if (!type.ok()) return type.error();
    facts.cpu_model = json::text(*type);
    const auto words = qom_get(client, path, "feature-words");  // x86 only: absent is no failure
    if (!words.ok()) return {};
    for (const Json& word : json::array(*words)) {
        std::string line = "eax=" + hex(json::number(word, "cpuid-input-eax"), 1);
        if (word.is_object() && word.contains("cpuid-input-ecx")) {
            line += " ecx=" + hex(json::number(word, "cpuid-input-ecx"), 1);
        }
        line +=
            " " + json::text(word, "cpuid-register") + "=" + hex(json::number(word, "features"), 8);
        facts.cpu_features.push_back(std::move(line));
    }
    std::ranges::sort(facts.cpu_features);
    return {};
}

Status ask_memory(qmp::Client& client, VmFacts& facts) {
    const auto size = client.execute("query-memory-size-summary");
    if (!size.ok()) return size.error();
    facts.memory_bytes = json::number(*size, "base-memory");
    facts.memory_plugged_bytes = json::number(*size, "plugged-memory");
    const auto backend = qom_get(client, "/machine", "memory-backend");
    if (!backend.ok()) return backend.error();
    const std::string path = json::text(*backend);
    facts.memory_backend = path.substr(path.rfind('/') + 1);
    const auto backends = client.execute("query-memdev");
    if (!backends.ok()) return backends.error();
    for (const Json& entry : json::array(*backends)) {
        if (json::text(entry, "id") == facts.memory_backend)
            facts.memory_shared = json::flag(entry, "share");
    }
    return {};
}

// One line per PCI device. Bus numbers are the guest's choice, so a device behind a bridge is named
// by the bridge's path.
void add_pci(const Json& devices, const std::string& parent, int depth,
             std::vector<std::string>& lines) {
    for (const Json& device : json::array(devices)) {
        const std::string path = parent + "/" + hex(json::number(device, "slot"), 2) + "." +
                                 hex(json::number(device, "function"), 1);
        const Json& id = json::member(device, "id");
        std::string line = "pci " + path + " " + hex(json::number(id, "vendor"), 4) + ":" +
                           hex(json::number(id, "device"), 4) + " sub " +
                           hex(json::number(id, "subsystem-vendor"), 4) + ":" +
                           hex(json::number(id, "subsystem"), 4) + " class " +
                           hex(json::number(json::member(device, "class_info"), "class"), 4);
        const std::string qdev = json::text(device, "qdev_id");
        if (!qdev.empty()) line += " id " + qdev;
        lines.push_back(std::move(line));
        if (depth < kBridgeDepthMax) {
            add_pci(json::member(json::member(device, "pci_bridge"), "devices"), path, depth + 1,
                    lines);
        }
    }
}

Status ask_devices(qmp::Client& client, VmFacts& facts) {
    const auto pci = client.execute("query-pci");
    if (!pci.ok()) return pci.error();
    for (const Json& bus : json::array(*pci)) {
        add_pci(json::member(bus, "devices"), hex(json::number(bus, "bus"), 2), 0, facts.devices);
    }
    for (const char* parent : {"peripheral", "peripheral-anon", "unattached"}) {
        const auto children =
            client.execute("qom-list", Json{{"path", std::string("/machine/") + parent}});
        if (!children.ok()) return children.error();
        for (const Json& child : json::array(*children)) {
            const std::string name = json::text(child, "name");
            const std::string type = json::text(child, "type");
            // Unattached holds memory regions and interrupt lines too; devices are named device[n].
            const bool is_device =
                parent != std::string_view("unattached") || name.starts_with("device[");
            if (type.starts_with("child<") && is_device) {
                facts.devices.push_back("qom " + std::string(parent) + "/" + name + " " + type);
            }
        }
    }
    std::ranges::sort(facts.devices);
    facts.devices_hash = fnv1a(facts.devices);
    return {};
}

Status ask_disks(qmp::Client& client, VmFacts& facts) {
    const auto blocks = client.execute("query-block");
    if (!blocks.ok()) return blocks.error();
    for (const Json& block : json::array(*blocks)) {
        const Json& inserted = json::member(block, "inserted");
        const std::string user = json::text(block, "qdev");
        if (!inserted.is_object() || user.empty())
            continue;  // an empty drive, or used by no device
        DiskFacts disk;
        disk.node_name = json::text(inserted, "node-name");
        disk.device = user;
        disk.file = json::text(inserted, "file");
        disk.format = json::text(inserted, "drv");
        disk.size_bytes = json::number(json::member(inserted, "image"), "virtual-size");
        disk.read_only = json::flag(inserted, "ro");
        facts.disks.push_back(std::move(disk));
    }
    return {};
}

Status try_background_snapshot(qmp::Client& client, VmFacts& facts) {
    const auto parameters = client.execute("query-migrate-parameters");
    if (!parameters.ok()) return parameters.error();
    facts.migration_tls = json::text(*parameters, "tls-creds");
    SavedSettings saved;
    const Status applied =
        apply_settings(client, true, json::number(*parameters, "max-bandwidth"), saved);
    facts.background_snapshot = applied.ok();
    if (!applied.ok()) {
        if (!client.usable()) return applied;
        facts.background_snapshot_reason = applied.error().message();
    }
    // A refused request changed nothing, and what is refused to be put back was never set.
    if (applied.ok()) EVAC_TRY(restore_settings(client, saved));
    return {};
}

class BlockList final : public StreamSink {
  public:
    Status ram_blocks(std::span<const RamBlock> blocks) override {
        blocks_.assign(blocks.begin(), blocks.end());
        return {};
    }
    void page(uint16_t, uint64_t, ByteSpan) override {}
    void zero_page(uint16_t, uint64_t, uint8_t) override {}

    std::vector<RamBlock> blocks_;
};

Result<std::vector<RamBlock>> read_block_list(qmp::Client& client, CaptureSocket& socket,
                                              const Clock& clock) {
    WaitLimits limits;
    limits.deadline_ns = clock.now_ns() + uint64_t{kProbeMs} * kNsPerMs;
    limits.silence_ns = uint64_t{kProbeMs} * kNsPerMs;
    EVAC_TRY(client.execute("migrate", Json{{"uri", socket.uri()}}));
    auto stream = socket.accept(clock, limits, [&client] { return check_not_over(client); });
    if (!stream.ok()) return stream.error();
    BlockList list;
    StreamParser parser(list);
    const auto take = [&parser](ByteSpan chunk) -> Result<bool> {
        EVAC_TRY(parser.push(chunk));
        return !parser.ram_setup_seen();
    };
    const Status drained = drain(stream->get(), clock, limits, take, [] {});
    abandon(*stream, client.peer_pid());
    EVAC_TRY(drained);
    if (list.blocks_.empty())
        return make_error(Errc::io, "the migration stream ended before the list of RAM blocks");
    return std::move(list.blocks_);
}

// Begins a migration for its list of RAM blocks and cancels it. What QEMU objects to becomes a
// blocker.
Status probe(qmp::Client& client, const FactsOptions& options, const Clock& clock, Logger& log,
             VmFacts& facts) {
    const bool running = facts.run_state == "running";
    auto socket =
        CaptureSocket::listen(options.run_dir, std::to_string(client.peer_pid()) + "-probe-" +
                                                   std::to_string(clock.now_ns()));
    if (!socket.ok()) return socket.error();
    SavedSettings saved;
    const Status applied = apply_settings(client, false, kProbeBandwidth, saved);
    Result<std::vector<RamBlock>> blocks = make_error(Errc::internal, "not probed");
    if (applied.ok()) {
        blocks = read_block_list(client, *socket, clock);
    } else {
        blocks = applied.error();
    }
    EVAC_TRY(recover(client, {running, saved, options.run_dir, kProbeMs}, clock, log));
    if (blocks.ok()) {
        facts.ram_blocks = std::move(*blocks);
    } else if (!client.usable()) {
        return blocks.error();
    } else {
        facts.blockers.push_back("a trial migration failed: " + blocks.error().message());
    }
    return {};
}

}  // namespace

Result<VmFacts> collect_facts(qmp::Client& client, const FactsOptions& options, const Clock& clock,
                              Logger& log) {
    VmFacts facts;
    EVAC_TRY(ask_identity(client, facts));
    EVAC_TRY(ask_cpus(client, facts));
    EVAC_TRY(ask_memory(client, facts));
    EVAC_TRY(ask_devices(client, facts));
    EVAC_TRY(ask_disks(client, facts));
    const bool incoming = facts.run_state == "inmigrate";
    if (!incoming) {
        const auto before = query_migration(client);
        if (!before.ok()) return before.error();
        if (before->busy()) {
            return make_error(Errc::refused,
                              "a migration of this VM is in progress ('" + before->status + "')");
        }
        EVAC_TRY(try_background_snapshot(client, facts));
        const bool may_probe = facts.run_state == "running" || facts.run_state == "paused";
        if (!options.run_dir.empty() && may_probe)
            EVAC_TRY(probe(client, options, clock, log, facts));
        // Some blockers are named only after an attempt (NVMe).
        const auto migration = query_migration(client);
        if (!migration.ok()) return migration.error();
        facts.blockers.insert(facts.blockers.begin(), migration->blockers.begin(),
                              migration->blockers.end());
    }
    return facts;
}

}  // namespace evac::prestage
