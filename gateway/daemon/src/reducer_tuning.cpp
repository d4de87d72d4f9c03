// The reducer thread's choice of rungs and zstd level, and what it reports per VM.
#include "cpu_time.hpp"
#include "reducer_stage.hpp"

namespace evac::daemon {
namespace {

constexpr uint64_t kTunedBytesMin = 4 * kMiB;  // waiting: below, draining takes no time to save
constexpr double kFullShare = 0.6;             // of the congestion window
constexpr uint64_t kRateNs = 50 * kNsPerMs;    // between looks at the transport's rate

}  // namespace

// What this thread spent on reduction: not on taking pages over from the capture workers, which costs
// more at times and is no setting's doing.
uint64_t ReducerStage::reduction_cpu_ns() const {
    return reduction_cpu_ns_ + (reducing_ ? thread_cpu_ns() - reduce_begin_cpu_ns_ : 0);
}

void ReducerStage::begin_reduction() {
    reducing_ = true;
    reduce_begin_cpu_ns_ = thread_cpu_ns();
}

void ReducerStage::end_reduction() {
    reduction_cpu_ns_ = reduction_cpu_ns();
    reducing_ = false;
}

// After each batch: what it cost, and what the next one gets.
void ReducerStage::tune(const dedup::EncodedBatch& batch) {
    const uint64_t cpu_ns = reduction_cpu_ns();
    const uint64_t now_ns = clock_.now_ns();
    if (now_ns - rate_ns_ >= kRateNs) {
        rate_ns_ = now_ns;
        const wan::Stats stats = transport_.stats();
        rate_bytes_per_s_ = static_cast<double>(stats.delivery_rate_bits_per_s) / 8;
        line_full_ = static_cast<double>(stats.inflight_bytes) >=
                     kFullShare * static_cast<double>(stats.window_bytes);
    }
    tuner_.record(setting_, batch.content_bytes, batch.message.size(), cpu_ns - tuned_cpu_ns_);
    tuned_cpu_ns_ = cpu_ns;
    content_by_setting_[setting_] += batch.content_bytes;
    const uint64_t waiting_bytes = pool_.budget().used_pages() * kPageBytes;
    dedup::LinkState link;
    link.bytes_per_s = rate_bytes_per_s_;
    // With little waiting the line is idle for want of pages, not of CPU: that says nothing. And
    // all that was given to it may be in flight: it is full then, and not starved.
    link.starved = waiting_bytes >= kTunedBytesMin && !line_full_ &&
                   transport_.unsent_bytes(static_cast<wan::Class>(batch.lane)) == 0;
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
