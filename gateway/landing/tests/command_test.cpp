#include "evac/landing/command.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace evac::landing {
namespace {

SourceCommand source(std::vector<std::string> argv) {
    return {.argv = std::move(argv),
            .machine_type = "pc-q35-7.2",
            .main_ram_block = "pc.ram",
            .main_ram_bytes = 268435456,
            .disk_files = {},
            .gateway_qmp_path = "/a/qmp.sock",
            .working_dir = "/home/vm"};
}

std::string joined(const Result<std::vector<std::string>>& argv) {
    if (!argv.ok()) return argv.error().message();
    std::string text;
    for (const auto& argument : *argv) text += (text.empty() ? "" : " ") + argument;
    return text;
}

constexpr char kTail[] =
    " -object memory-backend-file,id=pc.ram,size=268435456,mem-path={ram},share=on -S -incoming "
    "defer"
    " -qmp unix:{dir}/qmp.sock,server=on,wait=off";

TEST(Template, PinsMachineAndDropsWhatBelongsToTheSource) {
    auto s = source({"qemu-system-x86_64",
                     "-M",
                     "q35,smm=off",
                     "-m",
                     "256",
                     "-daemonize",
                     "-pidfile",
                     "/p",
                     "-S",
                     "-qmp",
                     "unix:/a/qmp.sock,server=on,wait=off",
                     "-qmp",
                     "unix:/a/prover.sock,server=on",
                     "-nographic",
                     "-kernel",
                     "vmlinuz",
                     "-append",
                     "console=ttyS0 a=b,c",
                     "-incoming",
                     "tcp:0:1"});
    EXPECT_EQ(joined(make_template(s)),
              "-machine pc-q35-7.2,smm=off,memory-backend=pc.ram -m 256 -qmp "
              "unix:/a/prover.sock,server=on -nographic"
              " -kernel /home/vm/vmlinuz -append console=ttyS0 a=b,c" +
                  std::string(kTail));
}

TEST(Template, WithoutMachineOptionTheResolvedTypeIsSet) {
    EXPECT_EQ(joined(make_template(source({"q", "-m", "256"}))),
              "-m 256 -machine pc-q35-7.2,memory-backend=pc.ram" + std::string(kTail));
}

TEST(Template, ReplacesNamedBackend) {
    auto s =
        source({"q", "-machine", "type=q35,memory-backend=ram0", "-object",
                "memory-backend-memfd,id=ram0,size=256M,share=on", "-object", "rng-random,id=r"});
    s.main_ram_block = "ram0";
    EXPECT_EQ(joined(make_template(s)),
              "-machine pc-q35-7.2,memory-backend=ram0 -object rng-random,id=r -object "
              "memory-backend-file,id=ram0,size=268435456,mem-path={ram},share=on -S -incoming "
              "defer -qmp "
              "unix:{dir}/qmp.sock,server=on,wait=off");
}

TEST(Template, DriveBecomesStagedRawImage) {
    auto s =
        source({"q", "-M", "q35", "-drive", "file=disk.qcow2,if=none,id=d0,format=qcow2,cache=none",
                "-drive", "file=/iso/cd.iso,media=cdrom"});
    s.disk_files = {"/home/vm/disk.qcow2"};
    EXPECT_EQ(joined(make_template(s)),
              "-machine pc-q35-7.2,memory-backend=pc.ram -drive "
              "file={disk:0},if=none,id=d0,format=raw,cache=none"
              " -drive file=/iso/cd.iso,media=cdrom" +
                  std::string(kTail));
}

TEST(Template, BlockdevInlineAndTwoNodes) {
    auto s =
        source({"q", "-M", "q35", "-blockdev",
                "driver=qcow2,node-name=d0,file.driver=file,file.filename=/d/a.qcow2,read-only=off",
                "-blockdev", R"({"driver":"file","filename":"/d/b.img","node-name":"p1"})",
                "-blockdev", R"({"driver":"qcow2","node-name":"f1","file":"p1"})"});
    s.disk_files = {"/d/a.qcow2", "/d/b.img"};
    EXPECT_EQ(
        joined(make_template(s)),
        "-machine pc-q35-7.2,memory-backend=pc.ram"
        R"( -blockdev {"driver":"raw","file":{"driver":"file","filename":"{disk:0}"},"node-name":"d0","read-only":false})"
        R"( -blockdev {"driver":"file","filename":"{disk:1}","node-name":"p1"})"
        R"( -blockdev {"driver":"raw","file":"p1","node-name":"f1"})" +
            std::string(kTail));
}

TEST(Template, RefusesADiskItCannotFind) {
    auto s = source({"q", "-M", "q35"});
    s.disk_files = {"/d/a.img"};
    EXPECT_NE(joined(make_template(s)).find("disk file '/d/a.img' was not found"),
              std::string::npos);
}

TEST(Fill, PutsPathsInAndMapsPrefixes) {
    LandingPaths paths{.qemu_binary = "/usr/bin/qemu",
                       .ram_file = "/ram/1",
                       .disk_files = {"/s/d0.raw"},
                       .dir = "/run/b/vm",
                       .path_map = {{"/run/a", "/run/b"}}};
    EXPECT_EQ(joined(fill_template({"-serial", "file:/run/a/serial.log", "-drive",
                                    "file={disk:0},if=none", "-x", "{ram}", "{dir}/q"},
                                   paths)),
              "/usr/bin/qemu -serial file:/run/b/serial.log -drive file=/s/d0.raw,if=none -x "
              "/ram/1 /run/b/vm/q");
    EXPECT_NE(joined(fill_template({"file={disk:1}"}, paths)).find("no staged disk"),
              std::string::npos);
}

}  // namespace
}  // namespace evac::landing
