#pragma once
// DPDK's environment abstraction layer: one per process, by DPDK's design. This file is the only
// place that knows so. Not thread-safe against itself: ports are opened one after the other.
#include <cstddef>
#include <functional>
#include <string>

#include "evac/core/result.hpp"

namespace evac::wan_dpdk {

struct EalOptions {
    size_t memory_mib = 64;
    std::string file_prefix;
    bool hugepages = false;
    std::string pci_address;  // empty = no PCI bus at all
};

// Initialises the EAL at the first call; later calls succeed without looking at `options`, or
// repeat the first call's failure (DPDK cannot try twice). The calling thread's CPU affinity and
// name are left as they were.
Status eal_init_once(const EalOptions& options);

// Runs `work` on DPDK's interrupt thread and waits until that has forgotten what `work` closed.
// memif handles its control messages there without a lock against a stop or close elsewhere, so
// these go there too. False after a second without an answer: the thread hangs in a driver, and
// `work` may yet run.
bool run_on_interrupt_thread(const std::function<void()>& work);

// The last 2 KiB that DPDK logged, for error texts. It logs nowhere else.
std::string eal_log_tail();
void eal_log_clear();

}  // namespace evac::wan_dpdk
