#pragma once
// The landing QEMU's command line, derived from the source's own (read from /proc/<pid>/cmdline),
// so that an operator need not describe a VM twice. Two steps, because each site knows half of it:
//   home:  make_template(source argv)  -> argv with placeholders {ram}, {disk:0}, {dir}
//   away:  fill_template(template, paths, path_map)
// Rules (each with a case in tests/command_test.cpp):
//   -M/-machine        type pinned to the resolved version, memory-backend=<main RAM block> set
//   -object memory-backend-* of the main RAM: replaced by memory-backend-file on {ram}, share=on
//   -drive / -blockdev whose file is a staged disk: file replaced by {disk:N}, format raw
//   -qmp, -mon, -monitor of the gateway's own socket, -daemonize, -pidfile, -incoming, -S, -loadvm,
//   -snapshot: dropped added: -S, -incoming defer, -qmp unix:{dir}/qmp.sock everything else is
//   kept; away's path_map rewrites path prefixes in it
#include <string>
#include <utility>
#include <vector>

#include "evac/core/result.hpp"
#include "evac/core/units.hpp"

namespace evac::landing {

inline constexpr size_t kArgumentsMax = 512;
inline constexpr size_t kArgumentBytesMax = 16 * 1024;

struct SourceCommand {
    std::vector<std::string> argv;  // as QEMU was started; argv[0] is the binary
    std::string machine_type;       // resolved: pc-q35-7.2, never the alias q35
    std::string main_ram_block;     // "pc.ram", or the id of the memory backend
    uint64_t main_ram_bytes = 0;
    std::vector<std::string> disk_files;  // by staged disk number
    std::string gateway_qmp_path;         // the monitor that the gateway is connected to
    std::string working_dir;              // of the source process, to make relative paths absolute
};

// The arguments after the binary. Errors: invalid_argument (names the option that cannot be carried
// over).
Result<std::vector<std::string>> make_template(const SourceCommand& source);

struct LandingPaths {
    std::string qemu_binary;
    std::string ram_file;
    std::vector<std::string> disk_files;
    std::string dir;  // of this VM at away: QMP socket, log
    std::vector<std::pair<std::string, std::string>>
        path_map;  // prefix at home -> prefix here; first match wins
};

// The complete argv. Errors: invalid_argument (a placeholder without a path).
Result<std::vector<std::string>> fill_template(const std::vector<std::string>& arguments,
                                               const LandingPaths& paths);

// argv and working directory of a running process. Errors: io, not_found.
Result<std::vector<std::string>> read_process_argv(int pid);
Result<std::string> read_process_working_dir(int pid);

}  // namespace evac::landing
