// Judging, comparing and carrying VM facts. No I/O.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "evac/prestage/enrolment.hpp"
#include "json_access.hpp"

namespace evac::prestage {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kFormat = 1;  // of the text; another number is refused

std::string join(const std::vector<std::string>& parts) {
    std::string out;
    for (const std::string& part : parts) out += (out.empty() ? "" : ", ") + part;
    return out.empty() ? "none" : out;
}

// What only one of two sorted lists has, shortened.
std::string only_in(const std::vector<std::string>& a, const std::vector<std::string>& b) {
    constexpr size_t kShown = 4;
    std::vector<std::string> extra;
    std::ranges::set_difference(a, b, std::back_inserter(extra));
    const size_t more = extra.size() > kShown ? extra.size() - kShown : 0;
    if (more != 0) {
        extra.resize(kShown);
        extra.push_back(std::to_string(more) + " more");
    }
    return join(extra);
}

// Reads typed members with limits; remembers the first complaint.
class Reader {
  public:
    explicit Reader(std::string path) : path_(std::move(path)) {}

    void text(const Json& object, const char* key, std::string& out) {
        const Json& value = json::member(object, key);
        if (!value.is_string()) return complain(key, "a string");
        const auto& found = value.get_ref<const std::string&>();
        if (found.size() > kFactsStringBytesMax) return complain(key, "at most 4096 bytes");
        out = found;
    }
    template <class T>
    void number(const Json& object, const char* key, T& out) {
        const Json& value = json::member(object, key);
        if (!value.is_number_unsigned() || value.get<uint64_t>() > std::numeric_limits<T>::max()) {
            return complain(key, "an unsigned number");
        }
        out = static_cast<T>(value.get<uint64_t>());
    }
    void flag(const Json& object, const char* key, bool& out) {
        const Json& value = json::member(object, key);
        if (!value.is_boolean()) return complain(key, "true or false");
        out = value.get<bool>();
    }
    const Json& list(const Json& object, const char* key, size_t size_max) {
        const Json& value = json::member(object, key);
        if (!value.is_array() || value.size() > size_max) {
            complain(key, "a list of at most " + std::to_string(size_max));
            static const Json kNothing = Json::array();
            return kNothing;
        }
        return value;
    }
    void texts(const Json& object, const char* key, std::vector<std::string>& out) {
        for (const Json& value : list(object, key, kFactsListMax)) {
            if (!value.is_string() ||
                value.get_ref<const std::string&>().size() > kFactsStringBytesMax) {
                return complain(key, "strings of at most 4096 bytes");
            }
            out.push_back(value.get<std::string>());
        }
    }
    void complain(const std::string& key, const std::string& accepted) {
        if (complaint_.empty()) complaint_ = path_ + key + ": " + accepted + " is accepted";
    }
    const std::string& complaint() const { return complaint_; }

  private:
    std::string path_;
    std::string complaint_;
};

}  // namespace

std::string Difference::message() const {
    return field + ": home has '" + home + "', away has '" + away + "'";
}

std::vector<Refusal> refusals(const VmFacts& facts) {
    std::vector<Refusal> out;
    const auto refuse = [&out](std::string reason) { out.push_back({std::move(reason)}); };
    if (facts.run_state != "running")
        refuse("run state is '" + facts.run_state + "'; 'running' is accepted");
    if (!facts.machine_type.starts_with("pc-q35-") &&
        !facts.machine_type.starts_with("pc-i440fx-")) {
        refuse("machine type is '" + facts.machine_type +
               "'; pc-q35-* and pc-i440fx-* are accepted");
    }
    for (const std::string& blocker : facts.blockers) refuse("QEMU can not migrate it: " + blocker);
    if (!facts.migration_tls.empty()) {
        refuse("migration parameter tls-creds is '" + facts.migration_tls + "'; unset is accepted");
    }
    if (facts.memory_plugged_bytes != 0) {
        refuse("hot-plugged memory of " + std::to_string(facts.memory_plugged_bytes) +
               " bytes; only memory present at start is accepted");
    }
    if (facts.vcpus == 0) refuse("no vCPU");
    const auto main_ram = std::ranges::find(facts.ram_blocks, facts.memory_backend,
                                            [](const RamBlock& block) { return block.name; });
    if (facts.ram_blocks.empty()) {
        refuse("its RAM blocks could not be learned");
    } else if (main_ram == facts.ram_blocks.end()) {
        refuse("memory backend '" + facts.memory_backend +
               "' is not among its RAM blocks (NUMA nodes with memory " +
               "backends of their own?); one main memory is accepted");
    } else if (main_ram->size_bytes != facts.memory_bytes) {
        refuse("RAM block '" + main_ram->name + "' has " + std::to_string(main_ram->size_bytes) +
               " bytes, the VM has " + std::to_string(facts.memory_bytes) +
               "; equal sizes are accepted");
    }
    std::set<std::string> nodes;
    for (const DiskFacts& disk : facts.disks) {
        if (disk.read_only) continue;
        const std::string name = "disk '" + disk.node_name + "' (" + disk.file + ")";
        if (disk.node_name.empty())
            refuse(name + " has no node name; start QEMU with node-name=...");
        if (disk.format != "raw" && disk.format != "qcow2") {
            refuse(name + " has format '" + disk.format + "'; raw and qcow2 are accepted");
        }
        if (disk.size_bytes == 0 || disk.size_bytes > kRegionBytesMax) {
            refuse(name + " has " + std::to_string(disk.size_bytes) +
                   " bytes; 1 to 2^43 are accepted");
        }
        if (!nodes.insert(disk.node_name).second)
            refuse(name + " is used by two devices; one is accepted");
    }
    if (facts.ram_blocks.size() + nodes.size() > kRegionsMax) {
        refuse(std::to_string(facts.ram_blocks.size()) + " RAM blocks and " +
               std::to_string(nodes.size()) + " disks; together at most " +
               std::to_string(kRegionsMax) + " are accepted");
    }
    return out;
}

