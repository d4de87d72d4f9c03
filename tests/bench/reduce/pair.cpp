#include "pair.hpp"

#include <ctime>

#include "evac/core/assert.hpp"

namespace evac::reduce {

using dedup::BatchOp;

namespace {

constexpr VmId kVm{1};
constexpr uint8_t kDiskLane = 2, kBulkLane = 3;
constexpr size_t kGroup = 32;  // pages whose index lookups go together
constexpr std::string_view kSecret = "the secret of the benchmark's pair";

uint64_t thread_cpu_ns() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<uint64_t>(now.tv_sec) * kNsPerSecond + static_cast<uint64_t>(now.tv_nsec);
}

void subtract(dedup::RungTable& from, const dedup::RungTable& what) {
    const auto each = [](auto& rungs, const auto& other) {
        for (size_t i = 0; i < rungs.size(); ++i) {
            rungs[i].pages -= other[i].pages;
            rungs[i].raw_bytes -= other[i].raw_bytes;
            rungs[i].wire_bytes -= other[i].wire_bytes;
        }
    };
    each(from.memory, what.memory);
    each(from.disk, what.disk);
    from.references_to_memory -= what.references_to_memory;
    from.references_to_disk -= what.references_to_disk;
    from.header_bytes -= what.header_bytes;
}

}  // namespace

bool Pair::DiskReader::read(const dedup::Location& from, std::span<std::byte, kPageBytes> out) {
    if (disk == nullptr || from.region != kDisk || from.page >= disk->pages()) return false;
    const dedup::PageSpan page = disk->page(from.page);
    std::copy(page.begin(), page.end(), out.begin());
    return true;
}

Pair::Pair(const Options& options)
    : options_(options), away_(options.ram_pages, options.disk_pages) {
    sent_[raw(kRam)].resize(options.ram_pages);
    sent_[raw(kDisk)].resize(options.disk_pages);
    wire_[raw(kRam)].resize(options.ram_pages);
    wire_[raw(kDisk)].resize(options.disk_pages);
}

Result<std::unique_ptr<Pair>> Pair::create(const Options& options) {
    std::unique_ptr<Pair> pair(new Pair(options));
    EVAC_TRY(pair->open());
    return pair;
}

Status Pair::open() {
    auto index = dedup::Index::open({.directory = ""}, log_);
    if (!index.ok()) return index.error();
    index_ = std::move(index).value();
    auto home_hasher = dedup::IdentityHasher::create(as_byte_span(kSecret));
    auto away_hasher = dedup::IdentityHasher::create(as_byte_span(kSecret));
    if (!home_hasher.ok()) return home_hasher.error();
    if (!away_hasher.ok()) return away_hasher.error();
    auto reducer = dedup::Reducer::create(
        {.zstd_level = options_.zstd_level}, std::move(home_hasher).value(), *index_,
        [this](dedup::EncodedBatch&& batch) { waiting_.push_back(std::move(batch)); });
    if (!reducer.ok()) return reducer.error();
    reducer_ = std::move(reducer).value();
    auto expander = dedup::Expander::create(std::move(away_hasher).value(), away_);
    if (!expander.ok()) return expander.error();
    expander_ = std::move(expander).value();
    auto decoder = dedup::BatchDecoder::create();
    if (!decoder.ok()) return decoder.error();
    decoder_ = std::make_unique<dedup::BatchDecoder>(std::move(decoder).value());
    EVAC_TRY(reducer_->set_region(kVm, kRam, RegionKind::main_ram, options_.ram_pages));
    EVAC_TRY(reducer_->set_region(kVm, kDisk, RegionKind::disk, options_.disk_pages));
    if (options_.read_disk) reducer_->set_base_reader(&reader_);
    return {};
}

void Pair::add(std::span<const dedup::PageItem> items) {
    const uint64_t before = thread_cpu_ns();
    reducer_->add_all(items);
    cpu_ns_ += thread_cpu_ns() - before;
}

