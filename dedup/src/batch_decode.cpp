// The decoding half of the batch format; the grammar is in batch.hpp. Everything here comes from a
// peer.
#include <zstd.h>

#include <algorithm>

#include "batch_format.hpp"
#include "evac/dedup/batch.hpp"
#include "varint.hpp"

namespace evac::dedup {

namespace {

Error bad(const std::string& what) {
    return make_error(Errc::corrupt, "batch: " + what);
}

struct Header {
    uint8_t flags = 0;
    size_t literal_pages = 0;
    size_t record_bytes = 0;
    size_t literal_bytes = 0;
    size_t delta_bytes = 0;

    size_t plain_bytes() const { return literal_pages * kPageBytes + delta_bytes; }
};

Result<Header> take_header(ByteReader& in, BatchContent& out) {
    const uint8_t version = in.u8();
    Header header;
    header.flags = in.u8();
    header.literal_pages = in.le16();
    out.vm = VmId{in.le32()};
    out.sequence = in.le64();
    header.record_bytes = in.le32();
    header.literal_bytes = in.le32();
    header.delta_bytes = in.le32();
    if (!in.ok()) return bad("shorter than its header of 28 bytes");
    if (version != kBatchVersion) {
        return bad("version " + std::to_string(version) + ", only 2 is known");
    }
    if ((header.flags & ~kFlagZstd) != 0)
        return bad("unknown flags " + std::to_string(header.flags));
    if (out.sequence == 0) return bad("sequence 0");
    if (header.literal_pages > kBatchLiteralPagesMax) {
        return bad(std::to_string(header.literal_pages) + " literal pages, at most 16");
    }
    if (header.record_bytes > kBatchRecordBytesMax ||
        header.record_bytes + header.literal_bytes != in.remaining()) {
        return bad("the sizes in the header do not match the message");
    }
    if (header.plain_bytes() > kBatchLiteralBytesMax) {
        return bad(std::to_string(header.delta_bytes) + " bytes of deltas beside " +
                   std::to_string(header.literal_pages) + " literal pages, at most 65536 in all");
    }
    if (header.plain_bytes() == 0 && (header.flags != 0 || header.literal_bytes != 0)) {
        return bad("literal bytes without literal pages or deltas");
    }
    out.literal_pages = header.literal_pages;
    return header;
}

class RecordReader {
  public:
    RecordReader(ByteSpan bytes, BatchContent& out) : in_(bytes), out_(out) {}

    Status read_all() {
        while (!in_.at_end()) {
            EVAC_TRY(read_one());
            if (!in_.ok()) return bad("a record is cut short or has an overlong number");
        }
        if (out_.runs.empty()) return bad("no runs");
        return {};
    }
    uint64_t literal_pages() const { return literal_pages_; }
    uint64_t delta_bytes() const { return delta_bytes_; }

  private:
    Status read_one() {
        const uint8_t op = in_.u8();
        if (op == kGroupOp) return read_group();
        if (op > static_cast<uint8_t>(BatchOp::delta)) {
            return bad("unknown record " + std::to_string(op));
        }
        if (raw(epoch_) == 0) return bad("a run before the first group");
        return read_run(static_cast<BatchOp>(op));
    }

    Status read_group() {
        const uint64_t epoch = take_varint(in_);
        const uint64_t region = take_varint(in_);
        if (!in_.ok()) return {};  // read_all says so
        if (epoch == 0 || epoch > UINT32_MAX) return bad("epoch " + std::to_string(epoch));
        if (region >= kRegionsMax) return bad("region " + std::to_string(region) + ", at most 63");
        epoch_ = Epoch{static_cast<uint32_t>(epoch)};
        region_ = RegionId{static_cast<uint16_t>(region)};
        expected_ = 0;
        return {};
    }

    static bool in_range(uint64_t first, uint64_t count) {
        return first < kLocationPagesMax && count <= kLocationPagesMax - first;
    }

    Status read_run(BatchOp op) {
        BatchRun run;
        run.op = op;
        run.epoch = epoch_;
        run.first = PageKey{out_.vm, region_, unzigzag(take_varint(in_), expected_)};
        run.count = take_varint(in_);
        if (!in_.ok()) return {};
        if (run.count == 0 || run.count > kBatchZeroRunMax ||
            !in_range(run.first.page, run.count)) {
            return bad("run of " + std::to_string(run.count) + " pages at page " +
                       std::to_string(run.first.page));
        }
        expected_ = run.first.page + run.count;
        if (op == BatchOp::literal) {
            run.index = literal_pages_;
            literal_pages_ += run.count;
            if (literal_pages_ > kBatchLiteralPagesMax) return bad("more than 16 literal pages");
        }
        if (op >= BatchOp::reference) {
            EVAC_TRY(read_source(run));
            if (!in_.ok()) return {};
        }
        out_.runs.push_back(run);
        return {};
    }

