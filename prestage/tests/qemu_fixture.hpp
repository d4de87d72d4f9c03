#pragma once
// A real QEMU under TCG for tests: 64 MiB, no kernel. Its boot sector counts without end in the
// first four bytes of each of 128 pages in turn (0x10000-0x8ffff), so that memory of one instant
// reads as c+1 ... c+1 c ... c.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "evac/prestage/enrolment.hpp"
#include "evac/prestage/round.hpp"
#include "evac/qmp/client.hpp"

namespace evac::prestage::test {

using qmp::Json;

inline constexpr uint64_t kFirstCounter = 0x10000, kCounters = 128;

class TempDir {
  public:
    TempDir() {
        char name[] = "/tmp/evac-prestage-XXXXXX";
        path_ = ::mkdtemp(name);
    }
    ~TempDir() { std::filesystem::remove_all(path_); }
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

inline void write_boot_image(const std::string& path) {
    const std::array<uint8_t, 22> code{0xbb, 0x00, 0x10,              // start: mov bx, 0x1000
                                       0x8e, 0xdb,                    // next:  mov ds, bx
                                       0x66, 0xff, 0x06, 0x00, 0x00,  //        inc dword [0]
                                       0x81, 0xc3, 0x00, 0x01,        //        add bx, 0x100
                                       0x81, 0xfb, 0x00, 0x90,        //        cmp bx, 0x9000
                                       0x72, 0xef,                    //        jb next
                                       0xeb, 0xea};                   //        jmp start
    std::vector<char> image(1024 * 1024);
    std::memcpy(image.data(), code.data(), code.size());
    image[510] = 0x55;
    image[511] = static_cast<char>(0xaa);
    std::ofstream(path, std::ios::binary)
        .write(image.data(), static_cast<std::streamsize>(image.size()));
}

class Qemu {
  public:
    // `extra` is appended; `accel` as QEMU names it; `disk` distinguishes the images of two QEMUs
    // in one folder.
    explicit Qemu(const TempDir& dir, std::vector<std::string> extra = {},
                  const std::string& disk = "boot.img", const std::string& accel = "tcg")
        : dir_(dir), qmp_path_(dir / (disk + ".qmp")) {
        write_boot_image(dir / disk);
        std::vector<std::string> words{"qemu-system-x86_64",
                                       "-M",
                                       "pc-q35-7.2",
                                       "-m",
                                       "64",
                                       "-accel",
                                       accel,
                                       "-nodefaults",
                                       "-display",
                                       "none",
                                       "-name",
                                       "guest",
                                       "-blockdev",
                                       "driver=file,filename=" + (dir / disk) + ",node-name=file0",
                                       "-blockdev",
                                       "driver=raw,file=file0,node-name=disk0",
                                       "-device",
                                       "ide-hd,drive=disk0,id=hd0,bootindex=0",
                                       "-qmp",
                                       "unix:" + qmp_path_ + ",server=on,wait=off"};
        words.insert(words.end(), extra.begin(), extra.end());
        std::vector<char*> argv;
        for (std::string& word : words) argv.push_back(word.data());
        argv.push_back(nullptr);
        if (::posix_spawnp(&pid_, argv[0], nullptr, nullptr, argv.data(), environ) != 0) pid_ = 0;
    }
    ~Qemu() { kill_now(); }

    void kill_now() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }
    // Mappings that userfaultfd still write-protects: a guest that writes there would hang for
    // good.
    int protected_mappings() const {
        std::ifstream maps("/proc/" + std::to_string(pid_) + "/smaps");
        int count = 0;
        for (std::string line; std::getline(maps, line);) {
            count += line.starts_with("VmFlags:") && line.find(" uw") != std::string::npos ? 1 : 0;
        }
        return count;
    }
    const std::string& qmp_path() const { return qmp_path_; }
    // The monitor may take a moment to listen.
    std::unique_ptr<qmp::Client> connect() const {
        auto client = qmp::Client::connect(qmp_path_);
        for (int i = 0; i < 1000 && !client.ok(); ++i) {
            nap_ms(10);
            client = qmp::Client::connect(qmp_path_);
        }
        EXPECT_TRUE(client.ok()) << client.error().message();
        return client.ok() ? std::move(client).value() : nullptr;
    }

    static void nap_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

