#include "process_maps.hpp"

#include <algorithm>
#include <charconv>
#include <fstream>

namespace evac::prestage {
namespace {

constexpr size_t kMapsBytesMax = 64 * 1024 * 1024;

bool take_number(std::string_view& text, int base, uint64_t& out) {
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), out, base);
    if (error != std::errc{}) return false;
    text.remove_prefix(static_cast<size_t>(rest - text.data()));
    return true;
}

bool take_char(std::string_view& text, char wanted) {
    if (text.empty() || text.front() != wanted) return false;
    text.remove_prefix(1);
    return true;
}

std::string hex(uint64_t value) {
    char text[17];
    const auto [end, error] = std::to_chars(text, text + sizeof(text), value, 16);
    return "0x" + std::string(text, error == std::errc{} ? end : text);
}

}  // namespace

std::optional<ProcessMapping> parse_mapping(std::string_view line) {
    constexpr size_t kPermissions = 4;
    ProcessMapping out;
    uint64_t major = 0, minor = 0;
    if (!take_number(line, 16, out.begin) || !take_char(line, '-') ||
        !take_number(line, 16, out.end) || !take_char(line, ' ') || line.size() < kPermissions)
        return std::nullopt;
    out.shared = line[3] == 's';
    line.remove_prefix(kPermissions);
    if (!take_char(line, ' ') || !take_number(line, 16, out.offset) || !take_char(line, ' ') ||
        !take_number(line, 16, major) || !take_char(line, ':') || !take_number(line, 16, minor) ||
        !take_char(line, ' ') || !take_number(line, 10, out.inode) || out.end < out.begin)
        return std::nullopt;
    out.device = major << 32 | (minor & 0xffffffff);
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    out.name = std::string(line);
    return out;
}

Result<std::vector<ProcessMapping>> read_mappings(int pid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/maps";
    std::ifstream file(path);
    if (!file) return io_error("read '" + path + "'");
    std::vector<ProcessMapping> out;
    size_t bytes = 0;
    for (std::string line; std::getline(file, line);) {
        bytes += line.size();
        if (bytes > kMapsBytesMax) return make_error(Errc::refused, "'" + path + "' is too long");
        if (auto mapping = parse_mapping(line)) out.push_back(std::move(*mapping));
    }
    if (out.empty()) return make_error(Errc::not_found, "'" + path + "' is empty");
    return out;
}

Result<ProcessMapping> shared_file_at(const std::vector<ProcessMapping>& mappings, uint64_t address,
                                      uint64_t size) {
    const auto refuse = [&](const std::string& what) {
        return make_error(Errc::refused, "QEMU's memory at " + hex(address) + " " + what);
    };
    ProcessMapping first;
    uint64_t at = address;
    for (const ProcessMapping& mapping : mappings) {
        if (mapping.end <= at) continue;
        if (mapping.begin > at) break;  // a gap
        if (!mapping.shared) return refuse("is private (share=off?); shared is accepted");
        if (at == address) first = mapping;
        if (mapping.inode != first.inode || mapping.device != first.device)
            return refuse("is of more than one file");
        if (mapping.offset + (at - mapping.begin) != at - address)
            return refuse("does not begin at its file's first byte");
        at = std::min(mapping.end, address + size);
        if (at == address + size) return first;
    }
    return refuse("is mapped for " + std::to_string(at - address) + " bytes; " +
                  std::to_string(size) + " are accepted");
}

}  // namespace evac::prestage
