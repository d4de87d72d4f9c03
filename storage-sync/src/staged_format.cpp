#include "staged_format.hpp"

#include <algorithm>

#include "crc32c.hpp"

namespace evac::storage_sync {
namespace {

constexpr std::string_view kMetaMagic = "EVACSVM1";
constexpr std::string_view kLogMagic = "EVACLOG1";
constexpr std::string_view kUndoMagic = "EVACUND1";
constexpr size_t kPathBytesMax = 4096;
constexpr uint64_t kScanWindowBytes = 1 * kMiB;

Error corrupt(std::string what) {
    return make_error(Errc::corrupt, std::move(what));
}

// The size and text rules that a decoded spec must also meet.
Status check_region(const StagedRegion& region, size_t index) {
    const std::string field = "regions[" + std::to_string(index) + "]";
    if (region.name.empty() || region.name.size() > kNameBytesMax) {
        return make_error(
            Errc::invalid_argument,
            field + ".name: 1 to " + std::to_string(kNameBytesMax) + " bytes are accepted");
    }
    const uint64_t unit = region.kind == RegionKind::disk ? 512 : kPageBytes;
    if (region.size_bytes == 0 || region.size_bytes > kRegionBytesMax ||
        region.size_bytes % unit != 0) {
        return make_error(Errc::invalid_argument,
                          field + ".size_bytes " + std::to_string(region.size_bytes) + " ('" +
                              region.name + "'): a multiple of " + std::to_string(unit) + " from " +
                              std::to_string(unit) + " to 2^47 is accepted");
    }
    if (raw(static_cast<RegionId>(region.kind)) > raw(static_cast<RegionId>(RegionKind::disk))) {
        return make_error(Errc::invalid_argument, field + ".kind: 0, 1 or 2 is accepted");
    }
    return {};
}

uint32_t record_crc(uint64_t nonce, uint64_t offset, ByteSpan head_behind_crc, ByteSpan payload) {
    Bytes salt;
    ByteWriter writer(salt);
    writer.le64(nonce);
    writer.le64(offset);
    return crc32c(crc32c(crc32c(0, salt), head_behind_crc), payload);
}

void encode_points(ByteWriter& writer, const std::vector<MetaPoint>& points) {
    writer.le16(static_cast<uint16_t>(points.size()));
    for (const MetaPoint& point : points) {
        writer.le32(raw(point.epoch));
        writer.le64(point.batches);
        writer.le64(static_cast<uint64_t>(point.wall_unix_ms));
        writer.le64(point.state_bytes);
        writer.le32(point.state_crc);
    }
}

// Ascending epochs, bounded sizes.
bool decode_points(ByteReader& reader, std::vector<MetaPoint>& points) {
    const uint16_t count = reader.le16();
    if (!reader.ok() || count > kPointsMax) return false;
    for (uint16_t i = 0; i < count; ++i) {
        MetaPoint point;
        point.epoch = Epoch{reader.le32()};
        point.batches = reader.le64();
        point.wall_unix_ms = static_cast<int64_t>(reader.le64());
        point.state_bytes = reader.le64();
        point.state_crc = reader.le32();
        const Epoch before = points.empty() ? Epoch{0} : points.back().epoch;
        if (!reader.ok() || point.epoch <= before || point.state_bytes > kDeviceStateBytesMax)
            return false;
        points.push_back(point);
    }
    return true;
}

Result<Meta> decode_body(ByteSpan body, uint32_t version) {
    ByteReader reader(body);
    Meta meta;
    meta.spec.vm = VmId{reader.le32()};
    meta.spec.name = reader.text_sized(kNameBytesMax);
    meta.ram_dir = reader.text_sized(kPathBytesMax);
    const uint16_t count = reader.le16();
    if (!reader.ok() || count > kRegionsMax) return corrupt("metadata: region count");
    for (uint16_t i = 0; i < count; ++i) {
        StagedRegion region;
        region.kind = static_cast<RegionKind>(reader.u8());
        region.name = reader.text_sized(kNameBytesMax);
        region.size_bytes = reader.le64();
        if (!reader.ok()) return corrupt("metadata: region list");
        meta.spec.regions.push_back(std::move(region));
    }
    const uint8_t flags = reader.u8();
    meta.landed = (flags & 1) != 0;
    meta.restoring_to = Epoch{reader.le32()};
    meta.log_generation = reader.le64();
    if (flags > 1 || !decode_points(reader, meta.points)) return corrupt("metadata: body");
    if (version > 1) meta.copy_id = reader.le64();
    if (!reader.at_end()) return corrupt("metadata: body");
    const Status spec = check_spec(meta.spec);
    if (!spec.ok()) return corrupt("metadata: " + spec.error().context);
    const bool known = raw(meta.restoring_to) == 0 ||
                       std::any_of(meta.points.begin(), meta.points.end(), [&](const MetaPoint& p) {
                           return p.epoch == meta.restoring_to;
                       });
    if (!known || (meta.landed && meta.points.empty())) return corrupt("metadata: recovery points");
    return meta;
}

}  // namespace

Status check_spec(const StagedSpec& spec) {
    if (spec.name.empty() || spec.name.size() > kNameBytesMax) {
        return make_error(Errc::invalid_argument,
                          "name: 1 to " + std::to_string(kNameBytesMax) + " bytes are accepted");
    }
    if (spec.regions.empty() || spec.regions.size() > kRegionsMax) {
        return make_error(Errc::invalid_argument, "regions: 1 to " + std::to_string(kRegionsMax) +
                                                      " are accepted, not " +
                                                      std::to_string(spec.regions.size()));
    }
    for (size_t i = 0; i < spec.regions.size(); ++i) EVAC_TRY(check_region(spec.regions[i], i));
    const auto main_blocks = std::count_if(
        spec.regions.begin(), spec.regions.end(),
        [](const StagedRegion& region) { return region.kind == RegionKind::main_ram; });
    if (main_blocks > 1)
        return make_error(Errc::invalid_argument, "regions: at most one main_ram is accepted");
    return {};
}

Bytes encode_meta(const Meta& meta) {
    Bytes body;
    ByteWriter writer(body);
    writer.le32(raw(meta.spec.vm));
    writer.put_sized(meta.spec.name);
    writer.put_sized(meta.ram_dir);
    writer.le16(static_cast<uint16_t>(meta.spec.regions.size()));
    for (const StagedRegion& region : meta.spec.regions) {
        writer.u8(static_cast<uint8_t>(region.kind));
        writer.put_sized(region.name);
        writer.le64(region.size_bytes);
    }
    writer.u8(meta.landed ? 1 : 0);
    writer.le32(raw(meta.restoring_to));
    writer.le64(meta.log_generation);
    encode_points(writer, meta.points);
    writer.le64(meta.copy_id);

    Bytes file;
    ByteWriter out(file);
    out.put(kMetaMagic);
    out.le32(kMetaVersion);
    out.put_sized(body);
    out.le32(crc32c(0, file));
    return file;
}

Result<Meta> decode_meta(ByteSpan bytes) {
    ByteReader reader(bytes);
    if (as_text(reader.take(kMetaMagic.size())) != kMetaMagic)
        return corrupt("metadata: not a staged VM");
    const uint32_t version = reader.le32();
    if (reader.ok() && (version == 0 || version > kMetaVersion)) {
        return corrupt("metadata: format version " + std::to_string(version) +
                       ", this build reads 1 to " + std::to_string(kMetaVersion));
    }
    const ByteSpan body = reader.take_sized(kMetaBytesMax);
    const size_t covered = reader.offset();
    const uint32_t crc = reader.le32();
    if (!reader.at_end() || crc != crc32c(0, bytes.first(covered)))
        return corrupt("metadata: damaged (checksum)");
    return decode_body(body, version);
}

Bytes encode_log_header(const LogHeader& header) {
    Bytes bytes;
    ByteWriter writer(bytes);
    writer.put(header.kind == LogKind::log ? kLogMagic : kUndoMagic);
    writer.le32(kFormatVersion);
    writer.le32(raw(header.vm));
    writer.le64(header.number);
    writer.le64(header.nonce);
    writer.le32(crc32c(0, bytes));
    return bytes;
}

Result<LogHeader> decode_log_header(ByteSpan bytes) {
    ByteReader reader(bytes);
    const std::string_view magic = as_text(reader.take(kLogMagic.size()));
    LogHeader header;
    header.kind = magic == kLogMagic ? LogKind::log : LogKind::undo;
    const uint32_t version = reader.le32();
    header.vm = VmId{reader.le32()};
    header.number = reader.le64();
    header.nonce = reader.le64();
    const size_t covered = reader.offset();
    const uint32_t crc = reader.le32();
    if (!reader.at_end() || (magic != kLogMagic && magic != kUndoMagic) ||
        version != kFormatVersion || crc != crc32c(0, bytes.first(covered))) {
        return corrupt("log header");
    }
    return header;
}

Bytes encode_record_head(const LogRecord& record, uint64_t nonce) {
    Bytes behind_crc;
    ByteWriter writer(behind_crc);
    writer.u8(static_cast<uint8_t>(record.type));
    writer.u8(record.flags);
    writer.le16(raw(record.region));
    writer.le32(raw(record.epoch));
    writer.le64(record.a);
    writer.le64(record.b);
    if (record.type == RecordType::seal) writer.le32(static_cast<uint32_t>(record.payload.size()));
    Bytes head;
    ByteWriter out(head);
    out.le32(record_crc(nonce, record.offset, behind_crc, record.payload));
    out.put(behind_crc);
    return head;
}

// True when [offset, offset + size) is in the window; false when the file is too short for it.
Result<bool> LogScan::fill(uint64_t offset, uint64_t size) {
    if (size > file_bytes_ || offset > file_bytes_ - size) return false;
    if (offset >= window_offset_ && offset + size <= window_offset_ + window_.size()) return true;
    window_.resize(std::min(std::max(size, kScanWindowBytes), file_bytes_ - offset));
    window_offset_ = offset;
    auto read = file_.read_at(offset, window_);
    EVAC_TRY(read);
    window_.resize(*read);
    return window_.size() >= size;
}

Result<std::optional<LogRecord>> LogScan::next() {
    const std::optional<LogRecord> none;
    auto has_head = fill(offset_, kRecordHeaderBytes);
    EVAC_TRY(has_head);
    if (!*has_head) return none;
    ByteReader reader(ByteSpan(window_).subspan(offset_ - window_offset_, kRecordHeaderBytes));
    LogRecord record;
    const uint32_t crc = reader.le32();
    record.type = static_cast<RecordType>(reader.u8());
    record.flags = reader.u8();
    record.region = RegionId{reader.le16()};
    record.epoch = Epoch{reader.le32()};
    record.a = reader.le64();
    record.b = reader.le64();
    uint64_t head_bytes = kRecordHeaderBytes;
    uint64_t payload_bytes = record.type == RecordType::page ? kPageBytes : 0;
    if (record.type == RecordType::seal) {
        head_bytes += 4;
        auto has_size = fill(offset_, head_bytes);
        EVAC_TRY(has_size);
        if (!*has_size) return none;
        ByteReader size_reader(
            ByteSpan(window_).subspan(offset_ - window_offset_ + kRecordHeaderBytes, 4));
        payload_bytes = size_reader.le32();
        if (payload_bytes > kDeviceStateBytesMax) return none;
    } else if (record.type != RecordType::page && record.type != RecordType::zeros &&
               record.type != RecordType::end) {
        return none;
    }
    auto has_all = fill(offset_, head_bytes + payload_bytes);
    EVAC_TRY(has_all);
    if (!*has_all) return none;
    const ByteSpan whole =
        ByteSpan(window_).subspan(offset_ - window_offset_, head_bytes + payload_bytes);
    record.payload = whole.subspan(head_bytes);
    if (crc != record_crc(nonce_, offset_, whole.subspan(4, head_bytes - 4), record.payload))
        return none;
    record.offset = offset_;
    record.size_bytes = whole.size();
    offset_ += whole.size();
    return std::optional<LogRecord>(record);
}

}  // namespace evac::storage_sync
