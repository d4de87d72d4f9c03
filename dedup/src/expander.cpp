#include "evac/dedup/expander.hpp"

#include <algorithm>
#include <array>
#include <optional>

#include "delta.hpp"
#include "evac/dedup/reducer.hpp"

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
    shifted_pages += other.shifted_pages;
    delta_pages += other.delta_pages;
    mismatched_pages += other.mismatched_pages;
    unreadable_pages += other.unreadable_pages;
    damaged_deltas += other.damaged_deltas;
}

struct Expander::Impl {
    Impl(IdentityHasher hash, StagedPages& pages, BatchDecoder from, DeltaDecoder delta_from)
        : hasher(std::move(hash)),
          staged(pages),
          decoder(std::move(from)),
          deltas(std::move(delta_from)) {}

    using Buffer = std::array<std::byte, kPageBytes>;

    Status put_literals(const BatchRun& run);
    Status put_sourced(const BatchRun& run, Expanded& out);
    // The page of the run in `result`; null: see counters.
    const Buffer* resolve(const BatchRun& run, uint64_t i, ExpandCounters& counters);
    const Buffer* read_source(const BatchRun& run, uint64_t i);
    bool is(const Buffer& content, const Identity& identity);
    bool has_tag(const Buffer& content, uint32_t tag) const;

    IdentityHasher hasher;
    std::optional<IdentityHasher> previous_hasher;
    StagedPages& staged;
    BatchDecoder decoder;
    DeltaDecoder deltas;
    BatchContent content;
    ExpandCounters totals;
    alignas(64) Buffer first{};
    alignas(64) Buffer second{};
    alignas(64) Buffer composed{};
    alignas(64) Buffer result{};
};

Expander::Expander(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Expander::~Expander() = default;

Result<std::unique_ptr<Expander>> Expander::create(IdentityHasher hasher, StagedPages& staged) {
    auto decoder = BatchDecoder::create();
    if (!decoder.ok()) return decoder.error();
    auto deltas = DeltaDecoder::create();
    if (!deltas.ok()) return deltas.error();
    return std::unique_ptr<Expander>(new Expander(std::make_unique<Impl>(
        std::move(hasher), staged, std::move(decoder).value(), std::move(deltas).value())));
}

Status Expander::Impl::put_literals(const BatchRun& run) {
    for (uint64_t i = 0; i < run.count; ++i) {
        EVAC_TRY(staged.put(nth(run.first, i), run.epoch, content.literal(run.index + i)));
    }
    return {};
}

void Expander::rekey(IdentityHasher hasher) {
    impl_->previous_hasher = std::move(impl_->hasher);
    impl_->hasher = std::move(hasher);
}

bool Expander::Impl::is(const Buffer& page, const Identity& identity) {
    if (hasher(page) == identity) return true;
    return previous_hasher && (*previous_hasher)(page) == identity;
}

bool Expander::Impl::has_tag(const Buffer& page, uint32_t tag) const {
    const auto under = [&](const IdentityHasher& key) {
        return StagedTags::tag(Fingerprinter(key.fingerprint_seed())(page)) == tag;
    };
    return under(hasher) || (previous_hasher && under(*previous_hasher));
}

const Expander::Impl::Buffer* Expander::Impl::read_source(const BatchRun& run, uint64_t i) {
    if (!staged.read(nth(run.source, i), first).ok()) return nullptr;
    if (run.shift == 0) return &first;
    if (!staged.read(nth(run.source, i + 1), second).ok()) return nullptr;
    compose_shifted(first, second, run.shift, composed);
    return &composed;
}

const Expander::Impl::Buffer* Expander::Impl::resolve(const BatchRun& run, uint64_t i,
                                                      ExpandCounters& counters) {
    const Buffer* base = read_source(run, i);
    if (base == nullptr) {
        ++counters.unreadable_pages;
        return nullptr;
    }
    const Identity& identity = content.identities[run.index + i];
    if (run.op != BatchOp::delta) {
        if (is(*base, identity)) return base;
        ++counters.mismatched_pages;
        return nullptr;
    }
    const BatchDelta& delta = content.deltas[run.delta + i];
    if (!has_tag(*base, delta.base_tag)) {
        ++counters.mismatched_pages;
        return nullptr;
    }
    if (deltas.apply(delta.kind, *base, content.payload(delta), result) && is(result, identity)) {
        return &result;
    }
    ++counters.damaged_deltas;
    return nullptr;
}

// One by one, in order: a page of the run may be the source of a later one.
Status Expander::Impl::put_sourced(const BatchRun& run, Expanded& out) {
    uint64_t& held = run.op == BatchOp::reference ? out.counters.referenced_pages
                     : run.op == BatchOp::shifted ? out.counters.shifted_pages
                                                  : out.counters.delta_pages;
    for (uint64_t i = 0; i < run.count; ++i) {
        const PageKey key = nth(run.first, i);
        const Buffer* page = resolve(run, i, out.counters);
        if (page == nullptr) {
            owe(out.naks, Nak{key, run.epoch});
            continue;
        }
        EVAC_TRY(staged.put(key, run.epoch, *page));
        if (!out.naks.empty()) forgive(out.naks, key, run.epoch, 1);
        ++held;
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
        if (run.op < BatchOp::reference && !out.naks.empty()) {
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
            case BatchOp::shifted:
            case BatchOp::delta:
                EVAC_TRY(impl.put_sourced(run, out));
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
