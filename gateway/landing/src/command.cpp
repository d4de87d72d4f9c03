#include "evac/landing/command.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

namespace evac::landing {
namespace {

using Json = nlohmann::json;

// QEMU's key=value lists: a comma in a value is doubled.
std::vector<std::string> split_list(const std::string& text) {
    std::vector<std::string> parts(1);
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] != ',') {
            parts.back() += text[i];
        } else if (i + 1 < text.size() && text[i + 1] == ',') {
            parts.back() += ",,";
            ++i;
        } else {
            parts.emplace_back();
        }
    }
    return parts;
}

std::string join_list(const std::vector<std::string>& parts) {
    std::string text;
    for (const auto& part : parts) {
        if (part.empty()) continue;
        if (!text.empty()) text += ',';
        text += part;
    }
    return text;
}

bool has_key(const std::string& part, std::string_view key) {
    return part.size() > key.size() && part.compare(0, key.size(), key) == 0 &&
           part[key.size()] == '=';
}

std::string value_of(const std::vector<std::string>& parts, std::string_view key) {
    for (const auto& part : parts) {
        if (has_key(part, key)) return part.substr(key.size() + 1);
    }
    return {};
}

void set_key(std::vector<std::string>& parts, const std::string& key, const std::string& value) {
    for (auto& part : parts) {
        if (has_key(part, key)) {
            part = key + "=" + value;
            return;
        }
    }
    parts.push_back(key + "=" + value);
}

void drop_key(std::vector<std::string>& parts, std::string_view key) {
    std::erase_if(parts, [key](const std::string& part) { return has_key(part, key); });
}

std::string undouble_commas(const std::string& text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        out += text[i];
        if (text[i] == ',' && i + 1 < text.size() && text[i + 1] == ',') ++i;
    }
    return out;
}

class TemplateMaker {
  public:
    explicit TemplateMaker(const SourceCommand& source) : source_(source) {}

    Result<std::vector<std::string>> make() {
        const auto& argv = source_.argv;
        for (size_t i = 1; i < argv.size(); ++i) {
            const std::string option = normalised(argv[i]);
            if (kFlagsDropped.end() !=
                std::find(kFlagsDropped.begin(), kFlagsDropped.end(), option))
                continue;
            const bool has_value = i + 1 < argv.size() && takes_value(option);
            const std::string value = has_value ? argv[i + 1] : std::string();
            if (has_value) ++i;
            EVAC_TRY(add(option, has_value, value));
        }
        for (size_t disk = 0; disk < source_.disk_files.size(); ++disk) {
            if (!disk_seen_[disk]) {
                return make_error(
                    Errc::invalid_argument,
                    "disk file '" + source_.disk_files[disk] +
                        "' was not found in a -drive or -blockdev of the VM's command line");
            }
        }
        if (!machine_seen_) push("-machine", machine_options({source_.machine_type}));
        push("-object", "memory-backend-file,id=" + source_.main_ram_block + ",size=" +
                            std::to_string(source_.main_ram_bytes) + ",mem-path={ram},share=on");
        out_.push_back("-S");
        push("-incoming", "defer");
        push("-qmp", "unix:{dir}/qmp.sock,server=on,wait=off");
        return out_;
    }

  private:
    static constexpr std::array<std::string_view, 3> kFlagsDropped{"-daemonize", "-S", "-snapshot"};

    static std::string normalised(const std::string& text) {
        return text.rfind("--", 0) == 0 ? text.substr(1) : text;
    }
    // QEMU's options without a value that users meet; every other takes one.
    static bool takes_value(const std::string& option) {
        static constexpr std::array<std::string_view, 14> kFlags{
            "-enable-kvm",  "-nographic",   "-nodefaults",    "-no-user-config",
            "-no-reboot",   "-no-shutdown", "-no-acpi",       "-no-hpet",
            "-usb",         "-s",           "-no-fd-bootchk", "-only-migratable",
            "-full-screen", "-mem-prealloc"};
        return option.size() > 1 && option[0] == '-' &&
               std::find(kFlags.begin(), kFlags.end(), option) == kFlags.end();
    }

    void push(const std::string& option, const std::string& value) {
        out_.push_back(option);
        out_.push_back(value);
    }

