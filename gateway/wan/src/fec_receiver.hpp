#pragma once
// Rebuilds lost packets of one session from parity. Keeps copies of recent payloads while the line
// loses packets, and parities of blocks that still miss more members than parities arrived.
//
// A rebuilt packet is not an arrived one: only its MESSAGE frames are taken, it is not acknowledged
// and not marked in the replay window. The peer is told by a RECOVERED frame, so that it does not
// send again, while its recovery and rate still see the loss. The original may come late: it is
// then handled like any packet, and all its fragments are duplicates.
// Memory: FecHistory and kParitiesMax shards, allocated at the first loss. Owner: the session.
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "fec_history.hpp"
#include "packet.hpp"

namespace evac::wan {

class FecReceiver {
  public:
    static constexpr size_t kParitiesMax = 128;          // of blocks that wait for another parity
    static constexpr uint64_t kKeepNs = 60'000'000'000;  // copies are kept this long after a loss
    static constexpr uint32_t kReportTimes = 3;          // each rebuilt number is told so often

    // Whether the packet did not arrive, and its payload was taken now.
    using Deliver = std::function<bool(uint64_t number, ByteSpan payload)>;

    FecReceiver(size_t history_bytes, size_t payload_bytes_max);

    // An authentic packet came in.
    void on_packet(uint64_t now_ns, uint64_t number, ByteSpan payload, bool has_data);
    void on_parity(uint64_t now_ns, const ParityFrame& parity, const Deliver& deliver);

    // Appends a RECOVERED frame if there is something to tell and `reserve` bytes stay free.
    void write_report(PacketWriter& out, size_t reserve);

    uint64_t parity_packets() const { return parity_packets_; }
    uint64_t recovered() const { return recovered_; }
    size_t waiting() const;  // parities held
    size_t memory_bytes() const;

  private:
    struct Waiting {
        bool used = false;
        uint64_t order = 0;
        uint64_t block = 0;
        uint8_t row = 0;
        uint8_t members = 0;
        std::array<uint64_t, kFecMembersMax> numbers{};
        uint32_t size = 0;
    };
    struct Report {
        uint64_t number = 0;
        uint32_t times = 0;
    };
    bool same_block(const Waiting& w, const ParityFrame& parity) const;
    std::byte* bytes_of(const Waiting& w);
    Waiting* keep(const ParityFrame& parity);
    void forget(const ParityFrame& parity);
    size_t find_missing(const ParityFrame& parity);
    bool solve(const ParityFrame& parity, size_t missing);
    void report(uint64_t number);

    FecHistory history_;
    size_t shard_bytes_;
    uint64_t highest_ = 0;
    bool any_ = false;
    uint64_t keep_until_ns_ = 0;
    std::array<Waiting, kParitiesMax> waiting_{};
    std::unique_ptr<std::byte[]> shards_;   // of waiting_
    std::unique_ptr<std::byte[]> scratch_;  // syndromes, then results
    std::array<uint8_t, kFecMembersMax> missing_{};
    size_t length_ = 0;  // of the block being solved
    uint64_t order_ = 0;
    std::array<Report, kRecoveredNumbersMax> reports_{};
    uint64_t parity_packets_ = 0;
    uint64_t recovered_ = 0;
};

}  // namespace evac::wan
