// The reducer thread's use of what VMs hold at home: sources of content, re-indexing, and a change
// of the pair's secret.
//
// After a synchronisation, or a change of the secret, away has pages of which index and sketches
// know nothing (sketches are in memory only; the index may be lost or of another secret). A pass
// over the disks at home learns them: in idle turns, within HomeContent's
// share of the time, and never while something is urgent. Pages that were sketched already cost a
// look each, so a pass after a lost session is short.
#include "reducer_stage.hpp"

namespace evac::daemon {
namespace {

constexpr uint64_t kTagsQuietNs = kNsPerSecond;  // after the last fingerprints: the sync is through
constexpr uint64_t kSliceNs = kNsPerMs;
constexpr uint64_t kPagesPerStep = 64;

}  // namespace

void ReducerStage::add_sources(VmId vm, std::vector<HomeSource>&& sources) {
    content_.remove(vm);
    for (HomeSource& source : sources) content_.add(vm, std::move(source));
}

void ReducerStage::handle(to_reducer::CloseContent& c) {
    content_.remove(c.vm);
}

// What was on its way belongs to the old session and is void with it, and nothing said about away
// holds under the new secret. The next session brings away's fingerprints, which begin a pass;
// meanwhile pages go as literals.
void ReducerStage::handle(to_reducer::Rekey& c) {
    auto hasher = dedup::IdentityHasher::create(as_byte_span(c.secret));
    if (!hasher.ok()) {
        log_.error("a new secret of the pair: " + hasher.error().message());
        return;
    }
    void_session();
    index_->rekey(hasher->fingerprint_seed());
    reducer_->rekey(std::move(*hasher));
    reindexing_ = false;
    reindex_due_ = false;
}

void ReducerStage::reindex_soon() {
    reindex_due_ = true;
    reindex_after_ns_ = clock_.now_ns() + kTagsQuietNs;
}

bool ReducerStage::reindex_some() {
    content_.set_urgent(urgent());
    uint64_t now_ns = clock_.now_ns();
    if (reindex_due_ && !reindexing_ && now_ns >= reindex_after_ns_) {
        reducer_->begin_reindex();
        reindex_due_ = false;
        reindexing_ = true;
    }
    if (!reindexing_ || !content_.may_wait()) return false;
    const uint64_t begin_ns = now_ns;
    content_.begin_slice();
    do {
        reindexing_ = reducer_->reindex(kPagesPerStep);
        now_ns = clock_.now_ns();
    } while (reindexing_ && now_ns - begin_ns < kSliceNs);
    content_.end_slice();
    content_.charge(now_ns - begin_ns);
    return true;
}

void ReducerStage::publish_reindex() {
    const dedup::ReindexProgress progress = reducer_->reindex_progress();
    reindex_.running.store(reindexing_ || reindex_due_, std::memory_order_relaxed);
    reindex_.pages_done.store(progress.pages_done, std::memory_order_relaxed);
    reindex_.pages_total.store(progress.pages_total, std::memory_order_relaxed);
}

}  // namespace evac::daemon
