#include "netns.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "evac/core/assert.hpp"

namespace evac::wan_port::testing {
namespace {

UniqueFd own_netns() {
    return UniqueFd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
}

std::string joined(const std::vector<std::string>& argv) {
    std::string text;
    for (const std::string& word : argv) text += (text.empty() ? "" : " ") + word;
    return text;
}

Status prepare_end(const VethEnd& end, int mtu) {
    const NetNamespace& ns = *end.where;
    EVAC_TRY(ns.run({"ip", "link", "set", "dev", end.name, "addrgenmode", "none"}));
    EVAC_TRY(ns.run({"ip", "link", "set", "dev", end.name, "mtu", std::to_string(mtu)}));
    EVAC_TRY(ns.run({"ethtool", "-K", end.name, "tx", "off", "rx", "off", "sg", "off", "tso", "off",
                     "gso", "off", "gro", "off"}));
    if (!end.address.empty()) {
        EVAC_TRY(ns.run({"ip", "addr", "add", end.address, "dev", end.name}));
    }
    return ns.run({"ip", "link", "set", "dev", end.name, "up"});
}

}  // namespace

Result<NetNamespace> NetNamespace::create() {
    const UniqueFd before = own_netns();
    if (!before.valid()) return io_error("/proc/thread-self/ns/net");
    if (::unshare(CLONE_NEWNET) != 0) return io_error("unshare(CLONE_NEWNET)");
    NetNamespace made(own_netns());
    EVAC_ASSERT(::setns(before.get(), CLONE_NEWNET) == 0);
    if (made.fd() < 0) return io_error("/proc/thread-self/ns/net");
    EVAC_TRY(made.run({"ip", "link", "set", "dev", "lo", "up"}));
    return Result<NetNamespace>(std::move(made));
}

std::string NetNamespace::path() const {
    return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd_.get());
}

Status NetNamespace::run(const std::vector<std::string>& argv) const {
    std::vector<char*> words;
    for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    const pid_t child = ::fork();
    if (child < 0) return io_error("fork");
    if (child == 0) {
        if (::setns(fd_.get(), CLONE_NEWNET) == 0) {
            const int null_fd = ::open("/dev/null", O_RDWR);
            ::dup2(null_fd, STDOUT_FILENO);
            ::execvp(words[0], words.data());
        }
        ::_exit(127);
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
    return make_error(Errc::io,
                      "'" + joined(argv) + "' failed with status " + std::to_string(status));
}

ScopedNetns::ScopedNetns(const NetNamespace& inside) : before_(own_netns()) {
    EVAC_ASSERT(::setns(inside.fd(), CLONE_NEWNET) == 0);
}
ScopedNetns::~ScopedNetns() {
    EVAC_ASSERT(::setns(before_.get(), CLONE_NEWNET) == 0);
}

Status make_veth(const VethEnd& a, const VethEnd& b, int mtu) {
    EVAC_TRY(a.where->run({"ip", "link", "add", "name", a.name, "type", "veth", "peer", "name",
                           b.name, "netns", b.where->path()}));
    EVAC_TRY(prepare_end(a, mtu));
    return prepare_end(b, mtu);
}

Result<RoutedPath> make_routed_path(bool kernel_address, int far_mtu) {
    RoutedPath path;
    for (int i = 0; i < 3; ++i) {
        auto ns = NetNamespace::create();
        if (!ns.ok()) return ns.error();
        path.namespaces.push_back(std::move(*ns));
    }
    const NetNamespace &us = path.namespaces[0], &router = path.namespaces[1],
                       &far = path.namespaces[2];
    EVAC_TRY(make_veth({&us, "va", kernel_address ? "10.77.0.1/24" : ""},
                       {&router, "ra", "10.77.0.254/24"}));
    EVAC_TRY(make_veth({&router, "rb", "10.78.0.254/24"}, {&far, "vb", "10.78.0.2/24"}, far_mtu));
    if (kernel_address) EVAC_TRY(us.run({"ip", "route", "add", "default", "via", "10.77.0.254"}));
    EVAC_TRY(far.run({"ip", "route", "add", "default", "via", "10.78.0.254"}));
    EVAC_TRY(router.run({"sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"}));
    return Result<RoutedPath>(std::move(path));
}

namespace {

std::string probe_namespaces() {
    if (::geteuid() != 0) return "network namespaces need root";
    auto ns = NetNamespace::create();
    if (!ns.ok()) return ns.error().message();
    const Status veth = make_veth({&*ns, "probe0", ""}, {&*ns, "probe1", ""});
    return veth.ok() ? "" : veth.error().message();
}

}  // namespace

std::string netns_unavailable_reason() {
    static const std::string reason = probe_namespaces();  // costs a dozen processes
    return reason;
}

}  // namespace evac::wan_port::testing
