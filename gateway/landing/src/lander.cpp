#include "evac/landing/lander.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "evac/core/clock.hpp"
#include "evac/core/units.hpp"
#include "evac/landing/command.hpp"
#include "evac/qmp/client.hpp"

namespace evac::landing {
namespace {

constexpr size_t kLogTailBytes = 600;
constexpr unsigned kPollMicros = 2000;

uint64_t now_ns() {
    return SystemClock().now_ns();
}

Status write_all(int fd, ByteSpan bytes, uint64_t deadline_ns) {
    while (!bytes.empty()) {
        const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            bytes = bytes.subspan(static_cast<size_t>(n));
            continue;
        }
        if (n < 0 && errno != EAGAIN && errno != EINTR) return io_error("send the landing stream");
        if (now_ns() >= deadline_ns)
            return make_error(Errc::timeout, "QEMU does not read the landing stream");
        pollfd waiter{fd, POLLOUT, 0};
        ::poll(&waiter, 1, 50);
    }
    return {};
}

Result<UniqueFd> connect_unix(const std::string& path, uint64_t deadline_ns) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) {
        return make_error(Errc::invalid_argument, "socket path '" + path + "' is too long");
    }
    std::copy(path.begin(), path.end(), address.sun_path);
    while (true) {
        UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (!fd.valid()) return io_error("socket");
        if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0)
            return fd;
        if (now_ns() >= deadline_ns) return io_error("connect to '" + path + "'");
        ::usleep(kPollMicros);
    }
}

// In the grandchild, between fork and exec: only async-signal-safe calls.
[[noreturn]] void become_qemu(const std::vector<char*>& argv, const char* log_path, int pid_fd) {
    const int log = ::open(log_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int null = ::open("/dev/null", O_RDONLY);
    if (log < 0 || null < 0 || ::dup2(null, 0) < 0 || ::dup2(log, 1) < 0 || ::dup2(log, 2) < 0)
        ::_exit(126);
    const pid_t pid = ::getpid();
    if (::write(pid_fd, &pid, sizeof(pid)) != sizeof(pid)) ::_exit(126);
    ::close_range(3, ~0U, 0);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    for (const int sig : {SIGPIPE, SIGTERM, SIGINT, SIGHUP, SIGCHLD}) ::signal(sig, SIG_DFL);
    ::execvp(argv[0], argv.data());
    static constexpr char kMessage[] = "evacgw: the QEMU binary cannot be executed\n";
    const ssize_t ignored = ::write(2, kMessage, sizeof(kMessage) - 1);
    static_cast<void>(ignored);
    ::_exit(127);
}

}  // namespace

bool process_lives(int pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string text;
    if (pid <= 0 || !std::getline(file, text)) return false;
    const size_t name_end = text.rfind(')');  // the name may hold anything
    if (name_end == std::string::npos || name_end + 2 >= text.size()) return false;
    return text[name_end + 2] != 'Z' && text[name_end + 2] != 'X';
}

int living_qemu(const std::string& dir) {
    std::ifstream file(dir + "/qemu.pid");
    int pid = 0;
    if (!(file >> pid) || pid <= 0) return 0;
    // The number may have been reused: the process must name this folder's monitor in its
    // arguments.
    const auto argv = read_process_argv(pid);
    if (!argv.ok()) return 0;
    const std::string monitor = "unix:" + dir + "/qmp.sock";
    for (const auto& argument : *argv) {
        if (argument.rfind(monitor, 0) == 0) return pid;
    }
    return 0;
}

Lander::Lander(LaunchOptions options, Logger& logger)
    : options_(std::move(options)), logger_(logger) {}
Lander::~Lander() = default;

Status Lander::launch() {
    if (const int pid = living_qemu(options_.dir); pid != 0) {
        return make_error(Errc::refused, "a QEMU of this VM is already here (process " +
                                             std::to_string(pid) + ")");
    }
    std::error_code error;
    std::filesystem::create_directories(options_.dir, error);
    if (error) return io_error("create '" + options_.dir + "'", error.value());
    std::filesystem::remove(qmp_path(), error);
    EVAC_TRY(spawn());
    auto connected = connect_monitor();
    if (!connected.ok()) {
        EVAC_TRY(kill());
        return connected;
    }
    return {};
}

// Forked twice, in a session of its own: QEMU must outlive the daemon, and never becomes its
// zombie.
Status Lander::spawn() {
    std::vector<char*> argv;
    for (auto& argument : options_.argv) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const std::string log_path = options_.dir + "/qemu.log";
    int pipe_fds[2];
    if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return io_error("pipe");
    UniqueFd read_end(pipe_fds[0]);
    UniqueFd write_end(pipe_fds[1]);
    const pid_t child = ::fork();
    if (child < 0) return io_error("fork");
    if (child == 0) {
        ::setsid();
        const pid_t grandchild = ::fork();
        if (grandchild == 0) become_qemu(argv, log_path.c_str(), write_end.get());
        ::_exit(grandchild < 0 ? 1 : 0);
    }
    write_end.reset();
    ::waitpid(child, nullptr, 0);
    pid_t pid = 0;
    if (::read(read_end.get(), &pid, sizeof(pid)) != sizeof(pid)) {
        return make_error(Errc::io, "QEMU could not be started");
    }
    pid_ = pid;
    std::ofstream(options_.dir + "/qemu.pid") << pid << '\n';
    return {};
}

