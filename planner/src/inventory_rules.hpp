#pragma once
// The numeric fields of an inventory, once, for the parser, the validator and the writer.
#include <array>
#include <string>
#include <string_view>

#include "evac/planner/inventory.hpp"

namespace evac::planner::rules {

template <class T>
struct NumberField {
    const char* name;
    double T::*member;
    double min;
    bool open;  // the minimum itself is refused
};

inline constexpr std::array<NumberField<Link>, 2> kLinkNumbers{{
    {"goodput_mbit", &Link::goodput_mbit, kGoodputMbitMin, false},
    {"rtt_ms", &Link::rtt_ms, 0, false},
}};
inline constexpr std::array<NumberField<DirtyScale>, 2> kDirtyNumbers{{
    {"working_set_mib", &DirtyScale::working_set_mib, 0, true},
    {"rate_mib_s", &DirtyScale::rate_mib_s, 0, true},
}};
inline constexpr std::array<NumberField<VmInput>, 7> kVmNumbers{{
    {"memory_mib", &VmInput::memory_mib, 0, true},
    {"priority", &VmInput::priority, 1, false},
    {"unstaged_mib", &VmInput::unstaged_mib, 0, false},
    {"disk_write_mib_s", &VmInput::disk_write_mib_s, 0, false},
    {"wire_ratio", &VmInput::wire_ratio, 0, false},
    {"max_downtime_ms", &VmInput::max_downtime_ms, 0, false},
    {"switchover_ms", &VmInput::switchover_ms, 0, false},
}};
inline constexpr std::array<NumberField<AwayHost>, 1> kAwayHostNumbers{{
    {"memory_mib", &AwayHost::memory_mib, 0, false},
}};
inline constexpr double kDeadlineMin = 0;
inline constexpr double kPointAgeMin = 0;

// "link", "vms[3]", "vms[3].dirty[0]": `base` and a field or an index under it.
std::string field_path(std::string_view base, std::string_view field);
std::string index_path(std::string_view base, size_t index);

// A value for a message: quoted, shortened, printable.
std::string shown(std::string_view text);
std::string shown(double value);

// "path: value is refused; accepted: ..."
Error refuse(std::string_view path, std::string_view value, std::string_view accepted);

// Empty when the value is accepted, otherwise what is accepted.
std::string number_refusal(double value, double min, bool open);
std::string name_refusal(std::string_view name);

template <class T, size_t N>
Status check_numbers(const std::array<NumberField<T>, N>& fields, const T& object,
                     std::string_view base) {
    for (const NumberField<T>& field : fields) {
        const double value = object.*(field.member);
        const std::string accepted = number_refusal(value, field.min, field.open);
        if (!accepted.empty()) return refuse(field_path(base, field.name), shown(value), accepted);
    }
    return {};
}

// Index lists of `after`, by VM. Errors: duplicate names, names of nobody, cycles.
Result<std::vector<std::vector<uint32_t>>> resolve_after(const std::vector<VmInput>& vms);

}  // namespace evac::planner::rules
