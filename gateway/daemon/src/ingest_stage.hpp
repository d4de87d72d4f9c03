#pragma once
// The ingest thread: what home sent, into the staged copies. Owns all StagedVms of this site.
//
//   WAN (demand | disk | bulk) --> here: BATCH -> dedup::Expander -> StagedVm; SEAL ->
//   StagedVm::seal control --commands--> here --events--> control       FINGERPRINTS of our copies
//   --> reducer's ring --> WAN (disk)
//
// A SEAL is applied when as many batches as it names have come in this session and no reference is
// owed. A batch that could not be applied counts, but makes the next seal fail; home then reloads
// what is staged here and goes on.
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <variant>

#include "evac/core/clock.hpp"
#include "evac/core/log.hpp"
#include "evac/core/spsc_ring.hpp"
#include "evac/dedup/expander.hpp"
#include "evac/protocol/messages.hpp"
#include "evac/storage_sync/staged_vm.hpp"
#include "evac/wan/transport.hpp"
#include "event_fd.hpp"

namespace evac::daemon {

class ReducerStage;

namespace to_ingest {
struct NewSession {
    wan::SessionId session{};
};
// Opens the staged copy in `dir`, or creates it; a copy of other regions is replaced.
struct Open {
    VmId vm{};
    std::string dir, ram_dir;
    storage_sync::StagedSpec spec;
};
struct Forget {
    VmId vm{};
};  // deletes the copy
struct LoadState {
    VmId vm{};
};  // device state of the newest recovery point
struct Fingerprints {
    protocol::FingerprintsRequest request;
};
struct MarkLanded {
    VmId vm{};
};
// `discard`: the guest may have run on the copy, so it is no recovery point any more. It is staged
// anew, and no seal is accepted before home has asked for its fingerprints.
struct UnmarkLanded {
    VmId vm{};
    bool discard = false;
};
struct Close {
    VmId vm{};
};  // the VM runs here as our own: the files are QEMU's alone
// The pair's secret has changed: later batches and fingerprints are under the new one.
struct Rekey {
    std::string secret;
};
using Command = std::variant<NewSession, Open, Forget, LoadState, Fingerprints, MarkLanded,
                             UnmarkLanded, Close, Rekey>;
}  // namespace to_ingest

namespace from_ingest {
struct Opened {
    VmId vm{};
    Status status;
    Epoch sealed{};
    int64_t point_unix_ms = 0;
    bool landed = false;
    std::vector<std::string> files;  // by region
};
struct Landed {
    VmId vm{};
    Status status;
    bool landed = false;
};  // answer to (Un)MarkLanded
struct State {
    VmId vm{};
    Result<Bytes> state;
};  // packed
struct Acked {
    VmId vm{};
    std::vector<uint64_t> sequences;
};
struct Refused {
    protocol::Nak nak;
};
struct Sealed {
    VmId vm{};
    Epoch epoch{};
    uint64_t handover = 0;
    Status status;
    uint64_t apply_ns = 0;
    int64_t point_unix_ms = 0;
};
struct PeerFingerprints {
    protocol::Fingerprints prints;
};  // about our own VMs, for home's side of this site
struct Malformed {
    std::string text;
};
using Event =
    std::variant<Opened, Landed, State, Acked, Refused, Sealed, PeerFingerprints, Malformed>;
}  // namespace from_ingest

class IngestStage {
  public:
    static Result<std::unique_ptr<IngestStage>> create(ByteSpan secret, uint32_t recovery_points,
                                                       wan::Transport& transport,
                                                       ReducerStage& reducer, const Clock& clock,
                                                       Logger& log);
    ~IngestStage();

    void run(std::stop_token stop);  // the ingest thread

    // Control thread.
    void command(to_ingest::Command command);
    void pump_commands();
    std::optional<from_ingest::Event> try_event();
    int events_fd() const { return events_wake_.fd(); }
    void clear_events() const { events_wake_.clear(); }  // before taking them, never after

    static constexpr size_t kCommandsRing = 4096;
    static constexpr size_t kEventsRing = 16384;
    static constexpr size_t kOwedMax =
        1 << 20;  // references not resolved, per VM: 24 bytes each and more

  private:
    struct Vm;
    struct Pages;

    IngestStage(uint32_t recovery_points, wan::Transport& transport, ReducerStage& reducer,
                const Clock& clock, Logger& log);
    bool handle_commands();
    void handle(to_ingest::NewSession& c);
    void handle(to_ingest::Open& c);
    void handle(to_ingest::Forget& c);
    void handle(to_ingest::LoadState& c);
    void handle(to_ingest::Fingerprints& c);
    void handle(to_ingest::MarkLanded& c);
    void handle(to_ingest::UnmarkLanded& c);
    void handle(to_ingest::Close& c);
    void handle(to_ingest::Rekey& c);
    bool receive();
    void take(wan::Message& message);
    void take_batch(ByteSpan payload);
    void take_seal(protocol::Seal& seal);
    void try_seal(VmId id, Vm& vm);
    bool send_fingerprints();
    void begin_fingerprints(Vm& vm);
    bool send_fingerprints_of(VmId id, Vm& vm);
    bool checkpoint_one();
    bool emit(from_ingest::Event event);
    void flush_acks();
    Vm* find(VmId id);
    Status open_staged(const to_ingest::Open& c, Vm& vm);
    Status stage_anew(Vm& vm);

    const uint32_t recovery_points_;
    wan::Transport& transport_;
    ReducerStage& reducer_;
    const Clock& clock_;
    Logger& log_;
    uint64_t seed_ = 0;  // of fingerprints
    std::map<VmId, std::unique_ptr<Vm>> vms_;
    std::unique_ptr<Pages> pages_;
    std::unique_ptr<dedup::Expander> expander_;
    wan::SessionId session_{};
    std::map<VmId, std::vector<uint64_t>> acks_;
    std::deque<from_ingest::Event>
        events_waiting_;  // bounded: receiving pauses while it is not empty

    SpscRing<to_ingest::Command> commands_{kCommandsRing};
    std::deque<to_ingest::Command> commands_waiting_;  // control thread
    SpscRing<from_ingest::Event> events_{kEventsRing};
    EventFd events_wake_;
    EventFd wake_;
};

}  // namespace evac::daemon
