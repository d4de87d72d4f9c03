#include "path_mtu.hpp"

#include <algorithm>

#include "evac/core/assert.hpp"

namespace evac::wan {
namespace {

constexpr size_t kEthernetBytes = 1472;  // what most paths carry when they carry no jumbo frames

}  // namespace

PathMtu::PathMtu(size_t bytes_max)
    : max_(bytes_max), too_large_(bytes_max + 1), probing_(bytes_max > kBaseBytes ? bytes_max : 0) {
    EVAC_ASSERT(bytes_max >= kBaseBytes && bytes_max <= kDatagramBytesMax);
}

void PathMtu::restart() {
    present_ = kBaseBytes;
    too_large_ = max_ + 1;
    probing_ = max_ > kBaseBytes ? max_ : 0;
    tries_ = 0;
    in_flight_ = false;
    raise_ns_ = UINT64_MAX;
    missing_ = 0;
}

size_t PathMtu::probe_bytes(uint64_t now_ns) const {
    if (in_flight_) return 0;
    if (probing_ != 0) return probing_;
    return now_ns >= raise_ns_ ? max_ : 0;
}

uint64_t PathMtu::next_timeout_ns() const {
    if (in_flight_) return UINT64_MAX;
    return probing_ != 0 ? 0 : raise_ns_;
}

void PathMtu::on_probe_sent(uint64_t number) {
    if (probing_ == 0) {  // the raise timer
        probing_ = max_;
        too_large_ = max_ + 1;
        tries_ = 0;
        raise_ns_ = UINT64_MAX;
    }
    in_flight_ = true;
    probe_number_ = number;
    ++probes_;
}

void PathMtu::choose_next(uint64_t now_ns) {
    tries_ = 0;
    if (too_large_ - present_ <= kGapBytes || present_ >= max_) {
        probing_ = 0;
        raise_ns_ = present_ < max_ ? now_ns + kRaiseNs : UINT64_MAX;
        return;
    }
    const bool first = too_large_ == max_;
    probing_ = first && present_ < kEthernetBytes && kEthernetBytes < too_large_
                   ? kEthernetBytes
                   : (present_ + too_large_) / 2;
}

void PathMtu::on_acked(uint64_t now_ns, uint64_t number, size_t datagram_bytes, bool probe) {
    if (datagram_bytes > kBaseBytes && datagram_bytes <= kDatagramBytesMax) {
        uint64_t& newest = arrived_[class_of(datagram_bytes)];
        newest = std::max(newest, number + 1);
        if (number > missing_first_ && datagram_bytes >= missing_bytes_) missing_ = 0;
    }
    if (!probe || !in_flight_ || number != probe_number_) return;
    in_flight_ = false;
    present_ = std::max(present_, probing_);
    choose_next(now_ns);
}

bool PathMtu::larger_arrived_after(uint64_t number, size_t bytes) const {
    return std::any_of(arrived_.begin() + static_cast<ptrdiff_t>(class_of(bytes)), arrived_.end(),
                       [&](uint64_t newest) { return newest > number + 1; });
}

void PathMtu::on_lost(uint64_t now_ns, uint64_t number, size_t datagram_bytes, bool probe) {
    if (probe) {
        if (!in_flight_ || number != probe_number_) return;
        in_flight_ = false;
        if (++tries_ < kTriesPerSize) return;
        too_large_ = probing_;
        choose_next(now_ns);
        return;
    }
    if (datagram_bytes <= kBaseBytes || datagram_bytes > present_ ||
        larger_arrived_after(number, datagram_bytes)) {
        return;
    }
    if (missing_ == 0) {
        missing_first_ = number;
        missing_bytes_ = datagram_bytes;
    }
    missing_first_ = std::min(missing_first_, number);
    missing_bytes_ = std::min(missing_bytes_, datagram_bytes);
    if (++missing_ < kBlackHolePackets) return;
    ++black_holes_;
    restart();
}

}  // namespace evac::wan
