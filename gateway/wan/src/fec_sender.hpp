#pragma once
// Which packets of one session get parity, when, and how much. Nothing is added to the packets that
// are covered: parity names them by number, and the receiver keeps copies of recent payloads. So
// what to cover is decided afterwards, when it is known that nothing follows.
//
//   control   spaced copies of what is not acknowledged yet, kUrgentWaitNs after it was sent at
//   most demand    the same, whenever the class has run dry (never while it saturates the line)
//   tail      disk and bulk, when everything has run dry: all that is unacknowledged, interleaved;
//             given up at once when new data comes
// Off until a loss was measured, and again when the line is clean. Memory: FecHistory and fixed
// tables. Owner: the session.
#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "evac/wan/endpoint.hpp"
#include "fec_history.hpp"
#include "fec_policy.hpp"
#include "packet.hpp"

namespace evac::wan {

enum class FecGroup : uint8_t { control, demand, tail };
inline constexpr size_t kFecGroups = 3;

inline constexpr uint64_t kUrgentWaitNs = 4'000'000;
inline constexpr size_t kUrgentParityMax = 4;
inline constexpr size_t kFecBatchesMax = 8;
inline constexpr size_t kFecBatchMembersMax = 768;  // 48 blocks: gaps between members fit one byte

struct FecPath {  // as the session sees it now
    uint64_t rtt_ns = 0;
    uint64_t packet_ns = 0;  // of one full packet at the pacing rate
    std::array<bool, kFecGroups> dry{};
    uint64_t urgent_in_flight = 0;
};

class FecSender {
  public:
    using InFlight = std::function<bool(uint64_t number)>;  // sent and neither acked nor lost

    FecSender(FecMode mode, size_t history_bytes, size_t payload_bytes_max);

    LossMeter& meter() { return meter_; }
    const LossMeter& meter() const { return meter_; }
    bool active() const { return mode_ != FecMode::off && meter_.lossy(); }
    // Whether packets of this class should leave kFecReserveBytes free, so that parity fits.
    bool wants_room(Class c, uint64_t rtt_ns) const;

    // A packet with data of `group` was built; its most urgent class is `c`.
    // `room`: the payload that the path's datagrams have now.
    void on_packet(uint64_t now_ns, uint64_t number, ByteSpan payload, FecGroup group, Class c,
                   size_t room);
    // Closes the groups that are due. Call before asking for what is due.
    void plan(uint64_t now_ns, const FecPath& path, const InFlight& in_flight);
    void abandon_tail();

    // When plan() or a parity is due next; UINT64_MAX = never.
    uint64_t urgent_due_ns(const FecPath& path) const;
    uint64_t tail_due_ns(const FecPath& path) const;

    // Chooses the next parity that is due; false: none. `number` is that of the packet to carry it.
    bool prepare(uint64_t now_ns, bool tail, uint64_t number, size_t room,
                 const InFlight& in_flight);
    void write(PacketWriter& out);  // the parity chosen
    Class parity_class() const { return frame_class_; }

    uint64_t parity_packets() const { return parity_packets_; }
    uint64_t parity_bytes(Class c) const { return parity_bytes_[index(c)]; }
    size_t memory_bytes() const { return history_.memory_bytes(); }

  private:
    struct Pending {  // ring of numbers not covered yet
        std::vector<uint64_t> numbers;
        size_t head = 0, count = 0;
        uint64_t first_ns = 0, last_ns = 0;
        Class c = Class::bulk;
    };
    struct Batch {
        bool used = false;
        FecGroup group = FecGroup::tail;
        Class c = Class::bulk;
        std::vector<uint64_t> members;
        size_t blocks = 0;
        size_t parity = 0;
        size_t round = 0, block = 0;  // next to send
        uint64_t first_id = 0;
        uint64_t due_ns = 0, gap_ns = 0;
    };
    uint64_t spacing_ns(const FecPath& path) const;
    uint64_t close_ns(FecGroup group, const FecPath& path) const;
    void close(uint64_t now_ns, FecGroup group, const FecPath& path, const InFlight& in_flight);
    size_t choose_parity(FecGroup group, const FecPath& path, const std::vector<uint64_t>& numbers,
                         size_t blocks) const;
    Batch* free_batch();
    Batch* due_batch(uint64_t now_ns, bool tail);
    bool load_block(const Batch& batch, uint64_t number, size_t room, const InFlight& in_flight);
    void advance(uint64_t now_ns, Batch& batch);

    FecMode mode_;
    LossMeter meter_;
    FecHistory history_;
    std::array<Pending, kFecGroups> pending_;
    std::array<Batch, kFecBatchesMax> batches_;
    uint64_t next_id_ = 0;
    // The parity chosen by prepare().
    ParityFrame frame_;
    std::vector<std::byte> shard_;
    Class frame_class_ = Class::bulk;
    uint64_t parity_packets_ = 0;
    std::array<uint64_t, kClasses> parity_bytes_{};
};

}  // namespace evac::wan
