// The encoding half of the batch format; the grammar is in batch.hpp.
#include <zstd.h>

#include <algorithm>

#include "batch_format.hpp"
#include "evac/dedup/batch.hpp"
#include "varint.hpp"

namespace evac::dedup {

namespace {

// Upper bounds of encoded records, so that a batch never has to be unmade:
//   GROUP 1 + epoch 5 + region 1 = 7; run 1 + start 6 + count 5 + source (5 + 1 + 6) + shift 2 =
//   26; together 33.
constexpr size_t kRunBytesMax = 34;
constexpr size_t kIdentityBytes = sizeof(Identity);
constexpr size_t kRecordBytesAt = 16;  // in the header
static_assert(kBatchHeaderBytes + kBatchRecordBytesMax + kBatchLiteralBytesMax <= kBatchBytesMax);
static_assert(kBatchReferencesMax * (kRunBytesMax + kDeltaFixedBytes) < kBatchRecordBytesMax);

void encode_delta(const BatchDelta& delta, ByteWriter& out) {
    out.le32(delta.base_tag);
    out.le16(static_cast<uint16_t>(delta.size * 2 + static_cast<uint32_t>(delta.kind)));
}

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
        if (run.op == BatchOp::zero || run.op == BatchOp::literal) continue;
        put_varint(out, raw(run.source.vm));
        put_varint(out, raw(run.source.region));
        put_varint(out, zigzag(run.source.page, expected_source));
        expected_source = run.source.page + run.count;
        if (run.op != BatchOp::reference) put_varint(out, run.shift);
        for (size_t i = 0; i < run.count; ++i) {
            out.put(content.identities[run.index + i]);
            if (run.op == BatchOp::delta) encode_delta(content.deltas[run.delta + i], out);
        }
    }
}

}  // namespace

void BatchContent::clear() {
    vm = VmId{};
    sequence = 0;
    runs.clear();
    identities.clear();
    deltas.clear();
    literals.clear();
    delta_payloads.clear();
    literal_pages = 0;
}

ByteSpan BatchContent::payload(const BatchDelta& delta) const {
    const size_t first = literal_pages * kPageBytes + delta.offset;
    EVAC_ASSERT(first + delta.size <= literals.size());
    return ByteSpan(literals).subspan(first, delta.size);
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
    bool compress = true;
    Bytes frame = Bytes(kBatchLiteralBytesMax);
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
    builder.content_.literals.reserve(kBatchLiteralBytesMax);
    builder.content_.delta_payloads.reserve(kBatchLiteralBytesMax);
    return builder;
}

void BatchBuilder::set_zstd_level(int level) {
    zstd_->level = std::clamp(level, kZstdLevelMin, kZstdLevelMax);
}

void BatchBuilder::set_compress(bool on) {
    zstd_->compress = on;
}

void BatchBuilder::discard() {
    content_.clear();
    bytes_bound_ = 0;
}

bool BatchBuilder::has_room() const {
    return bytes_bound_ + kRunBytesMax + kDeltaFixedBytes <= kBatchRecordBytesMax;
}

bool BatchBuilder::has_room_for_literal() const {
    return has_room() && content_.literals.size() + content_.delta_payloads.size() + kPageBytes <=
                             kBatchLiteralBytesMax;
}

bool BatchBuilder::has_room_for_reference() const {
    return has_room() && content_.identities.size() < kBatchReferencesMax;
}

bool BatchBuilder::has_room_for_delta(size_t payload_bytes) const {
    return has_room_for_reference() &&
           content_.literals.size() + content_.delta_payloads.size() + payload_bytes <=
               kBatchLiteralBytesMax;
}

BatchRun* BatchBuilder::extendable(BatchOp op, const PageKey& key, Epoch epoch) {
    if (content_.runs.empty()) return nullptr;
    BatchRun& run = content_.runs.back();
    const bool next = run.op == op && run.epoch == epoch && run.first.region == key.region &&
                      run.first.page + run.count == key.page && run.count < kBatchZeroRunMax;
    return next ? &run : nullptr;
}

