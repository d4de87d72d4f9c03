#pragma once
// Partial dedup: which share of the data gets which rungs and which zstd level, so that the time to
// drain is least. The theory is in docs/partial-dedup.md; in short: reduction and link work at the
// same time, so a backlog drains in max(CPU seconds, wire bytes / rate), and the best is a mix of
// two settings for which both are equal, or the lightest or heaviest setting alone.
//
// Time, measurements and the link's state come by argument; no clock, no I/O. Owner: the reducer
// thread. Per batch:  record(setting of the batch, ...); setting = choose(link);
// reducer.set_effort(effort_of(setting)).
#include <array>
#include <cstddef>
#include <cstdint>

#include "evac/dedup/reducer.hpp"

namespace evac::dedup {

inline constexpr size_t kSettings = 9;
// From the lightest (zero pages only) to the heaviest (all rungs, zstd 9).
const Effort& effort_of(size_t setting);
const char* name_of(size_t setting);

struct LinkState {
    double bytes_per_s = 0;  // of messages; 0 = not known yet
    // Nothing is unsent: the link waits for us, so its rate may be higher than was ever measured.
    bool starved = false;
};

// The two settings in use and how the content is divided between them.
struct TunedMix {
    size_t light = 0;
    size_t heavy = 0;
    double heavy_share = 0;       // of the content's bytes
    double seconds_per_byte = 0;  // expected, of content
};

class ReductionTuner {
  public:
    ReductionTuner();

    // `content_bytes`: of pages that are not zero; 0 is ignored. `cpu_ns`: of the whole pipeline's
    // thread since the batch before.
    void record(size_t setting, uint64_t content_bytes, uint64_t wire_bytes, uint64_t cpu_ns);
    // The setting of the next batch.
    size_t choose(const LinkState& link);

    const TunedMix& mix() const { return mix_; }
    uint64_t explored() const { return explored_; }  // batches sent to learn, so far
    double cpu_s_per_byte(size_t setting) const { return estimates_[setting].cpu; }
    double wire_per_byte(size_t setting) const { return estimates_[setting].wire; }

  private:
    struct Evidence {
        double content = 0;  // bytes, decayed
        double cpu_s = 0;
        double wire = 0;
    };
    struct Estimate {
        double cpu = 0;   // seconds per byte of content
        double wire = 0;  // bytes per byte of content
    };
    void estimate();
    void solve(double bytes_per_s);
    size_t explore_candidate();
    double seconds(size_t setting, double bytes_per_s) const;

    uint64_t recorded_ = 0;
    std::array<Evidence, kSettings> evidence_{};
    std::array<Estimate, kSettings> estimates_{};
    TunedMix mix_;
    double gain_ = 1;           // on the measured rate, while the link is starved
    double starved_ = 0;        // smoothed
    double owed_to_heavy_ = 0;  // error diffusion of heavy_share
    double rate_ = 1e12;        // bytes/s, as last solved for
    double took_s_ = 0;         // of all batches, on the slower of CPU and link
    double explored_s_ = 0;     // of batches that were sent to learn
    uint64_t explored_ = 0;
    uint64_t chosen_ = 0;
    bool exploring_ = false;
    bool try_heavier_ = false;
};

}  // namespace evac::dedup
