#include "path_validator.hpp"

#include <algorithm>

namespace evac::wan {

size_t PathValidator::count() const {
    return static_cast<size_t>(std::count_if(candidates_.begin(), candidates_.end(),
                                             [](const Candidate& c) { return c.used; }));
}

bool PathValidator::on_elsewhere(uint64_t now_ns, const wan_port::UdpAddress& from, uint64_t number,
                                 bool newest, size_t bytes, uint64_t pto_ns) {
    Candidate* slot = nullptr;
    for (Candidate& c : candidates_) {
        if (c.used && c.address == from) {
            c.received_bytes += bytes;
            return false;
        }
        if (!c.used && slot == nullptr) slot = &c;
    }
    if (!newest || slot == nullptr || now_ns < not_before_ns_) return false;
    *slot = {};
    slot->used = true;
    slot->address = from;
    slot->value = unpredictable_();
    slot->first_number = number;
    slot->pto_ns = pto_ns;
    slot->decide_ns = now_ns + std::max(2 * pto_ns, kDecideMinNs);
    slot->resend_ns = now_ns;
    slot->received_bytes = bytes;
    return true;
}

void PathValidator::on_active(uint64_t now_ns, uint64_t number) {
    for (Candidate& c : candidates_) {
        if (!c.used || number < c.first_number) continue;
        c.used = false;
        ++refused_;
        not_before_ns_ = now_ns + kPauseNs;
    }
}

bool PathValidator::on_response(const wan_port::UdpAddress& from, uint64_t value) {
    for (Candidate& c : candidates_) {
        if (!c.used || !(c.address == from) || c.value != value || c.tries == 0) continue;
        c.answered = true;
        return true;
    }
    return false;
}

std::optional<PathValidator::Challenge> PathValidator::take_challenge(uint64_t now_ns) {
    for (Candidate& c : candidates_) {
        if (!c.used || c.answered || now_ns < c.resend_ns || !c.may_send()) continue;
        ++c.tries;
        c.sent_bytes += kPathDatagramBytes;
        c.resend_ns = now_ns + (c.pto_ns << (c.tries - 1));  // the new path may be much longer
        ++challenges_;
        return Challenge{c.address, c.value};
    }
    return std::nullopt;
}

std::optional<wan_port::UdpAddress> PathValidator::take_validated(uint64_t now_ns) {
    // Of several, the one that was seen last: newest packets come from where the peer is.
    const Candidate* best = nullptr;
    for (const Candidate& c : candidates_) {
        if (!c.used || !c.answered || now_ns < c.decide_ns) continue;
        if (best == nullptr || c.first_number > best->first_number) best = &c;
    }
    if (best == nullptr) return std::nullopt;
    const wan_port::UdpAddress address = best->address;
    clear();
    return address;
}

void PathValidator::tick(uint64_t now_ns) {
    for (Candidate& c : candidates_) {
        // Out of tries, or of the bytes that it may be sent: nothing more to wait for.
        if (!c.used || c.answered || now_ns < c.resend_ns || c.may_send()) continue;
        c.used = false;
        ++refused_;
    }
}

uint64_t PathValidator::next_timeout_ns() const {
    uint64_t next = UINT64_MAX;
    for (const Candidate& c : candidates_) {
        if (c.used) next = std::min(next, c.answered ? c.decide_ns : c.resend_ns);
    }
    return next;
}

}  // namespace evac::wan
