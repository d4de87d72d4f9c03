#include "evac/dedup/expander.hpp"

#include <algorithm>
#include <array>

namespace evac::dedup {

namespace {

// A page that a later record of the same batch brings is owed no more: home has superseded it, too.
void forgive(std::vector<Nak>& naks, const PageKey& first, Epoch epoch, uint64_t count) {
    std::erase_if(naks, [&](const Nak& nak) {
        return nak.key.region == first.region && nak.key.page >= first.page &&
               nak.key.page - first.page < count && nak.epoch <= epoch;
    });
}

// Once per page and epoch, although a batch may refer to a page twice.
void owe(std::vector<Nak>& naks, const Nak& nak) {
    if (std::find(naks.begin(), naks.end(), nak) == naks.end()) naks.push_back(nak);
}

PageKey nth(const PageKey& first, uint64_t i) {
    return PageKey{first.vm, first.region, first.page + i};
}

}  // namespace

void ExpandCounters::add(const ExpandCounters& other) {
    zero_pages += other.zero_pages;
    literal_pages += other.literal_pages;
    referenced_pages += other.referenced_pages;
    mismatched_pages += other.mismatched_pages;
    unreadable_pages += other.unreadable_pages;
}

struct Expander::Impl {
    Impl(IdentityHasher hash, StagedPages& pages, BatchDecoder from)
        : hasher(std::move(hash)), staged(pages), decoder(std::move(from)) {}

    Status put_literals(const BatchRun& run);
    Status put_references(const BatchRun& run, Expanded& out);

    IdentityHasher hasher;
    StagedPages& staged;
    BatchDecoder decoder;
    BatchContent content;
    ExpandCounters totals;
    alignas(64) std::array<std::byte, kPageBytes> page{};
};

Expander::Expander(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Expander::~Expander() = default;

Result<std::unique_ptr<Expander>> Expander::create(IdentityHasher hasher, StagedPages& staged) {
    auto decoder = BatchDecoder::create();
    if (!decoder.ok()) return decoder.error();
    return std::unique_ptr<Expander>(new Expander(
        std::make_unique<Impl>(std::move(hasher), staged, std::move(decoder).value())));
}

Status Expander::Impl::put_literals(const BatchRun& run) {
    for (uint64_t i = 0; i < run.count; ++i) {
        EVAC_TRY(staged.put(nth(run.first, i), run.epoch, content.literal(run.index + i)));
    }
    return {};
}

// One by one, in order: a page of the run may be the source of a later one.
Status Expander::Impl::put_references(const BatchRun& run, Expanded& out) {
    for (uint64_t i = 0; i < run.count; ++i) {
        const PageKey key = nth(run.first, i);
        if (!staged.read(nth(run.source, i), page).ok()) {
            ++out.counters.unreadable_pages;
            owe(out.naks, Nak{key, run.epoch});
        } else if (hasher(page) != content.identities[run.index + i]) {
            ++out.counters.mismatched_pages;
            owe(out.naks, Nak{key, run.epoch});
        } else {
            EVAC_TRY(staged.put(key, run.epoch, page));
            if (!out.naks.empty()) forgive(out.naks, key, run.epoch, 1);
            ++out.counters.referenced_pages;
        }
    }
    return {};
}

Result<Expanded> Expander::expand(ByteSpan message) {
    Impl& impl = *impl_;
    EVAC_TRY(impl.decoder.decode(message, impl.content));
    Expanded out;
    out.vm = impl.content.vm;
    out.sequence = impl.content.sequence;
    for (const BatchRun& run : impl.content.runs) {
        if (run.op != BatchOp::reference && !out.naks.empty()) {
            forgive(out.naks, run.first, run.epoch, run.count);
        }
        switch (run.op) {
            case BatchOp::zero:
                EVAC_TRY(impl.staged.put_zero(run.first, run.epoch, run.count));
                out.counters.zero_pages += run.count;
                break;
            case BatchOp::literal:
                EVAC_TRY(impl.put_literals(run));
                out.counters.literal_pages += run.count;
                break;
            case BatchOp::reference:
                EVAC_TRY(impl.put_references(run, out));
                break;
        }
    }
    impl.totals.add(out.counters);
    return out;
}

const ExpandCounters& Expander::totals() const {
    return impl_->totals;
}

}  // namespace evac::dedup
