#pragma once
// Network namespaces for tests. They have no name: the kernel removes one, with the interfaces in
// it, when its last descriptor closes, so nothing is left behind even by a killed test. Needs root.
#include <string>
#include <vector>

#include "evac/core/result.hpp"
#include "evac/core/unique_fd.hpp"

namespace evac::wan_port::testing {

// Empty when namespaces and veth can be made here; else the reason, for GTEST_SKIP.
std::string netns_unavailable_reason();

class NetNamespace {
  public:
    static Result<NetNamespace> create();  // with its loopback up

    int fd() const { return fd_.get(); }
    // Runs a program inside, e.g. {"ip", "link", "set", "v0", "up"}; an exit code other than 0 is
    // an Error.
    Status run(const std::vector<std::string>& argv) const;
    // A path that other programs of this process's children accept as a namespace.
    std::string path() const;

  private:
    explicit NetNamespace(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
};

// Moves the calling thread into a namespace for the life of this object.
class ScopedNetns {
  public:
    explicit ScopedNetns(const NetNamespace& inside);
    ~ScopedNetns();
    ScopedNetns(const ScopedNetns&) = delete;
    ScopedNetns& operator=(const ScopedNetns&) = delete;

  private:
    UniqueFd before_;
};

struct VethEnd {
    const NetNamespace* where = nullptr;
    std::string name;
    std::string address;  // "10.0.0.1/24", or empty: no kernel address
};

// A veth pair with both ends up, offloads off (see dpdk_port.hpp) and no IPv6 chatter.
Status make_veth(const VethEnd& a, const VethEnd& b, int mtu = 1500);

// us (va, 10.77.0.1/24, or no kernel address) - router 10.77.0.254, 10.78.0.254 - far (vb,
// 10.78.0.2/24). The way on from the router takes `far_mtu` bytes only.
struct RoutedPath {
    static constexpr uint32_t kRouter = 0x0a4d00fe, kUs = 0x0a4d0001, kFar = 0x0a4e0002;
    std::vector<NetNamespace> namespaces;  // us, router, far
    const NetNamespace& us() const { return namespaces[0]; }
};
Result<RoutedPath> make_routed_path(bool kernel_address, int far_mtu);

}  // namespace evac::wan_port::testing