Status Lander::connect_monitor() {
    const uint64_t deadline_ns =
        now_ns() + static_cast<uint64_t>(options_.start_timeout_ms) * kNsPerMs;
    while (true) {
        auto client = qmp::Client::connect(qmp_path(), 5000);
        if (client.ok()) {
            monitor_ = std::move(*client);
            return {};
        }
        if (pid_ != 0 && !process_lives(pid_)) {
            return make_error(Errc::io, "the landing QEMU ended at once: " + log_tail());
        }
        if (now_ns() >= deadline_ns) {
            return make_error(Errc::timeout, "the landing QEMU does not answer: " +
                                                 client.error().message() + "; " + log_tail());
        }
        ::usleep(kPollMicros);
    }
}

Status Lander::attach() {
    pid_ = living_qemu(options_.dir);
    if (pid_ == 0)
        return make_error(Errc::not_found, "no QEMU of this VM lives in '" + options_.dir + "'");
    return connect_monitor();
}

Status Lander::load(const LandingState& state, const std::vector<SmallBlock>& blocks) {
    if (!monitor_) return make_error(Errc::refused, "the landing QEMU was not launched");
    const uint64_t deadline_ns =
        now_ns() + static_cast<uint64_t>(options_.load_timeout_ms) * kNsPerMs;
    const std::string socket_path = options_.dir + "/incoming.sock";
    std::error_code error;
    std::filesystem::remove(socket_path, error);
    EVAC_TRY(monitor_->execute("migrate-incoming", {{"uri", "unix:" + socket_path}}));
    auto socket = connect_unix(socket_path, deadline_ns);
    EVAC_TRY(socket);
    const int fd = socket->get();
    auto written = write_landing_stream(state, blocks, [fd, deadline_ns](ByteSpan piece) {
        return write_all(fd, piece, deadline_ns);
    });
    if (written.ok()) ::shutdown(fd, SHUT_WR);
    std::string last;
    while (written.ok()) {
        auto status = run_state();
        if (!status.ok())
            return make_error(Errc::corrupt, "QEMU refused the recovery point: " + log_tail());
        last = *status;
        // Loaded: with -S the machine stands in "paused" (or "prelaunch" when the stream recorded
        // no run state).
        if (last != "inmigrate") break;
        if (now_ns() >= deadline_ns) return make_error(Errc::timeout, "landing: still loading");
        ::usleep(kPollMicros);
    }
    if (!written.ok()) {
        return make_error(written.error().code, written.error().message() + "; " + log_tail());
    }
    auto migration = monitor_->execute("query-migrate");
    EVAC_TRY(migration);
    const std::string outcome = migration->value("status", "");
    if (outcome != "completed") {
        return make_error(Errc::corrupt, "QEMU refused the recovery point (migration '" + outcome +
                                             "', run state '" + last + "'): " + log_tail());
    }
    std::filesystem::remove(socket_path, error);
    return {};
}

Status Lander::resume() {
    if (!monitor_) return make_error(Errc::refused, "the landing QEMU was not launched");
    EVAC_TRY(monitor_->execute("cont"));
    auto state = run_state();
    EVAC_TRY(state);
    if (*state != "running")
        return make_error(Errc::io, "after cont the run state is '" + *state + "'");
    // Switches learn where the VM's addresses are now. Not fatal: a VM without a network card has
    // nothing to announce.
    auto announced = monitor_->execute(
        "announce-self", {{"initial", 50}, {"max", 550}, {"rounds", 5}, {"step", 50}});
    if (!announced.ok()) logger_.debug("announce-self: " + announced.error().message());
    return {};
}

Result<std::string> Lander::run_state() {
    if (!monitor_) return make_error(Errc::refused, "the landing QEMU was not launched");
    auto status = monitor_->execute("query-status");
    EVAC_TRY(status);
    return status->value("status", std::string("unknown"));
}

Status Lander::kill() {
    if (pid_ == 0) pid_ = living_qemu(options_.dir);
    monitor_.reset();
    if (pid_ == 0) return {};
    const uint64_t deadline_ns = now_ns() + 10 * kNsPerSecond;
    ::kill(pid_, SIGTERM);
    bool forced = false;
    while (process_lives(pid_)) {
        if (now_ns() >= deadline_ns)
            return make_error(Errc::timeout, "QEMU " + std::to_string(pid_) + " does not end");
        if (!forced && now_ns() + 7 * kNsPerSecond >= deadline_ns) {
            ::kill(pid_, SIGKILL);
            forced = true;
        }
        ::usleep(kPollMicros);
    }
    pid_ = 0;
    std::error_code error;
    std::filesystem::remove(options_.dir + "/qemu.pid", error);
    return {};
}

std::string Lander::log_tail() const {
    std::ifstream file(options_.dir + "/qemu.log", std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    if (text.empty()) return "QEMU said nothing";
    return "QEMU said: " +
           text.substr(text.size() > kLogTailBytes ? text.size() - kLogTailBytes : 0);
}

}  // namespace evac::landing
