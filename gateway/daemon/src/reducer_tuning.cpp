// The reducer thread's choice of rungs and zstd level, and what it reports per VM.
#include "cpu_time.hpp"
#include "reducer_stage.hpp"

namespace evac::daemon {
namespace {

constexpr uint64_t kTunedBytesMin = 4 * kMiB;  // waiting: below, draining takes no time to save
constexpr uint64_t kRateNs = 50 * kNsPerMs;    // between looks at the transport's rate

}  // namespace

// After each batch: what it cost, and what the next one gets.
void ReducerStage::tune(const dedup::EncodedBatch& batch) {
    const uint64_t cpu_ns = thread_cpu_ns();
    const uint64_t now_ns = clock_.now_ns();
    if (now_ns - rate_ns_ >= kRateNs) {
        rate_ns_ = now_ns;
        rate_bytes_per_s_ = static_cast<double>(transport_.stats().delivery_rate_bits_per_s) / 8;
    }
    tuner_.record(setting_, batch.content_bytes, batch.message.size(), cpu_ns - tuned_cpu_ns_);
    tuned_cpu_ns_ = cpu_ns;
    const uint64_t waiting_bytes = pool_.budget().used_pages() * kPageBytes;
    dedup::LinkState link;
    link.bytes_per_s = rate_bytes_per_s_;
    link.starved = transport_.unsent_bytes(static_cast<wan::Class>(batch.lane)) == 0;
    const double ceiling = urgent_ ? 0 : options_.ceiling_bytes_per_s;
    if (ceiling > 0 && (link.bytes_per_s == 0 || ceiling < link.bytes_per_s)) {
        link = {ceiling, false};
    }
    const size_t tuned = tuner_.choose(link);
    setting_ = waiting_bytes >= kTunedBytesMin ? tuned : kSettingAtRest;
    reducer_->set_effort(dedup::effort_of(setting_));
}

void ReducerStage::publish_rungs(VmId id, const Vm& vm) {
    const dedup::RungTable* table = reducer_->stats_of(id);
    if (table == nullptr) return;
    for (size_t i = 0; i < dedup::kRungCount; ++i) {
        const auto& memory = table->memory[i];
        const auto& disk = table->disk[i];
        vm.flow->rung_pages[i].store(memory.pages + disk.pages, std::memory_order_relaxed);
        vm.flow->rung_wire_bytes[i].store(memory.wire_bytes + disk.wire_bytes,
                                          std::memory_order_relaxed);
    }
}

}  // namespace evac::daemon
