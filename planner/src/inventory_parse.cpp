// A SAX parser: no document tree, so a hostile text costs no more than its own size, and the path
// of the field is known at every refusal, including where the text is not JSON (NaN, 1e999).
#include <nlohmann/json.hpp>

#include "evac/planner/inventory.hpp"
#include "inventory_rules.hpp"

namespace evac::planner {
namespace {

enum class Place : uint8_t {
    top,
    root,
    link,
    vms,
    vm,
    dirty,
    dirty_entry,
    after,
    away_hosts,
    away_host
};

struct FieldSet {
    std::vector<const char*> required;
    std::vector<const char*> optional;

    size_t size() const { return required.size() + optional.size(); }
    // Index over required, then optional; size() when there is no such field.
    size_t find(std::string_view key) const {
        for (size_t i = 0; i < size(); ++i) {
            if (key == name(i)) return i;
        }
        return size();
    }
    const char* name(size_t i) const {
        return i < required.size() ? required[i] : optional[i - required.size()];
    }
    static std::string list(const std::vector<const char*>& names) {
        std::string text;
        for (const char* name : names) text.append(text.empty() ? "" : ", ").append(name);
        return text;
    }
};

template <class T, size_t N>
FieldSet with_numbers(const std::array<rules::NumberField<T>, N>& numbers, FieldSet set) {
    for (const auto& field : numbers) set.required.push_back(field.name);
    return set;
}

class InventorySax {
  public:
    using number_integer_t = nlohmann::json::number_integer_t;
    using number_unsigned_t = nlohmann::json::number_unsigned_t;
    using number_float_t = nlohmann::json::number_float_t;
    using string_t = nlohmann::json::string_t;
    using binary_t = nlohmann::json::binary_t;

    Result<Inventory> finish() && {
        if (error_) return std::move(*error_);
        return std::move(inventory_);
    }

    bool null() {
        if (place() == Place::root && key_ == "deadline_s") return true;
        if (place() == Place::vm && key_ == "recovery_point_age_s") return true;
        return wrong("null");
    }
    bool boolean(bool value) { return wrong(value ? "true" : "false"); }
    bool number_integer(number_integer_t value) { return number(static_cast<double>(value)); }
    bool number_unsigned(number_unsigned_t value) { return number(static_cast<double>(value)); }
    bool number_float(number_float_t value, const string_t&) { return number(value); }
    bool binary(binary_t&) { return wrong("binary"); }
    bool string(string_t& value);
    bool start_object(size_t);
    bool key(string_t& value);
    bool end_object();
    bool start_array(size_t);
    bool end_array();
    bool parse_error(size_t position, const std::string& token,
                     const nlohmann::detail::exception& exception);

  private:
    struct Level {
        Place place;
        uint32_t seen = 0;  // fields met, by index in the FieldSet
    };

    Place place() const { return levels_.empty() ? Place::top : levels_.back().place; }
    const FieldSet& fields() const {
        switch (place()) {
            case Place::link:
                return link_fields_;
            case Place::vm:
                return vm_fields_;
            case Place::dirty_entry:
                return dirty_fields_;
            case Place::away_host:
                return away_host_fields_;
            default:
                return root_fields_;
        }
    }
    std::string object_path() const;
    std::string path() const;
    std::string accepted() const;
    bool refuse(std::string_view value, std::string_view accepted) {
        error_ = rules::refuse(path(), value, accepted);
        return false;
    }
    bool wrong(std::string_view value) { return refuse(value, accepted()); }
    bool number(double value);
    bool store_point_age(double value);
    template <class T, size_t N>
    bool store(const std::array<rules::NumberField<T>, N>& numbers, T& object, double value);
    bool enter(Place next) {
        levels_.push_back({next});
        key_.clear();
        return true;
    }