    // Physical memory of the guest, which should be stopped.
    std::vector<std::byte> memory(qmp::Client& client, uint64_t size, uint64_t at = 0) const {
        const std::string file = dir_ / "memory.bin";
        EXPECT_TRUE(
            client.execute("pmemsave", Json{{"val", at}, {"size", size}, {"filename", file}}).ok());
        std::vector<std::byte> out(size);
        std::ifstream(file, std::ios::binary)
            .read(reinterpret_cast<char*>(out.data()), static_cast<std::streamsize>(size));
        return out;
    }
    uint32_t counter(qmp::Client& client) const {
        uint32_t value = 0;
        std::memcpy(&value, memory(client, 4, kFirstCounter).data(), 4);
        return value;
    }
    bool boots(qmp::Client& client) const {
        for (int i = 0; i < 500; ++i) {
            if (counter(client) > 100) return true;
            nap_ms(10);
        }
        return false;
    }

  private:
    const TempDir& dir_;
    std::string qmp_path_;
    pid_t pid_ = 0;
};

// Counts warnings, so that a test can tell whether a round had to be rescued.
class CountingLogger final : public Logger {
  public:
    void write(LogLevel level, std::string_view text) override {
        if (level >= LogLevel::warning) last_warning = text, ++warnings;
    }
    int warnings = 0;
    std::string last_warning;
};

// Away's copy, as far as these tests need one.
class Store final : public PageSink {
  public:
    explicit Store(const std::vector<RegionInfo>& regions) {
        for (const RegionInfo& region : regions) {
            images.emplace_back(region.size_bytes, std::byte{0xee});
        }
    }
    bool page(const CapturedPage& page) override {
        ++calls;
        if (on_page) on_page();
        if (refuse && refuse(page)) return false;
        std::byte* at = images[raw(page.region)].data() + page.page * kPageBytes;
        if (page.is_zero) {
            std::memset(at, 0, kPageBytes);
        } else {
            std::memcpy(at, page.bytes.data(), kPageBytes);
        }
        return true;
    }

    std::vector<std::vector<std::byte>> images;
    std::function<void()> on_page;
    std::function<bool(const CapturedPage&)> refuse;
    uint64_t calls = 0;
};

// Ends the connection that QEMU migrates over, as a failing host would.
inline int cut_capture_stream() {
    int cut = 0;
    for (int fd = 3; fd < 256; ++fd) {
        sockaddr_un name{};
        socklen_t size = sizeof(name);
        int listening = 0;
        socklen_t option_size = sizeof(listening);
        if (::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0 ||
            name.sun_family != AF_UNIX)
            continue;
        if (std::strstr(name.sun_path, "/capture-") == nullptr) continue;
        ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &option_size);
        if (listening == 0 && ::shutdown(fd, SHUT_RD) == 0) ++cut;
    }
    return cut;
}

// Passes a monitor's bytes on and can drop the connection; then it serves the next one.
class MonitorProxy {
  public:
    MonitorProxy(std::string path, std::string target)
        : path_(std::move(path)), target_(std::move(target)) {
        listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const sockaddr_un address = to_address(path_);
        EXPECT_EQ(::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
                  0);
        EXPECT_EQ(::listen(listener_, 4), 0);
        thread_ = std::thread([this] { serve(); });
    }
    ~MonitorProxy() {
        end_ = true;
        thread_.join();
        ::close(listener_);
    }
    void cut() { cut_ = true; }
    // Waits until the cut was made.
    void cut_and_wait() {
        cut_ = true;
        while (cut_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }

  private:
    static sockaddr_un to_address(const std::string& path) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path.data(), path.size());
        return address;
    }
    static bool pass(int from, int to) {
        char bytes[65536];
        const ssize_t n = ::recv(from, bytes, sizeof(bytes), 0);
        return n > 0 && ::send(to, bytes, static_cast<size_t>(n), MSG_NOSIGNAL) == n;
    }
    void serve() {
        while (!end_) {
            pollfd waiter{listener_, POLLIN, 0};
            if (::poll(&waiter, 1, 5) <= 0) {
                cut_ = false;
                continue;
            }
            const int near = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            const int far = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
            const sockaddr_un address = to_address(target_);
            bool good =
                ::connect(far, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
            while (good && !end_ && !cut_) {
                pollfd both[2]{{near, POLLIN, 0}, {far, POLLIN, 0}};
                if (::poll(both, 2, 5) <= 0) continue;
                if (both[0].revents != 0) good = pass(near, far);
                if (good && both[1].revents != 0) good = pass(far, near);
            }
            ::close(near);
            ::close(far);
            cut_ = false;
        }
    }

    std::string path_, target_;
    int listener_ = -1;
    std::atomic<bool> end_{false}, cut_{false};
    std::thread thread_;
};

}  // namespace evac::prestage::test
