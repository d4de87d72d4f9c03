// Hostile batches through the decoder and the expander: no crash, and what is put stays within the
// limits.
#include <cstdlib>

#include "util.hpp"

namespace {

using namespace evac;

struct Checked final : dedup::StagedPages {
    Status read(const PageKey& key, std::span<std::byte, kPageBytes> out) override {
        if (key.page >= dedup::kLocationPagesMax || raw(key.region) >= kRegionsMax) std::abort();
        std::fill(out.begin(), out.end(), std::byte{1});
        return {};
    }
    Status put(const PageKey& key, Epoch epoch, std::span<const std::byte, kPageBytes>) override {
        if (key.page >= dedup::kLocationPagesMax || raw(epoch) == 0) std::abort();
        ++puts;
        return {};
    }
    Status put_zero(const PageKey& first, Epoch epoch, uint64_t count) override {
        if (count == 0 || first.page + count > dedup::kLocationPagesMax || raw(epoch) == 0)
            std::abort();
        return {};
    }
    uint64_t puts = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static Checked staged;
    static auto expander =
        std::move(dedup::Expander::create(dedup::test::make_hasher(), staged)).value();
    staged.puts = 0;
    const auto result = expander->expand({reinterpret_cast<const std::byte*>(data), size});
    if (!result.ok() && staged.puts != 0) std::abort();  // nothing half-applied
    if (result.ok() && result->naks.size() > dedup::kBatchReferencesMax) std::abort();
    return 0;
}