    Status add(const std::string& option, bool has_value, const std::string& value) {
        if (option == "-pidfile" || option == "-incoming" || option == "-loadvm" ||
            option == "-mem-path")
            return {};
        if ((option == "-qmp" || option == "-qmp-pretty" || option == "-chardev" ||
             option == "-monitor") &&
            !source_.gateway_qmp_path.empty() && names_gateway_socket(value)) {
            if (option == "-chardev") gateway_chardev_ = value_of(split_list(value), "id");
            return {};
        }
        if (option == "-mon" && !gateway_chardev_.empty()) {
            const auto parts = split_list(value);
            if (value_of(parts, "chardev") == gateway_chardev_ || parts.front() == gateway_chardev_)
                return {};
        }
        if (option == "-M" || option == "-machine") {
            auto parts = split_list(value);
            if (has_key(parts.front(), "type")) parts.front() = parts.front().substr(5);
            if (parts.front().find('=') == std::string::npos) parts.erase(parts.begin());
            parts.insert(parts.begin(), source_.machine_type);
            machine_seen_ = true;
            push("-machine", machine_options(std::move(parts)));
            return {};
        }
        if (option == "-object" && is_main_ram_object(value)) return {};
        if (option == "-drive") return add_drive(value);
        if (option == "-blockdev") return add_blockdev(value);
        if ((option == "-hda" || option == "-hdb" || option == "-sda") && disk_number(value)) {
            return make_error(
                Errc::invalid_argument,
                "option " + option + " cannot be carried over; -drive or -blockdev is accepted");
        }
        if (has_value) {
            push(option, absolute_paths(option, value));
        } else {
            out_.push_back(option);
        }
        return {};
    }

    bool names_gateway_socket(const std::string& value) const {
        return value.find("unix:" + source_.gateway_qmp_path) != std::string::npos ||
               value_of(split_list(value), "path") == source_.gateway_qmp_path;
    }

    std::string machine_options(std::vector<std::string> parts) const {
        drop_key(parts, "memory-backend");
        parts.push_back("memory-backend=" + source_.main_ram_block);
        return join_list(parts);
    }

    bool is_main_ram_object(const std::string& value) const {
        if (!value.empty() && value.front() == '{') {
            const Json object = Json::parse(value, nullptr, false);
            return object.is_object() && object.value("id", "") == source_.main_ram_block &&
                   object.value("qom-type", "").rfind("memory-backend-", 0) == 0;
        }
        const auto parts = split_list(value);
        return parts.front().rfind("memory-backend-", 0) == 0 &&
               value_of(parts, "id") == source_.main_ram_block;
    }

    std::string absolute(const std::string& path) const {
        if (path.empty() || path.front() == '/' || source_.working_dir.empty()) return path;
        return (std::filesystem::path(source_.working_dir) / path).lexically_normal().string();
    }

    // Values that are one path.
    std::string absolute_paths(const std::string& option, const std::string& value) const {
        const bool is_path =
            option == "-kernel" || option == "-initrd" || option == "-bios" || option == "-cdrom";
        return is_path ? absolute(value) : value;
    }

    std::optional<size_t> disk_number(const std::string& file) const {
        const std::string wanted = absolute(undouble_commas(file));
        for (size_t i = 0; i < source_.disk_files.size(); ++i) {
            if (absolute(source_.disk_files[i]) == wanted) return i;
        }
        return std::nullopt;
    }

    std::string take_disk(size_t number) {
        disk_seen_[number] = true;
        return "{disk:" + std::to_string(number) + "}";
    }

    Status add_drive(const std::string& value) {
        auto parts = split_list(value);
        for (const std::string key : {"file", "file.filename"}) {
            const std::string file = value_of(parts, key);
            if (file.empty()) continue;
            if (const auto number = disk_number(file)) {
                set_key(parts, key, take_disk(*number));
                drop_key(parts, "driver");
                drop_key(parts, "snapshot");
                set_key(parts, "format", "raw");
            } else {
                set_key(parts, key, absolute(file));
            }
            break;
        }
        push("-drive", join_list(parts));
        return {};
    }

    // A format node above a staged protocol node must read raw, whatever the source's format was:
    // the staged image is raw. The node may hold its file inline or refer to a protocol node given
    // before.
    Status add_blockdev(const std::string& value) {
        Json node;
        if (!value.empty() && value.front() == '{') {
            node = Json::parse(value, nullptr, false);
            if (!node.is_object()) {
                return make_error(Errc::invalid_argument,
                                  "-blockdev '" + value + "': not valid JSON");
            }
        } else {
            for (const auto& part : split_list(value)) {
                const size_t equals = part.find('=');
                if (equals == std::string::npos) {
                    node["driver"] = part;
                } else {
                    node[part.substr(0, equals)] = undouble_commas(part.substr(equals + 1));
                }
            }
            if (node.contains("file.filename")) {
                const Json given = node;
                for (auto item = given.begin(); item != given.end(); ++item) {
                    if (item.key().rfind("file.", 0) != 0) continue;
                    node["file"][item.key().substr(5)] = item.value();
                    node.erase(item.key());
                }
            }
            // Key=value form knows only strings; JSON wants booleans where QEMU's schema does.
            for (const char* key : {"read-only", "auto-read-only", "force-share"}) {
                if (node.contains(key)) node[key] = node[key] == "on" || node[key] == "true";
            }
            if (node.contains("discard") && node["discard"] == "on") node["discard"] = "unmap";
            if (node.contains("cache.direct") || node.contains("cache.no-flush")) {
                for (const char* key : {"direct", "no-flush"}) {
                    const std::string dotted = std::string("cache.") + key;
                    if (!node.contains(dotted)) continue;
                    node["cache"][key] = node[dotted] == "on" || node[dotted] == "true";
                    node.erase(dotted);
                }
            }
        }
        bool staged = replace_file(node);
        if (node.contains("file") && node["file"].is_object())
            staged = replace_file(node["file"]) || staged;
        if (node.contains("file") && node["file"].is_string()) {
            staged = std::find(staged_nodes_.begin(), staged_nodes_.end(), node["file"]) !=
                     staged_nodes_.end();
        }
        if (staged) {
            staged_nodes_.push_back(node.value("node-name", ""));
            if (node.contains("file")) {
                node["driver"] = "raw";
                for (const char* key : {"backing", "l2-cache-size", "cache-size", "lazy-refcounts"})
                    node.erase(key);
            }
        }
        push("-blockdev", node.dump());
        return {};
    }

