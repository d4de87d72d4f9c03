#pragma once
// Whether the peer has moved to another address (after RFC 9000 sections 8.2, 9.3 and 9.4, but
// stricter: nothing but challenges goes to an address before it is validated).
//
//   active --authentic, newest packet from elsewhere--> candidate: challenge there, ping to active
//   candidate --its answer came from there; the active path was silent for 2 PTO, 100 ms at
//   least--> active candidate --newer packet, or a copy, from the active address--> forgotten (the
//   peer is still
//               where it was: somebody forwards its packets)
//   candidate --kTries challenges unanswered--> forgotten
//
// Newest: a number above all received, so that a replay never makes a candidate. To divert a
// session an attacker must therefore forward the packets of both directions faster than the direct
// path does, and cut the direct path: he is on the path then, and could have done as much without.
// Until an address is validated it is sent at most kAmplification times what came from it.
#include <array>
#include <cstdint>
#include <optional>

#include "evac/wan_port/datagram_port.hpp"
#include "packet.hpp"

namespace evac::wan {

class PathValidator {
  public:
    static constexpr size_t kCandidatesMax = 4;
    static constexpr uint32_t kTries = 5;
    static constexpr uint64_t kAmplification = 3;
    // How long the active path gets to speak, at least: a forwarder who is faster makes the
    // measured round trip shorter than the direct path's.
    static constexpr uint64_t kDecideMinNs = 100'000'000;
    static constexpr uint64_t kPauseNs = 100'000'000;  // after a candidate was found false

    using Unpredictable = uint64_t (*)();
    explicit PathValidator(Unpredictable unpredictable) : unpredictable_(unpredictable) {}

    bool pending() const { return count() > 0; }
    // An authentic packet of `bytes` came from `from`, not the active address. `pto_ns`: of
    // the session. True: a new
    // candidate; the caller asks the active address for a sign of life.
    bool on_elsewhere(uint64_t now_ns, const wan_port::UdpAddress& from, uint64_t number,
                      bool newest, size_t bytes, uint64_t pto_ns);
    // An authentic packet, or a copy of one, came from the active address.
    void on_active(uint64_t now_ns, uint64_t number);
    // False: no such challenge is open there.
    bool on_response(const wan_port::UdpAddress& from, uint64_t value);

    struct Challenge {
        wan_port::UdpAddress to{};
        uint64_t value = 0;
    };
    std::optional<Challenge> take_challenge(uint64_t now_ns);
    // The address at which the session goes on; all candidates are forgotten with it.
    std::optional<wan_port::UdpAddress> take_validated(uint64_t now_ns);
    uint64_t next_timeout_ns() const;
    void tick(uint64_t now_ns);
    void clear() { candidates_ = {}; }

    uint64_t challenges() const { return challenges_; }
    uint64_t refused() const { return refused_; }

  private:
    struct Candidate {
        bool used = false;
        bool answered = false;
        wan_port::UdpAddress address{};
        uint64_t value = 0;
        uint64_t first_number = 0;
        uint64_t decide_ns = 0;  // the active path may speak until then
        uint64_t resend_ns = 0;
        uint64_t pto_ns = 0;
        uint64_t received_bytes = 0;
        uint64_t sent_bytes = 0;
        uint32_t tries = 0;
        bool may_send() const {
            return tries < kTries &&
                   sent_bytes + kPathDatagramBytes <= kAmplification * received_bytes;
        }
    };
    size_t count() const;

    Unpredictable unpredictable_;
    std::array<Candidate, kCandidatesMax> candidates_{};
    uint64_t not_before_ns_ = 0;
    uint64_t challenges_ = 0;
    uint64_t refused_ = 0;
};

}  // namespace evac::wan
