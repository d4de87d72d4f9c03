#pragma once
// Two joined ports for tests, at least one of them on DPDK. Ours has no kernel address on its
// interface; the peer is another DPDK port or the kernel's. Needs root.
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "conformance.hpp"
#include "evac/core/assert.hpp"
#include "evac/core/clock.hpp"
#include "evac/wan_dpdk/dpdk_port.hpp"
#include "evac/wan_port/kernel_udp_port.hpp"
#include "netns.hpp"

namespace evac::wan_port::testing {

inline constexpr uint32_t kUs = 0x0a4d0001, kPeer = 0x0a4d0002;

inline constexpr size_t kTestMemoryMib = 256;  // of a whole test program, fixed by its first port

struct DpdkPairOptions {
    std::string driver = "af_packet";  // af_packet, af_xdp; memif: between two ports of ours
    bool dpdk_peer = false;            // af_packet, af_xdp: else the kernel's UDP
    int mtu = 1500;
    uint16_t vlan_id = 0;  // of both ports
};

// For a memif socket; removed with what is in it.
class TemporaryFolder {
  public:
    TemporaryFolder() { EVAC_ASSERT(::mkdtemp(path_.data()) != nullptr); }
    ~TemporaryFolder() {
        ::unlink(socket().c_str());
        ::rmdir(path_.c_str());
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    std::string socket() const { return path_ + "/memif.sock"; }

  private:
    std::string path_ = "/tmp/evac-memif-XXXXXX";
};

class DpdkPair final : public PortPair {
  public:
    DpdkPair() = default;
    DatagramPort& port() override { return *us_; }
    DatagramPort& peer() override { return *peer_; }
    const NetNamespace& our_ns() const { return namespaces_[0]; }
    const NetNamespace& peer_ns() const { return namespaces_[1]; }
    const std::string& driver() const { return driver_; }
    // Afterwards the far end's kernel throws away what our port sends.
    Status move_peer_away() {
        return namespaces_[1].run(
            {"ip", "link", "set", "dev", "vb", "address", "02:00:00:00:00:99"});
    }

    // Our port alone, on an interface of the caller's.
    static Result<std::unique_ptr<DatagramPort>> open_alone(const std::string& device,
                                                            uint32_t gateway_ip,
                                                            const Clock& clock) {
        wan_dpdk::DpdkOptions options;
        options.device = device;
        options.local = {kUs, 4500};
        options.gateway_ip = gateway_ip;
        options.memory_mib = kTestMemoryMib;
        return wan_dpdk::open_dpdk_port(options, clock);
    }

    static std::unique_ptr<DpdkPair> make(const DpdkPairOptions& options, std::string& reason) {
        reason = netns_unavailable_reason();
        if (!reason.empty()) return nullptr;
        auto pair = std::make_unique<DpdkPair>();
        pair->vlan_id_ = options.vlan_id;
        pair->driver_ = options.driver;
        const Status status =
            options.driver == "memif" ? pair->open_memif(options) : pair->open_veth(options);
        if (status.ok()) return pair;
        ADD_FAILURE() << status.error().message();
        return nullptr;
    }

  private:
    Status open_veth(const DpdkPairOptions& options) {
        for (int i = 0; i < 2; ++i) {
            auto ns = NetNamespace::create();
            if (!ns.ok()) return ns.error();
            namespaces_.push_back(std::move(*ns));
        }
        EVAC_TRY(make_veth({&namespaces_[0], "va", ""},
                           {&namespaces_[1], "vb", options.dpdk_peer ? "" : "10.77.0.2/24"},
                           options.mtu));
        {
            const ScopedNetns inside(namespaces_[0]);
            EVAC_TRY(open_dpdk(options.driver + ":va", kUs, 0, us_));
        }
        const ScopedNetns inside(namespaces_[1]);
        if (options.dpdk_peer) return open_dpdk(options.driver + ":vb", kPeer, 0, peer_);
        auto kernel =
            open_kernel_udp_port({.local = {kPeer, 4500}, .mtu = static_cast<size_t>(options.mtu)});
        if (!kernel.ok()) return kernel.error();
        peer_ = std::move(*kernel);
        return {};
    }

    Status open_memif(const DpdkPairOptions& options) {
        // Once connected, neither needs the file.
        const TemporaryFolder folder;
        EVAC_TRY(open_dpdk("memif:" + folder.socket() + ",role=server", kPeer, options.mtu, peer_));
        return open_dpdk("memif:" + folder.socket(), kUs, options.mtu, us_);
    }

    Status open_dpdk(const std::string& device, uint32_t ip, int mtu,
                     std::unique_ptr<DatagramPort>& port) {
        wan_dpdk::DpdkOptions options;
        options.device = device;
        options.local = {ip, 4500};
        options.mtu = static_cast<size_t>(mtu);
        options.vlan_id = vlan_id_;
        options.memory_mib = kTestMemoryMib;
        auto opened = wan_dpdk::open_dpdk_port(options, clock_);
        if (!opened.ok()) return opened.error();
        port = std::move(*opened);
        return {};
    }

    SystemClock clock_;
    std::vector<NetNamespace> namespaces_;
    uint16_t vlan_id_ = 0;
    std::string driver_;
    std::unique_ptr<DatagramPort> us_, peer_;
};

}  // namespace evac::wan_port::testing