    bool replace_file(Json& node) {
        if (!node.contains("filename") || !node["filename"].is_string()) return false;
        const auto file = node["filename"].get<std::string>();
        if (const auto number = disk_number(file)) {
            node["filename"] = take_disk(*number);
            return true;
        }
        node["filename"] = absolute(file);
        return false;
    }

    const SourceCommand& source_;
    std::vector<std::string> out_;
    std::vector<std::string> staged_nodes_;
    std::string gateway_chardev_;
    std::array<bool, 64> disk_seen_{};
    bool machine_seen_ = false;
};

Status replace_placeholder(std::string& text, const std::string& placeholder,
                           const std::string& value) {
    size_t at = 0;
    while ((at = text.find(placeholder, at)) != std::string::npos) {
        if (value.empty()) {
            return make_error(Errc::invalid_argument,
                              "landing command: no path for " + placeholder);
        }
        text.replace(at, placeholder.size(), value);
        at += value.size();
    }
    return {};
}

void map_paths(std::string& text,
               const std::vector<std::pair<std::string, std::string>>& path_map) {
    for (const auto& [from, to] : path_map) {
        const size_t at = text.find(from);
        if (from.empty() || at == std::string::npos) continue;
        text.replace(at, from.size(), to);
        return;
    }
}

}  // namespace

Result<std::vector<std::string>> make_template(const SourceCommand& source) {
    if (source.argv.empty())
        return make_error(Errc::invalid_argument, "the VM's command line is empty");
    if (source.disk_files.size() > 64)
        return make_error(Errc::invalid_argument, "more than 64 disks");
    return TemplateMaker(source).make();
}

Result<std::vector<std::string>> fill_template(const std::vector<std::string>& arguments,
                                               const LandingPaths& paths) {
    if (arguments.size() > kArgumentsMax)
        return make_error(Errc::invalid_argument, "landing command: too many arguments");
    std::vector<std::string> argv{paths.qemu_binary};
    for (std::string argument : arguments) {
        if (argument.size() > kArgumentBytesMax || argument.find('\0') != std::string::npos) {
            return make_error(Errc::invalid_argument,
                              "landing command: an argument is too long or holds a NUL");
        }
        map_paths(argument, paths.path_map);
        EVAC_TRY(replace_placeholder(argument, "{ram}", paths.ram_file));
        EVAC_TRY(replace_placeholder(argument, "{dir}", paths.dir));
        for (size_t i = 0; i < paths.disk_files.size(); ++i) {
            EVAC_TRY(replace_placeholder(argument, "{disk:" + std::to_string(i) + "}",
                                         paths.disk_files[i]));
        }
        if (argument.find("{disk:") != std::string::npos) {
            return make_error(Errc::invalid_argument,
                              "landing command: no staged disk for '" + argument + "'");
        }
        argv.push_back(std::move(argument));
    }
    return argv;
}

Result<std::vector<std::string>> read_process_argv(int pid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/cmdline";
    std::ifstream file(path, std::ios::binary);
    if (!file) return make_error(Errc::not_found, path + ": the QEMU process is not on this host");
    std::stringstream content;
    content << file.rdbuf();
    std::vector<std::string> argv;
    std::string argument;
    while (std::getline(content, argument, '\0')) argv.push_back(argument);
    if (argv.empty()) return make_error(Errc::not_found, path + ": empty");
    if (argv.size() > kArgumentsMax)
        return make_error(Errc::invalid_argument, path + ": too many arguments");
    return argv;
}

Result<std::string> read_process_working_dir(int pid) {
    std::error_code error;
    const auto dir = std::filesystem::read_symlink("/proc/" + std::to_string(pid) + "/cwd", error);
    if (error)
        return io_error("working directory of process " + std::to_string(pid), error.value());
    return dir.string();
}

}  // namespace evac::landing
