// The encoding half of the batch format; the grammar is in batch.hpp.
#include <zstd.h>

#include <algorithm>

#include "batch_format.hpp"
#include "evac/dedup/batch.hpp"
#include "varint.hpp"

namespace evac::dedup {

namespace {

// Upper bounds of encoded records, so that a batch never has to be unmade:
//   GROUP 1 + epoch 5 + region 1 = 7; run 1 + start 6 + count 5 + source (5 + 1 + 6) = 24;
//   together 31.
constexpr size_t kRunBytesMax = 32;
constexpr size_t kIdentityBytes = sizeof(Identity);
static_assert(kBatchHeaderBytes + kBatchRecordBytesMax + kBatchLiteralPagesMax * kPageBytes <=
              kBatchBytesMax);
static_assert(kBatchReferencesMax * (kRunBytesMax + kIdentityBytes) < kBatchRecordBytesMax);

void encode_records(const BatchContent& content, ByteWriter& out) {
    const BatchRun* group = nullptr;
    uint64_t expected = 0;
    uint64_t expected_source = 0;
    for (const BatchRun& run : content.runs) {
        if (group == nullptr || group->epoch != run.epoch ||
            group->first.region != run.first.region) {
            out.u8(kGroupOp);
            put_varint(out, raw(run.epoch));
            put_varint(out, raw(run.first.region));
            group = &run;
            expected = 0;
        }
        out.u8(static_cast<uint8_t>(run.op));
        put_varint(out, zigzag(run.first.page, expected));
        put_varint(out, run.count);
        expected = run.first.page + run.count;
        if (run.op != BatchOp::reference) continue;
        put_varint(out, raw(run.source.vm));
        put_varint(out, raw(run.source.region));
        put_varint(out, zigzag(run.source.page, expected_source));
        expected_source = run.source.page + run.count;
        for (size_t i = 0; i < run.count; ++i) out.put(content.identities[run.index + i]);
    }
}

}  // namespace

void BatchContent::clear() {
    vm = VmId{};
    sequence = 0;
    runs.clear();
    identities.clear();
    literals.clear();
}

PageSpan BatchContent::literal(size_t index) const {
    EVAC_ASSERT((index + 1) * kPageBytes <= literals.size());
    return PageSpan(literals.data() + index * kPageBytes, kPageBytes);
}

struct BatchBuilder::Zstd {
    Zstd() = default;
    Zstd(const Zstd&) = delete;
    Zstd& operator=(const Zstd&) = delete;
    ~Zstd() { ZSTD_freeCCtx(context); }
    ZSTD_CCtx* context = ZSTD_createCCtx();
    int level = 1;
};

BatchBuilder::BatchBuilder(std::unique_ptr<Zstd> zstd) : zstd_(std::move(zstd)) {}
BatchBuilder::BatchBuilder(BatchBuilder&&) noexcept = default;
BatchBuilder& BatchBuilder::operator=(BatchBuilder&&) noexcept = default;
BatchBuilder::~BatchBuilder() = default;

Result<BatchBuilder> BatchBuilder::create(int zstd_level) {
    auto zstd = std::make_unique<Zstd>();
    if (zstd->context == nullptr) return make_error(Errc::internal, "zstd: no compression context");
    BatchBuilder builder(std::move(zstd));
    builder.set_zstd_level(zstd_level);
    builder.content_.literals.reserve(kBatchLiteralPagesMax * kPageBytes);
    return builder;
}

void BatchBuilder::set_zstd_level(int level) {
    zstd_->level = std::clamp(level, kZstdLevelMin, kZstdLevelMax);
}

void BatchBuilder::discard() {
    content_.clear();
    bytes_bound_ = 0;
}

bool BatchBuilder::has_room() const {
    return bytes_bound_ + kRunBytesMax + kIdentityBytes <= kBatchRecordBytesMax;
}

bool BatchBuilder::has_room_for_literal() const {
    return has_room() && content_.literals.size() < kBatchLiteralPagesMax * kPageBytes;
}

bool BatchBuilder::has_room_for_reference() const {
    return has_room() && content_.identities.size() < kBatchReferencesMax;
}

BatchRun* BatchBuilder::extendable(BatchOp op, const PageKey& key, Epoch epoch) {
    if (content_.runs.empty()) return nullptr;
    BatchRun& run = content_.runs.back();
    const bool next = run.op == op && run.epoch == epoch && run.first.region == key.region &&
                      run.first.page + run.count == key.page && run.count < kBatchZeroRunMax;
    return next ? &run : nullptr;
}

void BatchBuilder::start_run(BatchOp op, const PageKey& key, Epoch epoch, const Location& source,
                             size_t index) {
    EVAC_ASSERT(has_room());
    EVAC_ASSERT(content_.runs.empty() || content_.vm == key.vm);
    EVAC_ASSERT(raw(epoch) >= 1 && raw(key.region) < kRegionsMax && key.page < kLocationPagesMax);
    content_.vm = key.vm;
    content_.runs.push_back(BatchRun{op, epoch, key, 1, source, index});
    bytes_bound_ += kRunBytesMax;
}

void BatchBuilder::add_zero(const PageKey& key, Epoch epoch) {
    if (BatchRun* run = extendable(BatchOp::zero, key, epoch)) {
        ++run->count;
        return;
    }
    start_run(BatchOp::zero, key, epoch, Location{}, 0);
}

void BatchBuilder::add_literal(const PageKey& key, Epoch epoch, PageSpan page) {
    EVAC_ASSERT(has_room_for_literal());
    if (BatchRun* run = extendable(BatchOp::literal, key, epoch)) {
        ++run->count;
    } else {
        start_run(BatchOp::literal, key, epoch, Location{}, content_.literals.size() / kPageBytes);
    }
    content_.literals.insert(content_.literals.end(), page.begin(), page.end());
}

void BatchBuilder::add_reference(const PageKey& key, Epoch epoch, const Identity& identity,
                                 const Location& source) {
    EVAC_ASSERT(has_room_for_reference());
    BatchRun* run = extendable(BatchOp::reference, key, epoch);
    if (run != nullptr && run->source.vm == source.vm && run->source.region == source.region &&
        run->source.page + run->count == source.page) {
        ++run->count;
    } else {
        start_run(BatchOp::reference, key, epoch, source, content_.identities.size());
    }
    content_.identities.push_back(identity);
    bytes_bound_ += kIdentityBytes;
}

BatchBuilder::Encoded BatchBuilder::finish(uint64_t sequence) {
    EVAC_ASSERT(!empty() && sequence >= 1);
    const Bytes& raw_literals = content_.literals;
    Encoded out;
    Bytes& message = out.message;
    message.reserve(kBatchHeaderBytes + bytes_bound_ + raw_literals.size());
    message.resize(kBatchHeaderBytes);
    ByteWriter writer(message);
    encode_records(content_, writer);
    out.record_bytes = message.size() - kBatchHeaderBytes;

    uint8_t flags = 0;
    if (!raw_literals.empty()) {
        // zstd gets one byte less than the raw size, so success means that it shrank.
        const size_t at = message.size();
        message.resize(at + raw_literals.size());
        const size_t size =
            ZSTD_compressCCtx(zstd_->context, message.data() + at, raw_literals.size() - 1,
                              raw_literals.data(), raw_literals.size(), zstd_->level);
        if (ZSTD_isError(size) == 0) {
            flags = kFlagZstd;
            message.resize(at + size);
        } else {
            std::copy(raw_literals.begin(), raw_literals.end(),
                      message.begin() + static_cast<std::ptrdiff_t>(at));
        }
        out.literal_bytes = message.size() - at;
    }

    Bytes header;
    header.reserve(kBatchHeaderBytes);
    ByteWriter head(header);
    head.u8(kBatchVersion);
    head.u8(flags);
    head.le16(static_cast<uint16_t>(raw_literals.size() / kPageBytes));
    head.le32(raw(content_.vm));
    head.le64(sequence);
    head.le32(static_cast<uint32_t>(out.record_bytes));
    head.le32(static_cast<uint32_t>(out.literal_bytes));
    EVAC_ASSERT(header.size() == kBatchHeaderBytes && message.size() <= kBatchBytesMax);
    std::copy(header.begin(), header.end(), message.begin());
    discard();
    return out;
}

}  // namespace evac::dedup
