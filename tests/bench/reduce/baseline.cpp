#include "baseline.hpp"

#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "evac/dedup/batch.hpp"

namespace evac::reduce {

namespace {

constexpr size_t kBatchPages = dedup::kBatchLiteralPagesMax;
using Context = std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)>;

}  // namespace

Result<Baseline> zero_elimination_and_zstd(const Dump& dump, int level) {
    Baseline out;
    const Context context(ZSTD_createCCtx(), &ZSTD_freeCCtx);
    if (context == nullptr) return make_error(Errc::internal, "zstd: no context");
    std::vector<std::byte> plain(kBatchPages * kPageBytes);
    std::vector<std::byte> packed(ZSTD_compressBound(plain.size()));
    size_t held = 0;
    bool failed = false;
    // What does not shrink goes raw.
    const auto compressed = [&](const std::byte* from, size_t bytes) -> uint64_t {
        const size_t size =
            ZSTD_compressCCtx(context.get(), packed.data(), packed.size(), from, bytes, level);
        if (ZSTD_isError(size) != 0) failed = true;
        return std::min(size, bytes);
    };
    for (uint64_t number = 0; number < dump.pages() && !failed; ++number) {
        const dedup::PageSpan page = dump.page(number);
        if (dedup::is_zero_page(page)) continue;
        ++out.pages;
        out.page_bytes += compressed(page.data(), kPageBytes);
        std::memcpy(plain.data() + held * kPageBytes, page.data(), kPageBytes);
        if (++held < kBatchPages) continue;
        out.batch_bytes += compressed(plain.data(), plain.size());
        held = 0;
    }
    if (held != 0) out.batch_bytes += compressed(plain.data(), held * kPageBytes);
    if (failed) return make_error(Errc::internal, "zstd: compression failed");
    return out;
}

}  // namespace evac::reduce