std::vector<Difference> compare(const VmFacts& home, const VmFacts& away) {
    std::vector<Difference> out;
    const auto check = [&out](const char* field, const std::string& a, const std::string& b) {
        if (a != b) out.push_back({field, a, b});
    };
    const auto check_lists = [&out](const char* field, const std::vector<std::string>& a,
                                    const std::vector<std::string>& b) {
        if (a != b) out.push_back({field, only_in(a, b), only_in(b, a)});
    };
    check("machine_type", home.machine_type, away.machine_type);
    check("cpu_model", home.cpu_model, away.cpu_model);
    check_lists("cpu_features", home.cpu_features, away.cpu_features);
    check("vcpus", std::to_string(home.vcpus), std::to_string(away.vcpus));
    check("memory_bytes", std::to_string(home.memory_bytes), std::to_string(away.memory_bytes));
    check("memory_plugged_bytes", std::to_string(home.memory_plugged_bytes),
          std::to_string(away.memory_plugged_bytes));
    check("memory_backend", home.memory_backend, away.memory_backend);
    check_lists("devices", home.devices, away.devices);
    // Both probed: the small blocks too. One line per block, so that the message names the odd one.
    if (!home.ram_blocks.empty() && !away.ram_blocks.empty() &&
        home.ram_blocks != away.ram_blocks) {
        const auto lines = [](const VmFacts& facts) {
            std::vector<std::string> list;
            for (const RamBlock& block : facts.ram_blocks) {
                list.push_back(block.name + "=" + std::to_string(block.size_bytes));
            }
            std::ranges::sort(list);
            return list;
        };
        out.push_back(
            {"ram_blocks", only_in(lines(home), lines(away)), only_in(lines(away), lines(home))});
    }
    const auto disks = [](const VmFacts& facts) {
        std::vector<std::string> list;
        for (const DiskFacts& disk : facts.disks) {
            list.push_back(disk.device + " " + std::to_string(disk.size_bytes) +
                           (disk.read_only ? " ro" : ""));
        }
        std::ranges::sort(list);
        return list;
    };
    check_lists("disks", disks(home), disks(away));
    return out;
}

std::vector<RegionInfo> region_list(const VmFacts& facts) {
    std::vector<RegionInfo> out;
    for (const RamBlock& block : facts.ram_blocks) {
        const bool is_main = block.name == facts.memory_backend;
        out.push_back(
            {block.name, is_main ? RegionKind::main_ram : RegionKind::small_ram, block.size_bytes});
    }
    for (const DiskFacts& disk : facts.disks) {
        if (!disk.read_only) out.push_back({disk.node_name, RegionKind::disk, disk.size_bytes});
    }
    return out;
}

