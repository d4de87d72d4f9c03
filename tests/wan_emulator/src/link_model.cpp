#include "link_model.hpp"

#include <algorithm>

namespace wan_emulator {

LinkModel::LinkModel(const LinkSettings& settings, uint64_t seed, size_t packets_max)
    : settings_(settings),
      packets_max_(packets_max),
      loss_random_(seed * 3),
      burst_random_(seed * 3 + 1),
      jitter_random_(seed * 3 + 2),
      waiting_(packets_max),
      flying_(packets_max) {}

void LinkModel::change(const LinkSettings& settings, uint64_t now_ns) {
    transmit_until(now_ns);
    settings_ = settings;
}

bool LinkModel::add_outage(uint64_t start_ns, uint64_t length_ns, uint64_t now_ns) {
    // Places of outages that no waiting packet can meet any more are used again.
    transmit_until(now_ns);
    const uint64_t earliest_ns = waiting_.empty() ? now_ns : std::min(now_ns, free_at_ns_);
    Outage* const end =
        std::remove_if(outages_.begin(), outages_.begin() + outage_count_,
                       [&](const Outage& outage) { return outage.end_ns <= earliest_ns; });
    outage_count_ = static_cast<size_t>(end - outages_.begin());
    if (outage_count_ == kOutagesMax) return false;
    outages_[outage_count_++] = {start_ns, start_ns + length_ns};
    return true;
}

bool LinkModel::arrive(uint64_t at_ns, uint32_t bytes, uint32_t handle) {
    at_ns = last_arrival_ns_ = std::max(at_ns, last_arrival_ns_);
    ++counters_.offered_packets;
    counters_.offered_bytes += bytes;
    transmit_until(at_ns);
    if (packets() >= packets_max_) {
        ++counters_.dropped_memory;
        return false;
    }
    // A packet that finds the transmitter idle does not wait, whatever the queue's size.
    const bool waits = free_at_ns_ > at_ns || !waiting_.empty();
    if (waits && queued_bytes_ + bytes > settings_.queue_bytes) {
        ++counters_.dropped_queue;
        return false;
    }
    waiting_.push({at_ns, bytes, handle});
    queued_bytes_ += bytes;
    transmit_until(at_ns);
    counters_.queue_bytes_peak = std::max(counters_.queue_bytes_peak, queued_bytes_);
    return true;
}

uint64_t LinkModel::transmit_ns(uint32_t bytes) const {
    if (settings_.rate_bits_per_s == 0) return 0;
    return uint64_t{bytes} * 8 * 1'000'000'000 / settings_.rate_bits_per_s;
}

void LinkModel::transmit_until(uint64_t now_ns) {
    while (!waiting_.empty()) {
        const Waiting packet = waiting_.front();
        const uint64_t start_ns = std::max(free_at_ns_, packet.arrived_ns);
        if (start_ns > now_ns) return;
        waiting_.pop();
        queued_bytes_ -= packet.bytes;
        const uint64_t length_ns = transmit_ns(packet.bytes);
        free_at_ns_ = start_ns + length_ns;
        counters_.busy_ns += length_ns;
        uint64_t due_ns = free_at_ns_ + settings_.delay_ns;
        if (settings_.jitter_ns > 0) due_ns += jitter_random_.below(settings_.jitter_ns + 1);
        due_ns = last_due_ns_ = std::max(due_ns, last_due_ns_);
        flying_.push({packet.handle, packet.bytes, !is_lost(free_at_ns_), due_ns});
    }
}

bool LinkModel::in_outage(uint64_t at_ns) const {
    return std::any_of(
        outages_.begin(), outages_.begin() + outage_count_,
        [&](const Outage& outage) { return outage.start_ns <= at_ns && at_ns < outage.end_ns; });
}

// Two states; every packet in the bad one is lost. With r = 1/burst as the chance to leave it,
// entering it with p = r * loss / (1 - loss) makes the mean share p / (p + r) = loss.
bool LinkModel::burst_takes() {
    if (settings_.ge_loss <= 0) return in_burst_ = false;
    const double leave = 1 / settings_.ge_burst;
    const double enter = leave * settings_.ge_loss / (1 - settings_.ge_loss);
    in_burst_ = in_burst_ ? !burst_random_.chance(leave) : burst_random_.chance(enter);
    return in_burst_;
}

bool LinkModel::is_lost(uint64_t sent_ns) {
    // Every process sees every packet, so that their draws do not depend on each other.
    const bool burst = burst_takes();
    const bool random = settings_.loss > 0 && loss_random_.chance(settings_.loss);
    if (in_outage(sent_ns)) {
        ++counters_.lost_outage;
    } else if (burst) {
        ++counters_.lost_burst;
    } else if (random) {
        ++counters_.lost_random;
    } else {
        return false;
    }
    return true;
}

std::optional<LinkModel::Due> LinkModel::pop_due(uint64_t now_ns) {
    transmit_until(now_ns);
    if (flying_.empty() || flying_.front().due_ns > now_ns) return std::nullopt;
    const Due due = flying_.front();
    flying_.pop();
    if (due.deliver) {
        ++counters_.delivered_packets;
        counters_.delivered_bytes += due.bytes;
    }
    return due;
}

uint64_t LinkModel::next_due_ns() const {
    if (!flying_.empty()) return flying_.front().due_ns;
    if (waiting_.empty()) return kNever;
    const Waiting& packet = waiting_.front();
    return std::max(free_at_ns_, packet.arrived_ns) + transmit_ns(packet.bytes) +
           settings_.delay_ns;
}

}  // namespace wan_emulator