BatchRun& BatchBuilder::start_run(BatchOp op, const PageKey& key, Epoch epoch,
                                  const Location& source, size_t index) {
    EVAC_ASSERT(has_room());
    EVAC_ASSERT(content_.runs.empty() || content_.vm == key.vm);
    EVAC_ASSERT(raw(epoch) >= 1 && raw(key.region) < kRegionsMax && key.page < kLocationPagesMax);
    content_.vm = key.vm;
    content_.runs.push_back(BatchRun{op, epoch, key, 1, source, 0, index, content_.deltas.size()});
    bytes_bound_ += kRunBytesMax;
    return content_.runs.back();
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

BatchRun& BatchBuilder::sourced_run(BatchOp op, const PageKey& key, Epoch epoch,
                                    const Location& source, uint32_t shift) {
    EVAC_ASSERT(has_room_for_reference());
    BatchRun* run = extendable(op, key, epoch);
    if (run != nullptr && run->source.vm == source.vm && run->source.region == source.region &&
        run->source.page + run->count == source.page && run->shift == shift) {
        ++run->count;
        return *run;
    }
    BatchRun& fresh = start_run(op, key, epoch, source, content_.identities.size());
    fresh.shift = shift;
    return fresh;
}

void BatchBuilder::add_reference(const PageKey& key, Epoch epoch, const Identity& identity,
                                 const Location& source) {
    sourced_run(BatchOp::reference, key, epoch, source, 0);
    content_.identities.push_back(identity);
    bytes_bound_ += kIdentityBytes;
}

void BatchBuilder::add_shifted(const PageKey& key, Epoch epoch, const Identity& identity,
                               const Location& source, uint32_t shift) {
    EVAC_ASSERT(shift >= 1 && shift < kPageBytes && source.page + 1 < kLocationPagesMax);
    sourced_run(BatchOp::shifted, key, epoch, source, shift);
    content_.identities.push_back(identity);
    bytes_bound_ += kIdentityBytes;
}

void BatchBuilder::add_delta(const PageKey& key, Epoch epoch, const Identity& identity,
                             const DeltaSource& delta) {
    EVAC_ASSERT(delta.payload.size() <= kPageBytes && has_room_for_delta(delta.payload.size()));
    EVAC_ASSERT(delta.shift < kPageBytes);
    EVAC_ASSERT(delta.base.page + (delta.shift != 0 ? 1 : 0) < kLocationPagesMax);
    sourced_run(BatchOp::delta, key, epoch, delta.base, delta.shift);
    content_.identities.push_back(identity);
    Bytes& payloads = content_.delta_payloads;
    content_.deltas.push_back(BatchDelta{delta.base_tag, delta.kind,
                                         static_cast<uint32_t>(payloads.size()),
                                         static_cast<uint32_t>(delta.payload.size())});
    payloads.insert(payloads.end(), delta.payload.begin(), delta.payload.end());
    bytes_bound_ += kDeltaFixedBytes;
}

// Empty when it did not shrink: zstd gets one byte less than the raw size.
ByteSpan BatchBuilder::frame(const Bytes& plain) {
    if (!zstd_->compress) return {};
    const size_t size = ZSTD_compressCCtx(zstd_->context, zstd_->frame.data(), plain.size() - 1,
                                          plain.data(), plain.size(), zstd_->level);
    if (ZSTD_isError(size) != 0) return {};
    return ByteSpan(zstd_->frame).first(size);
}

BatchBuilder::Encoded BatchBuilder::finish(uint64_t sequence, size_t headroom_bytes) {
    EVAC_ASSERT(!empty() && sequence >= 1);
    Encoded out;
    out.raw_literal_bytes = content_.literals.size();
    out.raw_delta_bytes = content_.delta_payloads.size();
    Bytes& plain = content_.literals;  // the deltas' payloads come behind the literal pages
    plain.insert(plain.end(), content_.delta_payloads.begin(), content_.delta_payloads.end());
    ByteSpan literals;
    if (!plain.empty()) {
        literals = frame(plain);
        out.compressed = !literals.empty();
        if (!out.compressed) literals = plain;
    }
    out.literal_bytes = literals.size();

    Bytes& message = out.message;
    message.reserve(headroom_bytes + kBatchHeaderBytes + bytes_bound_ + literals.size());
    message.resize(headroom_bytes);
    ByteWriter writer(message);
    writer.u8(kBatchVersion);
    writer.u8(out.compressed ? kFlagZstd : uint8_t{0});
    writer.le16(static_cast<uint16_t>(out.raw_literal_bytes / kPageBytes));
    writer.le32(raw(content_.vm));
    writer.le64(sequence);
    writer.le32(0);  // record_bytes, below
    writer.le32(static_cast<uint32_t>(out.literal_bytes));
    writer.le32(static_cast<uint32_t>(out.raw_delta_bytes));
    const size_t records_at = headroom_bytes + kBatchHeaderBytes;
    EVAC_ASSERT(message.size() == records_at);
    encode_records(content_, writer);
    out.record_bytes = message.size() - records_at;
    for (size_t i = 0; i < 4; ++i) {
        message[headroom_bytes + kRecordBytesAt + i] =
            static_cast<std::byte>(out.record_bytes >> (8 * i));
    }
    writer.put(literals);
    EVAC_ASSERT(message.size() - headroom_bytes <= kBatchBytesMax);
    discard();
    return out;
}

}  // namespace evac::dedup