    Status read_source(BatchRun& run) {
        const uint64_t vm = take_varint(in_);
        const uint64_t region = take_varint(in_);
        const uint64_t page = unzigzag(take_varint(in_), expected_source_);
        const uint64_t shift = run.op == BatchOp::reference ? 0 : take_varint(in_);
        if (!in_.ok()) return {};
        if (shift >= kPageBytes || (run.op == BatchOp::shifted && shift == 0)) {
            return bad("shift " + std::to_string(shift));
        }
        if (vm > UINT32_MAX || region >= kRegionsMax ||
            !in_range(page, run.count + (shift != 0 ? 1 : 0))) {
            return bad("source vm " + std::to_string(vm) + " region " + std::to_string(region) +
                       " page " + std::to_string(page));
        }
        run.source = Location{VmId{static_cast<uint32_t>(vm)},
                              RegionId{static_cast<uint16_t>(region)}, page};
        run.shift = static_cast<uint32_t>(shift);
        run.index = out_.identities.size();
        run.delta = out_.deltas.size();
        if (run.count > kBatchReferencesMax - out_.identities.size()) {
            return bad("more than 512 references");
        }
        expected_source_ = page + run.count;
        for (uint64_t i = 0; i < run.count; ++i) {
            const ByteSpan bytes = in_.take(sizeof(Identity));
            if (!in_.ok()) return {};
            Identity identity;
            std::copy(bytes.begin(), bytes.end(), identity.begin());
            out_.identities.push_back(identity);
            if (run.op == BatchOp::delta) EVAC_TRY(read_delta());
        }
        return {};
    }

    Status read_delta() {
        BatchDelta delta;
        delta.base_tag = in_.le32();
        const uint32_t coded = in_.le16();
        if (!in_.ok()) return {};  // read_all says so
        if (coded / 2 > kPageBytes) return bad("delta of " + std::to_string(coded / 2) + " bytes");
        delta.kind = static_cast<DeltaKind>(coded & 1);
        delta.size = coded / 2;
        delta.offset = static_cast<uint32_t>(delta_bytes_);  // at most 512 * 4096
        delta_bytes_ += delta.size;
        out_.deltas.push_back(delta);
        return {};
    }

    ByteReader in_;
    BatchContent& out_;
    Epoch epoch_{};
    RegionId region_{};
    uint64_t expected_ = 0;
    uint64_t expected_source_ = 0;
    uint64_t literal_pages_ = 0;
    uint64_t delta_bytes_ = 0;
};

}  // namespace

struct BatchDecoder::Zstd {
    Zstd() = default;
    Zstd(const Zstd&) = delete;
    Zstd& operator=(const Zstd&) = delete;
    ~Zstd() { ZSTD_freeDCtx(context); }

    // The whole frame goes into a buffer of the known size, so the frame's own claims allocate
    // nothing. Exactly one frame of today's format: the library would also accept several, and its
    // legacy formats, whose decoders are not for bytes of a peer.
    Status decompress(ByteSpan from, Bytes& to) const {
        ByteReader magic(from);
        if (magic.le32() != ZSTD_MAGICNUMBER ||
            ZSTD_findFrameCompressedSize(from.data(), from.size()) != from.size()) {
            return bad("literals are not one zstd frame");
        }
        const size_t size =
            ZSTD_decompressDCtx(context, to.data(), to.size(), from.data(), from.size());
        if (ZSTD_isError(size) != 0)
            return bad(std::string("literals: ") + ZSTD_getErrorName(size));
        if (size != to.size()) {
            return bad("literals decompress to " + std::to_string(size) + " bytes instead of " +
                       std::to_string(to.size()));
        }
        return {};
    }
    ZSTD_DCtx* context = ZSTD_createDCtx();
};

BatchDecoder::BatchDecoder(std::unique_ptr<Zstd> zstd) : zstd_(std::move(zstd)) {}
BatchDecoder::BatchDecoder(BatchDecoder&&) noexcept = default;
BatchDecoder& BatchDecoder::operator=(BatchDecoder&&) noexcept = default;
BatchDecoder::~BatchDecoder() = default;

Result<BatchDecoder> BatchDecoder::create() {
    auto zstd = std::make_unique<Zstd>();
    if (zstd->context == nullptr)
        return make_error(Errc::internal, "zstd: no decompression context");
    return BatchDecoder(std::move(zstd));
}

Status BatchDecoder::decode(ByteSpan message, BatchContent& out) {
    out.clear();
    if (message.size() > kBatchBytesMax) {
        return bad(std::to_string(message.size()) + " bytes, at most 131072");
    }
    ByteReader in(message);
    const Result<Header> header = take_header(in, out);
    if (!header.ok()) return header.error();
    RecordReader records(in.take(header->record_bytes), out);
    EVAC_TRY(records.read_all());
    if (records.literal_pages() != header->literal_pages) {
        return bad("the records name " + std::to_string(records.literal_pages()) +
                   " literal pages, the header " + std::to_string(header->literal_pages));
    }
    if (records.delta_bytes() != header->delta_bytes) {
        return bad("the records name " + std::to_string(records.delta_bytes()) +
                   " bytes of deltas, the header " + std::to_string(header->delta_bytes));
    }
    const ByteSpan literals = in.take(header->literal_bytes);
    out.literals.resize(header->plain_bytes());
    if ((header->flags & kFlagZstd) != 0) return zstd_->decompress(literals, out.literals);
    if (literals.size() != out.literals.size()) return bad("raw literals of the wrong size");
    std::copy(literals.begin(), literals.end(), out.literals.begin());
    return {};
}

}  // namespace evac::dedup