std::string facts_to_text(const VmFacts& facts) {
    Json blocks = Json::array();
    for (const RamBlock& block : facts.ram_blocks) {
        blocks.push_back({{"name", block.name}, {"size_bytes", block.size_bytes}});
    }
    Json disks = Json::array();
    for (const DiskFacts& disk : facts.disks) {
        disks.push_back({{"node_name", disk.node_name},
                         {"device", disk.device},
                         {"file", disk.file},
                         {"format", disk.format},
                         {"size_bytes", disk.size_bytes},
                         {"read_only", disk.read_only}});
    }
    const Json out{{"format", kFormat},
                   {"name", facts.name},
                   {"uuid", facts.uuid},
                   {"qemu_version", facts.qemu_version},
                   {"machine_type", facts.machine_type},
                   {"accelerator", facts.accelerator},
                   {"cpu_model", facts.cpu_model},
                   {"cpu_features", facts.cpu_features},
                   {"vcpus", facts.vcpus},
                   {"memory_bytes", facts.memory_bytes},
                   {"memory_plugged_bytes", facts.memory_plugged_bytes},
                   {"memory_backend", facts.memory_backend},
                   {"memory_shared", facts.memory_shared},
                   {"devices", facts.devices},
                   {"devices_hash", facts.devices_hash},
                   {"ram_blocks", std::move(blocks)},
                   {"disks", std::move(disks)},
                   {"background_snapshot", facts.background_snapshot},
                   {"background_snapshot_reason", facts.background_snapshot_reason},
                   {"blockers", facts.blockers},
                   {"run_state", facts.run_state},
                   {"migration_tls", facts.migration_tls}};
    return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

namespace {

void read_lists(const Json& in, Reader& reader, VmFacts& facts) {
    reader.texts(in, "cpu_features", facts.cpu_features);
    reader.texts(in, "devices", facts.devices);
    reader.texts(in, "blockers", facts.blockers);
    for (const Json& entry : reader.list(in, "ram_blocks", kRegionsMax)) {
        RamBlock block;
        reader.text(entry, "name", block.name);
        reader.number(entry, "size_bytes", block.size_bytes);
        if (block.size_bytes > kRegionBytesMax) reader.complain("size_bytes", "at most 2^43");
        facts.ram_blocks.push_back(std::move(block));
    }
    for (const Json& entry : reader.list(in, "disks", kRegionsMax)) {
        DiskFacts disk;
        reader.text(entry, "node_name", disk.node_name);
        reader.text(entry, "device", disk.device);
        reader.text(entry, "file", disk.file);
        reader.text(entry, "format", disk.format);
        reader.number(entry, "size_bytes", disk.size_bytes);
        reader.flag(entry, "read_only", disk.read_only);
        if (disk.size_bytes > kRegionBytesMax) reader.complain("size_bytes", "at most 2^43");
        facts.disks.push_back(std::move(disk));
    }
    if (facts.ram_blocks.size() + facts.disks.size() > kRegionsMax) {
        reader.complain("disks", "at most 64 together with ram_blocks");
    }
}

}  // namespace

Result<VmFacts> facts_from_text(std::string_view text) {
    if (text.size() > kFactsTextBytesMax) {
        return make_error(Errc::corrupt, "VM facts of " + std::to_string(text.size()) +
                                             " bytes, at most " +
                                             std::to_string(kFactsTextBytesMax) + " are accepted");
    }
    const Json in = Json::parse(text, nullptr, false);
    if (in.is_discarded() || !in.is_object())
        return make_error(Errc::corrupt, "VM facts: a JSON object is accepted");
    if (json::number(in, "format") != kFormat)
        return make_error(Errc::corrupt, "VM facts: format: 1 is accepted");
    VmFacts facts;
    Reader reader("VM facts: ");
    reader.text(in, "name", facts.name);
    reader.text(in, "uuid", facts.uuid);
    reader.text(in, "qemu_version", facts.qemu_version);
    reader.text(in, "machine_type", facts.machine_type);
    reader.text(in, "accelerator", facts.accelerator);
    reader.text(in, "cpu_model", facts.cpu_model);
    reader.number(in, "vcpus", facts.vcpus);
    reader.number(in, "memory_bytes", facts.memory_bytes);
    reader.number(in, "memory_plugged_bytes", facts.memory_plugged_bytes);
    reader.text(in, "memory_backend", facts.memory_backend);
    reader.flag(in, "memory_shared", facts.memory_shared);
    reader.number(in, "devices_hash", facts.devices_hash);
    reader.flag(in, "background_snapshot", facts.background_snapshot);
    reader.text(in, "background_snapshot_reason", facts.background_snapshot_reason);
    reader.text(in, "run_state", facts.run_state);
    reader.text(in, "migration_tls", facts.migration_tls);
    read_lists(in, reader, facts);
    if (!reader.complaint().empty()) return make_error(Errc::corrupt, reader.complaint());
    return facts;
}

}  // namespace evac::prestage
