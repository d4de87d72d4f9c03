#include "evac/planner/inventory.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "inventory_rules.hpp"

namespace evac::planner {
namespace rules {
namespace {

constexpr size_t kShownBytesMax = 60;
constexpr size_t kCycleNamesMax = 12;  // names printed of a cycle

using AfterLists = std::vector<std::vector<uint32_t>>;

// A cycle in `after`, first VM repeated at the end; empty if there is none. Iterative: chains may
// be long.
std::vector<uint32_t> find_cycle(const AfterLists& after) {
    enum class Colour : uint8_t { unseen, open, done };
    std::vector<Colour> colour(after.size(), Colour::unseen);
    std::vector<std::pair<uint32_t, size_t>> path;  // VM and its next edge
    for (uint32_t root = 0; root < after.size(); ++root) {
        if (colour[root] != Colour::unseen) continue;
        path.emplace_back(root, 0);
        colour[root] = Colour::open;
        while (!path.empty()) {
            auto& [vm, edge] = path.back();
            if (edge == after[vm].size()) {
                colour[vm] = Colour::done;
                path.pop_back();
                continue;
            }
            const uint32_t next = after[vm][edge++];
            if (colour[next] == Colour::open) {
                std::vector<uint32_t> cycle;
                auto it = std::find_if(path.begin(), path.end(),
                                       [next](const auto& step) { return step.first == next; });
                for (; it != path.end(); ++it) cycle.push_back(it->first);
                cycle.push_back(next);
                return cycle;
            }
            if (colour[next] == Colour::unseen) {
                colour[next] = Colour::open;
                path.emplace_back(next, 0);
            }
        }
    }
    return {};
}

std::string cycle_text(const std::vector<VmInput>& vms, const std::vector<uint32_t>& cycle) {
    std::string text = "after: ";
    for (size_t i = 0; i < cycle.size(); ++i) {
        if (i > 0) text += " -> ";
        if (i == kCycleNamesMax && cycle.size() > kCycleNamesMax + 1) {
            return text + "... (" + std::to_string(cycle.size() - 1) + " VMs) -> " +
                   vms[cycle.back()].name;
        }
        text += vms[cycle[i]].name;
    }
    return text;
}

}  // namespace

std::string field_path(std::string_view base, std::string_view field) {
    std::string path(base);
    if (!path.empty()) path += '.';
    return path.append(field);
}

std::string index_path(std::string_view base, size_t index) {
    return std::string(base) + '[' + std::to_string(index) + ']';
}

std::string shown(std::string_view text) {
    std::string out = "\"";
    for (const char c : text.substr(0, kShownBytesMax)) {
        const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
        out += control ? '?' : c;
    }
    if (text.size() > kShownBytesMax) {
        while (!out.empty() && (static_cast<unsigned char>(out.back()) & 0x80) != 0) out.pop_back();
        out += "...";
    }
    return out + '"';
}

std::string shown(double value) {
    char buffer[40];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value);
    return {buffer, end.ptr};
}

Error refuse(std::string_view path, std::string_view value, std::string_view accepted) {
    std::string text(path);
    text.append(": ").append(value).append(" is refused; accepted: ").append(accepted);
    return make_error(Errc::invalid_argument, std::move(text));
}

std::string number_refusal(double value, double min, bool open) {
    const bool above = open ? value > min : value >= min;  // false for NaN
    if (std::isfinite(value) && above && value <= kNumberMax) return {};
    return std::string("a number ") + (open ? "> " : ">= ") + shown(min) + ", at most " +
           shown(kNumberMax);
}

std::string name_refusal(std::string_view name) {
    const bool control = std::any_of(name.begin(), name.end(), [](char c) {
        return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    });
    if (!name.empty() && name.size() <= kNameBytesMax && !control) return {};
    return "text of 1 to " + std::to_string(kNameBytesMax) + " bytes without control characters";
}

Result<AfterLists> resolve_after(const std::vector<VmInput>& vms) {
    std::unordered_map<std::string_view, uint32_t> by_name;
    by_name.reserve(vms.size());
    for (uint32_t i = 0; i < vms.size(); ++i) {
        const auto [it, fresh] = by_name.emplace(vms[i].name, i);
        if (!fresh) {
            return refuse(field_path(index_path("vms", i), "name"), shown(vms[i].name),
                          "a name of its own; vms[" + std::to_string(it->second) + "] has it");
        }
    }
    AfterLists after(vms.size());
    for (uint32_t i = 0; i < vms.size(); ++i) {
        for (size_t k = 0; k < vms[i].after.size(); ++k) {
            const std::string& name = vms[i].after[k];
            const std::string path = index_path(field_path(index_path("vms", i), "after"), k);
            const auto it = by_name.find(name);
            if (it == by_name.end()) return refuse(path, shown(name), "the name of a VM in vms");
            if (std::find(after[i].begin(), after[i].end(), it->second) != after[i].end()) {
                return refuse(path, shown(name), "each name once");
            }
            after[i].push_back(it->second);
        }
    }
    const std::vector<uint32_t> cycle = find_cycle(after);
    if (!cycle.empty()) {
        return make_error(
            Errc::invalid_argument,
            cycle_text(vms, cycle) + " is a cycle; accepted: VMs that do not wait for themselves");
    }
    return after;
}

}  // namespace rules

