#include "nbd_reader.hpp"

#include <libnbd.h>

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <vector>

#include "evac/core/clock.hpp"
#include "evac/core/units.hpp"
#include "page_runs.hpp"

namespace evac::storage_sync {
namespace {

constexpr uint64_t kWindowBytes =
    256 * kMiB;  // extents are asked for and kept for one window at a time
constexpr uint64_t kBytesInFlightMax = kReadChunkBytes * kReadsInFlight;
constexpr size_t kRequestsInFlightMax = 16;  // QEMU serves 16 at once per client
constexpr uint32_t kStateZero = 2;           // base:allocation: reads as zeros
constexpr uint32_t kStateDirty = 1;          // qemu:dirty-bitmap

struct Extent {
    uint64_t begin = 0;
    uint64_t end = 0;
    uint32_t flags = 0;
};

Error nbd_error(const std::string& what) {
    const char* text = nbd_get_error();
    const int code = nbd_get_errno();
    return Error{Errc::io, code, what + ": " + (text != nullptr ? text : "unknown NBD error")};
}

bool all_zero(ByteSpan bytes) {
    return bytes[0] == std::byte{0} &&
           std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

class NbdSession {
  public:
    NbdSession(const NbdReadRequest& request, BlockSink& sink, NbdReadOutcome& outcome)
        : request_(request),
          sink_(sink),
          outcome_(outcome),
          page_count_((request.size_bytes + kPageBytes - 1) / kPageBytes),
          bitmap_context_("qemu:dirty-bitmap:" + request.bitmap) {}

    Status run(const std::function<Status(int)>& hold, const std::function<Status()>& check);

  private:
    // A run to deliver; `content` ones are read first.
    struct Work {
        PageRun run;
        int64_t cookie = -1;
        std::vector<std::byte> bytes;
    };
    struct Extents {
        std::string bitmap_context;
        std::vector<Extent> allocation;
        std::vector<Extent> dirty;
    };

    Status connect(const std::function<Status(int)>& hold);
    Status wait(int64_t cookie, const char* what);
    Status poll_once(const char* what, uint64_t deadline_ns);
    Status ask_extents(uint64_t begin, uint64_t end, Extents& extents);
    Status window_runs(uint64_t begin, uint64_t end, PageRuns& runs);
    void classify(const Extents& extents, uint64_t begin, uint64_t end, PageRuns& runs);
    Status read_runs(const std::vector<PageRun>& runs, const std::function<Status()>& check);
    Status issue(PageRun run);
    Status deliver_front();
    void deliver_page(uint64_t page, ByteSpan bytes);
    void flush_zeros();
    void account(Verdict verdict, uint64_t first, uint64_t count);

    static int on_extents(void* user, const char* context, uint64_t offset, uint32_t* entries,
                          size_t count, int*);

    const NbdReadRequest& request_;
    BlockSink& sink_;
    NbdReadOutcome& outcome_;
    const uint64_t page_count_;
    const std::string bitmap_context_;

    std::deque<Work>
        queue_;  // before handle_: libnbd writes into its buffers until the handle is closed
    uint64_t bytes_in_flight_ = 0;
    bool cursor_unbroken_ = true;
    PageRun zero_run_;  // zero pages not yet delivered
    std::unique_ptr<nbd_handle, void (*)(nbd_handle*)> handle_{nullptr, nbd_close};
};

Status NbdSession::poll_once(const char* what, uint64_t deadline_ns) {
    const uint64_t now_ns = SystemClock().now_ns();
    const int left_ms =
        now_ns >= deadline_ns ? 0 : static_cast<int>((deadline_ns - now_ns) / kNsPerMs + 1);
    const int polled = nbd_poll(handle_.get(), left_ms);
    if (polled < 0) return nbd_error(what);
    if (polled == 0 && SystemClock().now_ns() >= deadline_ns) {
        return make_error(Errc::timeout, std::string(what) + ": no answer over NBD for " +
                                             std::to_string(request_.timeout_ms) + " ms");
    }
    return {};
}

Status NbdSession::connect(const std::function<Status(int)>& hold) {
    handle_.reset(nbd_create());
    nbd_handle* h = handle_.get();
    if (h == nullptr) return nbd_error("NBD handle");
    const bool configured = nbd_set_export_name(h, request_.export_name.c_str()) == 0 &&
                            nbd_add_meta_context(h, "base:allocation") == 0 &&
                            nbd_add_meta_context(h, bitmap_context_.c_str()) == 0 &&
                            nbd_aio_connect_unix(h, request_.socket_path.c_str()) == 0;
    if (!configured) return nbd_error("connect to NBD export '" + request_.export_name + "'");
    EVAC_TRY(hold(nbd_aio_get_fd(h)));
    const uint64_t deadline_ns =
        SystemClock().now_ns() + static_cast<uint64_t>(request_.timeout_ms) * kNsPerMs;
    while (nbd_aio_is_ready(h) != 1) {
        if (nbd_aio_is_dead(h) == 1 || nbd_aio_is_closed(h) == 1) {
            return nbd_error("NBD handshake for '" + request_.export_name + "'");
        }
        EVAC_TRY(poll_once("NBD handshake", deadline_ns));
    }
    if (nbd_can_meta_context(h, "base:allocation") != 1 ||
        nbd_can_meta_context(h, bitmap_context_.c_str()) != 1) {
        return make_error(Errc::io, "NBD export '" + request_.export_name +
                                        "' does not offer base:allocation and " + bitmap_context_);
    }
    const int64_t size = nbd_get_size(h);
    if (size < 0) return nbd_error("NBD export size");
    if (static_cast<uint64_t>(size) != request_.size_bytes) {
        return make_error(Errc::refused, "the disk was resized: " + std::to_string(size) +
                                             " bytes, enrolled with " +
                                             std::to_string(request_.size_bytes));
    }
    return {};
}

Status NbdSession::wait(int64_t cookie, const char* what) {
    if (cookie < 0) return nbd_error(what);
    const uint64_t deadline_ns =
        SystemClock().now_ns() + static_cast<uint64_t>(request_.timeout_ms) * kNsPerMs;
    while (true) {
        const int done = nbd_aio_command_completed(handle_.get(), static_cast<uint64_t>(cookie));
        if (done < 0) return nbd_error(what);
        if (done == 1) return {};
        EVAC_TRY(poll_once(what, deadline_ns));
    }
}

int NbdSession::on_extents(void* user, const char* context, uint64_t offset, uint32_t* entries,
                           size_t count, int*) {
    Extents& extents = *static_cast<Extents*>(user);
    const bool dirty = extents.bitmap_context == context;
    if (!dirty && std::string_view(context) != "base:allocation") return 0;
    std::vector<Extent>& list = dirty ? extents.dirty : extents.allocation;
    for (size_t i = 0; i + 1 < count; i += 2) {  // pairs of length and flags
        list.push_back({offset, offset + entries[i], entries[i + 1]});
        offset += entries[i];
    }
    return 0;
}

Status NbdSession::ask_extents(uint64_t begin, uint64_t end, Extents& extents) {
    extents.bitmap_context = bitmap_context_;
    nbd_extent_callback callback{};
    callback.callback = &NbdSession::on_extents;
    callback.user_data = &extents;
    const int64_t cookie =
        nbd_aio_block_status(handle_.get(), end - begin, begin, callback, NBD_NULL_COMPLETION, 0);
    return wait(cookie, "NBD block status");
}

// Both lists are ascending and start at `begin`; each is cut where the shorter one ends.
void NbdSession::classify(const Extents& extents, uint64_t begin, uint64_t end, PageRuns& runs) {
    const uint64_t full_from = request_.full_from_page * kPageBytes;
    size_t a = 0;
    size_t d = 0;
    uint64_t at = begin;
    while (at < end) {
        while (a < extents.allocation.size() && extents.allocation[a].end <= at) ++a;
        while (d < extents.dirty.size() && extents.dirty[d].end <= at) ++d;
        if (a == extents.allocation.size() || d == extents.dirty.size()) return;
        uint64_t next = std::min({end, extents.allocation[a].end, extents.dirty[d].end});
        if (at < full_from) next = std::min(next, full_from);
        const PageSet::Run run = request_.again.at_or_after(at / kPageBytes);
        const bool again = run.end > 0 && run.begin * kPageBytes <= at;
        if (run.end > 0) next = std::min(next, (again ? run.end : run.begin) * kPageBytes);
        const bool dirty = (extents.dirty[d].flags & kStateDirty) != 0;
        if (dirty) outcome_.stats.dirty_bytes += next - at;
        PageClass kind = PageClass::skip;
        if (dirty || again || at >= full_from) {
            kind = (extents.allocation[a].flags & kStateZero) != 0 ? PageClass::zeros
                                                                   : PageClass::content;
        }
        runs.add(at, next, kind);
        at = next;
    }
}

Status NbdSession::window_runs(uint64_t begin, uint64_t end, PageRuns& runs) {
    while (begin < end) {
        Extents extents;
        EVAC_TRY(ask_extents(begin, end, extents));
        if (extents.allocation.empty() || extents.dirty.empty()) {
            return make_error(Errc::corrupt, "NBD block status without an extent for each context");
        }
        const uint64_t covered =
            std::min({end, extents.allocation.back().end, extents.dirty.back().end});
        if (covered <= begin)
            return make_error(Errc::corrupt, "NBD block status makes no progress");
        classify(extents, begin, covered, runs);
        begin = covered;
    }
    return {};
}

void NbdSession::account(Verdict verdict, uint64_t first, uint64_t count) {
    DiskReadStats& stats = outcome_.stats;
    if (verdict == Verdict::stop) outcome_.stopped = true;
    if (verdict != Verdict::taken) {
        stats.complete = false;
        if (verdict == Verdict::dropped) stats.dropped_pages += count;
        // The first sync goes on where its first page was lost; a lost dirty page below comes again
        // by its bitmap, or its place in `again`.
        if (first + count > request_.full_from_page) cursor_unbroken_ = false;
        return;
    }
    if (cursor_unbroken_) stats.synced_to_page = std::max(stats.synced_to_page, first + count);
}

void NbdSession::flush_zeros() {
    if (zero_run_.count == 0 || outcome_.stopped) return;
    outcome_.stats.zero_pages += zero_run_.count;
    account(sink_.zeros(request_.disk, zero_run_.first, zero_run_.count), zero_run_.first,
            zero_run_.count);
    zero_run_ = {};
}

void NbdSession::deliver_page(uint64_t page, ByteSpan bytes) {
    if (all_zero(bytes)) {
        if (zero_run_.count > 0 && zero_run_.first + zero_run_.count == page) {
            ++zero_run_.count;
            return;
        }
        flush_zeros();
        zero_run_ = {page, 1, PageClass::zeros};
        return;
    }
    flush_zeros();
    if (outcome_.stopped) return;
    ++outcome_.stats.pages;
    account(sink_.page(request_.disk, page, bytes), page, 1);
}

Status NbdSession::issue(PageRun run) {
    Work& work = queue_.emplace_back();
    work.run = run;
    if (run.kind != PageClass::content) return {};
    work.bytes.resize(run.count * kPageBytes);  // the last page's padding stays zero
    const uint64_t offset = run.first * kPageBytes;
    const uint64_t size = std::min<uint64_t>(work.bytes.size(), request_.size_bytes - offset);
    work.cookie =
        nbd_aio_pread(handle_.get(), work.bytes.data(), size, offset, NBD_NULL_COMPLETION, 0);
    if (work.cookie < 0) return nbd_error("NBD read");
    bytes_in_flight_ += work.bytes.size();
    outcome_.stats.read_bytes += size;
    return {};
}

Status NbdSession::deliver_front() {
    Work& work = queue_.front();
    if (work.run.kind == PageClass::content) {
        EVAC_TRY(wait(work.cookie, "NBD read"));
        const ByteSpan bytes(work.bytes);
        for (uint64_t i = 0; i < work.run.count && !outcome_.stopped; ++i) {
            deliver_page(work.run.first + i, bytes.subspan(i * kPageBytes, kPageBytes));
        }
        bytes_in_flight_ -= work.bytes.size();
    } else if (zero_run_.count > 0 && zero_run_.first + zero_run_.count == work.run.first) {
        zero_run_.count += work.run.count;
    } else {
        flush_zeros();
        zero_run_ = work.run;
    }
    queue_.pop_front();
    return {};
}

Status NbdSession::read_runs(const std::vector<PageRun>& runs,
                             const std::function<Status()>& check) {
    constexpr uint64_t chunk_pages = kReadChunkBytes / kPageBytes;
    for (PageRun run : runs) {
        while (run.count > 0 && !outcome_.stopped) {
            const uint64_t count =
                run.kind == PageClass::content ? std::min(run.count, chunk_pages) : run.count;
            while (!outcome_.stopped &&
                   (queue_.size() >= kRequestsInFlightMax ||
                    (bytes_in_flight_ > 0 &&
                     bytes_in_flight_ + count * kPageBytes > kBytesInFlightMax &&
                     run.kind == PageClass::content))) {
                EVAC_TRY(deliver_front());
                EVAC_TRY(check());
            }
            if (outcome_.stopped) break;
            EVAC_TRY(issue({run.first, count, run.kind}));
            run.first += count;
            run.count -= count;
        }
    }
    return {};
}

Status NbdSession::run(const std::function<Status(int)>& hold,
                       const std::function<Status()>& check) {
    DiskReadStats& stats = outcome_.stats;
    stats.full = request_.full_from_page < page_count_;
    stats.complete = true;
    stats.synced_to_page = request_.full_from_page;
    EVAC_TRY(connect(hold));
    for (uint64_t at = 0; at < request_.size_bytes && !outcome_.stopped; at += kWindowBytes) {
        EVAC_TRY(check());
        PageRuns runs(request_.size_bytes);
        EVAC_TRY(window_runs(at, std::min(request_.size_bytes, at + kWindowBytes), runs));
        EVAC_TRY(read_runs(runs.runs(), check));
    }
    while (!queue_.empty() && !outcome_.stopped) EVAC_TRY(deliver_front());
    flush_zeros();
    EVAC_TRY(check());
    if (stats.complete) stats.synced_to_page = page_count_;
    return {};
}

}  // namespace

Status read_export(const NbdReadRequest& request, BlockSink& sink,
                   const std::function<Status(int)>& hold, const std::function<Status()>& check,
                   NbdReadOutcome& outcome) {
    NbdSession session(request, sink, outcome);
    Status status = session.run(hold, check);
    if (!status.ok()) outcome.stats.complete = false;
    return status;
}

}  // namespace evac::storage_sync