Result<Shipped> Pair::ship(const Dump& dump, RegionId region, Epoch epoch) {
    std::vector<Fingerprint>& sent = sent_[raw(region)];
    std::vector<float>& wire = wire_[raw(region)];
    if (dump.pages() != sent.size()) {
        return make_error(Errc::invalid_argument, "dump of " + std::to_string(dump.pages()) +
                                                      " pages, its region has " +
                                                      std::to_string(sent.size()));
    }
    Shipped shipped;
    shipped.rungs = static_cast<const dedup::RungTable&>(reducer_->stats());
    const dedup::Fingerprinter fingerprinter(dedup::fingerprint_seed(as_byte_span(kSecret)));
    std::vector<dedup::PageItem> group;
    const uint8_t lane = region == kDisk ? kDiskLane : kBulkLane;
    for (uint64_t number = 0; number < dump.pages(); ++number) {
        const dedup::PageSpan page = dump.page(number);
        const Fingerprint fingerprint = fingerprinter(page);
        if (fingerprint == sent[number]) continue;
        sent[number] = fingerprint;
        const bool zero = dedup::is_zero_page(page);
        ++shipped.changed_pages;
        if (zero) ++shipped.zero_pages;
        if (!zero) shipped.pages.push_back(number);
        wire[number] = 0;
        group.push_back({PageKey{kVm, region, number}, epoch, fingerprint, zero,
                         zero ? std::span<const std::byte>() : std::span<const std::byte>(page),
                         lane});
        if (group.size() < kGroup) continue;
        add(group);
        group.clear();
        EVAC_TRY(deliver(shipped));
    }
    add(group);
    reducer_->flush();
    EVAC_TRY(deliver(shipped));
    dedup::RungTable after = static_cast<const dedup::RungTable&>(reducer_->stats());
    subtract(after, shipped.rungs);
    shipped.rungs = after;
    for (const uint64_t number : shipped.pages) shipped.page_wire.push_back(wire[number]);
    return shipped;
}

// To away and back: NAKs are answered at once, as literals, which go out like all else.
Status Pair::deliver(Shipped& shipped) {
    while (!waiting_.empty()) {
        const dedup::EncodedBatch batch = std::move(waiting_.front());
        waiting_.pop_front();
        shipped.wire_bytes += batch.message.size();
        account(batch.message, shipped);
        const auto expanded = expander_->expand(batch.message);
        if (!expanded.ok()) return expanded.error();
        for (const dedup::Nak& nak : expanded->naks) {
            ++shipped.naks;
            reducer_->nak(kVm, batch.sequence, nak.key, nak.epoch, batch.lane);
        }
        if (!expanded->naks.empty()) reducer_->flush();
        reducer_->acknowledge(kVm, batch.sequence);
        if (options_.link_bytes_per_s == 0 || batch.lane != kBulkLane) continue;
        tuner_.record(setting_, batch.content_bytes, batch.message.size(), cpu_ns_);
        cpu_ns_ = 0;
        setting_ = tuner_.choose({options_.link_bytes_per_s, false});
        reducer_->set_effort(dedup::effort_of(setting_));
    }
    return {};
}

// What each page cost: a reference its identity, a delta 22 bytes and its payload, a literal 4096
// bytes; payloads and literals scaled by how well their frame compressed; headers in equal parts.
void Pair::account(ByteSpan message, Shipped&) {
    const Status decoded = decoder_->decode(message, content_);
    EVAC_ASSERT(decoded.ok());
    size_t sourced = 0, zero = 0;
    for (const dedup::BatchRun& run : content_.runs) {
        if (run.op == BatchOp::zero) zero += run.count;
        if (run.op >= BatchOp::reference) sourced += run.count;
    }
    const size_t plain = content_.literals.size();
    const size_t record_bytes = std::to_integer<size_t>(message[16]) |
                                std::to_integer<size_t>(message[17]) << 8 |
                                std::to_integer<size_t>(message[18]) << 16;
    const double frame =
        static_cast<double>(message.size() - dedup::kBatchHeaderBytes - record_bytes);
    const double scale = plain == 0 ? 0 : frame / static_cast<double>(plain);
    const size_t deltas = content_.deltas.size();
    const size_t headers = dedup::kBatchHeaderBytes + record_bytes - sourced * 16 - deltas * 6;
    const size_t pages = sourced + content_.literal_pages;
    if (pages == 0) return;
    const double header = static_cast<double>(headers) / static_cast<double>(pages);
    for (const dedup::BatchRun& run : content_.runs) {
        if (run.op == BatchOp::zero) continue;
        for (uint64_t i = 0; i < run.count; ++i) {
            double bytes = header;
            if (run.op == BatchOp::literal) {
                bytes += static_cast<double>(kPageBytes) * scale;
            } else if (run.op == BatchOp::delta) {
                bytes += 22 + static_cast<double>(content_.deltas[run.delta + i].size) * scale;
            } else {
                bytes += 16;
            }
            // A page that was NAKed costs twice.
            wire_[raw(run.first.region)][run.first.page + i] += static_cast<float>(bytes);
        }
    }
}

uint64_t Pair::differing_pages(const Dump& dump, RegionId region) const {
    uint64_t out = 0;
    for (uint64_t number = 0; number < dump.pages(); ++number) {
        const dedup::PageSpan here = dump.page(number);
        const dedup::PageSpan there = away_.page(region, number);
        out += std::equal(here.begin(), here.end(), there.begin()) ? 0u : 1u;
    }
    return out;
}

}  // namespace evac::reduce