namespace {

Status check_vm(const VmInput& vm, const std::string& base) {
    const std::string bad_name = rules::name_refusal(vm.name);
    if (!bad_name.empty()) {
        return rules::refuse(rules::field_path(base, "name"), rules::shown(vm.name), bad_name);
    }
    EVAC_TRY(rules::check_numbers(rules::kVmNumbers, vm, base));
    const std::string dirty = rules::field_path(base, "dirty");
    if (vm.dirty.size() > kDirtyEntriesMax) {
        return rules::refuse(dirty, std::to_string(vm.dirty.size()) + " entries",
                             "at most " + std::to_string(kDirtyEntriesMax));
    }
    for (size_t k = 0; k < vm.dirty.size(); ++k) {
        EVAC_TRY(
            rules::check_numbers(rules::kDirtyNumbers, vm.dirty[k], rules::index_path(dirty, k)));
    }
    if (vm.after.size() > kAfterMax) {
        return rules::refuse(rules::field_path(base, "after"),
                             std::to_string(vm.after.size()) + " names",
                             "at most " + std::to_string(kAfterMax));
    }
    if (!vm.host.empty()) {
        const std::string bad_host = rules::name_refusal(vm.host);
        if (!bad_host.empty()) {
            return rules::refuse(rules::field_path(base, "host"), rules::shown(vm.host), bad_host);
        }
    }
    if (vm.recovery_point_age_s) {
        const double age = *vm.recovery_point_age_s;
        const std::string bad = rules::number_refusal(age, rules::kPointAgeMin, false);
        if (!bad.empty()) {
            return rules::refuse(rules::field_path(base, "recovery_point_age_s"), rules::shown(age),
                                 bad + ", or null");
        }
    }
    return {};
}

Status check_away_hosts(const std::vector<AwayHost>& hosts) {
    if (hosts.size() > kAwayHostsMax) {
        return rules::refuse("away_hosts", std::to_string(hosts.size()) + " entries",
                             "at most " + std::to_string(kAwayHostsMax));
    }
    std::unordered_set<std::string_view> names;
    for (size_t i = 0; i < hosts.size(); ++i) {
        const std::string base = rules::index_path("away_hosts", i);
        const std::string path = rules::field_path(base, "name");
        const std::string bad_name = rules::name_refusal(hosts[i].name);
        if (!bad_name.empty()) return rules::refuse(path, rules::shown(hosts[i].name), bad_name);
        if (!names.insert(hosts[i].name).second) {
            return rules::refuse(path, rules::shown(hosts[i].name), "a name of its own");
        }
        EVAC_TRY(rules::check_numbers(rules::kAwayHostNumbers, hosts[i], base));
    }
    return {};
}

template <class T, size_t N>
void put_numbers(nlohmann::ordered_json& json, const std::array<rules::NumberField<T>, N>& fields,
                 const T& object) {
    for (const auto& field : fields) json[field.name] = object.*(field.member);
}

}  // namespace

Status validate(const Inventory& inventory) {
    EVAC_TRY(rules::check_numbers(rules::kLinkNumbers, inventory.link, "link"));
    if (inventory.deadline_s) {
        const std::string accepted =
            rules::number_refusal(*inventory.deadline_s, rules::kDeadlineMin, false);
        if (!accepted.empty()) {
            return rules::refuse("deadline_s", rules::shown(*inventory.deadline_s),
                                 accepted + ", or null");
        }
    }
    if (inventory.vms.empty() || inventory.vms.size() > kVmsMax) {
        return rules::refuse("vms", std::to_string(inventory.vms.size()) + " entries",
                             "a list of 1 to " + std::to_string(kVmsMax) + " VMs");
    }
    for (size_t i = 0; i < inventory.vms.size(); ++i) {
        EVAC_TRY(check_vm(inventory.vms[i], rules::index_path("vms", i)));
    }
    EVAC_TRY(check_away_hosts(inventory.away_hosts));
    EVAC_TRY(rules::resolve_after(inventory.vms));
    return {};
}

std::string to_json(const Inventory& inventory) {
    using Json = nlohmann::ordered_json;
    Json root;
    root["link"] = Json::object();
    put_numbers(root["link"], rules::kLinkNumbers, inventory.link);
    root["deadline_s"] = inventory.deadline_s ? Json(*inventory.deadline_s) : Json(nullptr);
    root["vms"] = Json::array();
    for (const VmInput& vm : inventory.vms) {
        Json entry;
        entry["name"] = vm.name;
        put_numbers(entry, rules::kVmNumbers, vm);
        entry["dirty"] = Json::array();
        for (const DirtyScale& scale : vm.dirty) {
            Json item;
            put_numbers(item, rules::kDirtyNumbers, scale);
            entry["dirty"].push_back(std::move(item));
        }
        if (!vm.after.empty()) entry["after"] = vm.after;
        if (!vm.host.empty()) entry["host"] = vm.host;
        if (vm.recovery_point_age_s) entry["recovery_point_age_s"] = *vm.recovery_point_age_s;
        root["vms"].push_back(std::move(entry));
    }
    for (const AwayHost& host : inventory.away_hosts) {
        Json entry;
        entry["name"] = host.name;
        put_numbers(entry, rules::kAwayHostNumbers, host);
        root["away_hosts"].push_back(std::move(entry));
    }
    return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace evac::planner