    const FieldSet root_fields_{{"link", "vms"}, {"deadline_s", "away_hosts"}};
    const FieldSet link_fields_ = with_numbers(rules::kLinkNumbers, {});
    const FieldSet vm_fields_ = with_numbers(
        rules::kVmNumbers, {{"name", "dirty"}, {"after", "host", "recovery_point_age_s"}});
    const FieldSet dirty_fields_ = with_numbers(rules::kDirtyNumbers, {});
    const FieldSet away_host_fields_ = with_numbers(rules::kAwayHostNumbers, {{"name"}, {}});
    std::vector<Level> levels_;
    std::string key_;  // of the innermost object
    Inventory inventory_;
    std::optional<Error> error_;
};

// The innermost object or list.
std::string InventorySax::object_path() const {
    const auto vm = [this] { return rules::index_path("vms", inventory_.vms.size() - 1); };
    switch (place()) {
        case Place::top:
        case Place::root:
            return "";
        case Place::link:
            return "link";
        case Place::vms:
            return "vms";
        case Place::vm:
            return vm();
        case Place::dirty:
            return vm() + ".dirty";
        case Place::dirty_entry:
            return rules::index_path(vm() + ".dirty", inventory_.vms.back().dirty.size() - 1);
        case Place::after:
            return vm() + ".after";
        case Place::away_hosts:
            return "away_hosts";
        case Place::away_host:
            return rules::index_path("away_hosts", inventory_.away_hosts.size() - 1);
    }
    return "";
}

// The value that is being read.
std::string InventorySax::path() const {
    const std::string base = object_path();
    switch (place()) {
        case Place::top:
            return "inventory";
        case Place::vms:
            return rules::index_path(base, inventory_.vms.size());
        case Place::dirty:
            return rules::index_path(base, inventory_.vms.back().dirty.size());
        case Place::after:
            return rules::index_path(base, inventory_.vms.back().after.size());
        case Place::away_hosts:
            return rules::index_path(base, inventory_.away_hosts.size());
        default:
            break;
    }
    if (key_.empty()) return base.empty() ? "inventory" : base;
    return rules::field_path(base, key_);
}

std::string InventorySax::accepted() const {
    switch (place()) {
        case Place::top:
            return "an object with link, deadline_s and vms";
        case Place::root:
            if (key_ == "link") return "an object with goodput_mbit and rtt_ms";
            if (key_ == "vms") return "a list of VMs";
            if (key_ == "away_hosts") return "a list of away's hosts";
            return "a number of seconds >= 0, or null";
        case Place::vms:
            return "an object that describes a VM";
        case Place::dirty:
            return "an object with working_set_mib and rate_mib_s";
        case Place::after:
            return "the name of a VM";
        case Place::vm:
            if (key_ == "name" || key_ == "host") return "text";
            if (key_ == "dirty") return "a list of at most two entries";
            if (key_ == "after") return "a list of names";
            if (key_ == "recovery_point_age_s") return "a number of seconds >= 0, or null";
            break;
        case Place::away_hosts:
            return "an object with name and memory_mib";
        case Place::away_host:
            if (key_ == "name") return "text";
            break;
        default:
            break;
    }
    return "a number";
}

template <class T, size_t N>
bool InventorySax::store(const std::array<rules::NumberField<T>, N>& numbers, T& object,
                         double value) {
    for (const auto& field : numbers) {
        if (key_ != field.name) continue;
        const std::string accepted = rules::number_refusal(value, field.min, field.open);
        if (!accepted.empty()) return refuse(rules::shown(value), accepted);
        object.*(field.member) = value;
        return true;
    }
    return wrong(rules::shown(value));
}

bool InventorySax::store_point_age(double value) {
    const std::string bad = rules::number_refusal(value, rules::kPointAgeMin, false);
    if (!bad.empty()) return refuse(rules::shown(value), bad + ", or null");
    inventory_.vms.back().recovery_point_age_s = value;
    return true;
}

bool InventorySax::number(double value) {
    switch (place()) {
        case Place::link:
            return store(rules::kLinkNumbers, inventory_.link, value);
        case Place::vm:
            if (key_ == "recovery_point_age_s") return store_point_age(value);
            return store(rules::kVmNumbers, inventory_.vms.back(), value);
        case Place::away_host:
            return store(rules::kAwayHostNumbers, inventory_.away_hosts.back(), value);
        case Place::dirty_entry:
            return store(rules::kDirtyNumbers, inventory_.vms.back().dirty.back(), value);
        case Place::root: {
            if (key_ != "deadline_s") return wrong(rules::shown(value));
            const std::string bad = rules::number_refusal(value, rules::kDeadlineMin, false);
            if (!bad.empty()) return refuse(rules::shown(value), bad + ", or null");
            inventory_.deadline_s = value;
            return true;
        }
        default:
            return wrong(rules::shown(value));
    }
}

bool InventorySax::string(string_t& value) {
    if (place() == Place::after) {
        std::vector<std::string>& after = inventory_.vms.back().after;
        if (after.size() == kAfterMax) {
            return refuse(rules::shown(value), "at most " + std::to_string(kAfterMax) + " names");
        }
        after.push_back(std::move(value));
        return true;
    }
    if (place() == Place::away_host && key_ == "name") {
        const std::string bad = rules::name_refusal(value);
        if (!bad.empty()) return refuse(rules::shown(value), bad);
        inventory_.away_hosts.back().name = std::move(value);
        return true;
    }
    if (place() != Place::vm || (key_ != "name" && key_ != "host"))
        return wrong(rules::shown(value));
    const std::string bad = rules::name_refusal(value);
    if (!bad.empty()) return refuse(rules::shown(value), bad);
    VmInput& vm = inventory_.vms.back();
    (key_ == "name" ? vm.name : vm.host) = std::move(value);
    return true;
}

bool InventorySax::start_object(size_t) {
    switch (place()) {
        case Place::top:
            return enter(Place::root);
        case Place::root:
            return key_ == "link" ? enter(Place::link) : wrong("{...}");
        case Place::vms:
            if (inventory_.vms.size() == kVmsMax) {
                return refuse("{...}", "at most " + std::to_string(kVmsMax) + " VMs");
            }
            inventory_.vms.emplace_back();
            return enter(Place::vm);
        case Place::dirty:
            if (inventory_.vms.back().dirty.size() == kDirtyEntriesMax) {
                return refuse("{...}", "at most " + std::to_string(kDirtyEntriesMax) + " entries");
            }
            inventory_.vms.back().dirty.emplace_back();
            return enter(Place::dirty_entry);
        case Place::away_hosts:
            if (inventory_.away_hosts.size() == kAwayHostsMax) {
                return refuse("{...}", "at most " + std::to_string(kAwayHostsMax) + " hosts");
            }
            inventory_.away_hosts.emplace_back();
            return enter(Place::away_host);
        default:
            return wrong("{...}");
    }
}

bool InventorySax::key(string_t& value) {
    const size_t field = fields().find(value);
    key_.clear();
    if (field == fields().size()) {
        const std::string known = FieldSet::list(fields().required) +
                                  (fields().optional.empty() ? "" : ", ") +
                                  FieldSet::list(fields().optional);
        error_ = make_error(Errc::invalid_argument,
                            rules::field_path(object_path(), value.substr(0, kNameBytesMax)) +
                                ": unknown field " + rules::shown(value) + "; accepted: " + known);
        return false;
    }
    key_ = value;
    const uint32_t bit = uint32_t{1} << field;
    if ((levels_.back().seen & bit) != 0) return refuse("a second value", "each field once");
    levels_.back().seen |= bit;
    return true;
}

bool InventorySax::end_object() {
    const FieldSet& set = fields();
    for (size_t i = 0; i < set.required.size(); ++i) {
        if ((levels_.back().seen >> i & 1) != 0) continue;
        error_ =
            make_error(Errc::invalid_argument,
                       rules::field_path(object_path(), set.required[i]) +
                           ": missing; accepted: all of " + set.list(set.required) +
                           (set.optional.empty() ? "" : "; optional: ") + set.list(set.optional));
        return false;
    }
    levels_.pop_back();
    key_.clear();
    return true;
}

bool InventorySax::start_array(size_t) {
    if (place() == Place::root && key_ == "vms") return enter(Place::vms);
    if (place() == Place::root && key_ == "away_hosts") return enter(Place::away_hosts);
    if (place() == Place::vm && key_ == "dirty") return enter(Place::dirty);
    if (place() == Place::vm && key_ == "after") return enter(Place::after);
    return wrong("[...]");
}

bool InventorySax::end_array() {
    if (place() == Place::vms && inventory_.vms.empty()) {
        error_ = rules::refuse("vms", "an empty list",
                               "a list of 1 to " + std::to_string(kVmsMax) + " VMs");
        return false;
    }
    if (place() == Place::away_hosts && inventory_.away_hosts.empty()) {
        error_ = rules::refuse("away_hosts", "an empty list",
                               "a list of 1 to " + std::to_string(kAwayHostsMax) +
                                   " hosts; without the field there is room without limit");
        return false;
    }
    levels_.pop_back();
    key_.clear();
    return true;
}

bool InventorySax::parse_error(size_t position, const std::string& token,
                               const nlohmann::detail::exception&) {
    error_ =
        make_error(Errc::invalid_argument,
                   path() + ": not JSON at byte " + std::to_string(position) + ", near " +
                       rules::shown(token) + "; accepted: JSON (RFC 8259, UTF-8), finite numbers");
    return false;
}

}  // namespace

Result<Inventory> parse_inventory(std::string_view text) {
    if (text.size() > kInventoryTextBytesMax) {
        return rules::refuse("inventory", std::to_string(text.size()) + " bytes",
                             "at most " + std::to_string(kInventoryTextBytesMax) + " bytes");
    }
    InventorySax sax;
    nlohmann::json::sax_parse(text.begin(), text.end(), &sax);
    Result<Inventory> inventory = std::move(sax).finish();
    if (!inventory.ok()) return inventory;
    EVAC_TRY(validate(*inventory));
    return inventory;
}

}  // namespace evac::planner
