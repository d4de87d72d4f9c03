// Seals, checkpoints, undo, restore, landing marks. The order of steps is explained in
// staged_impl.hpp.
#include <algorithm>

#include "crc32c.hpp"
#include "evac/core/random.hpp"
#include "staged_impl.hpp"

namespace evac::storage_sync {
namespace {

constexpr uint64_t kRunPages = 256;  // pages read or written at once
constexpr uint64_t kUndoBufferBytes = 1 * kMiB;

// Writes an undo file: buffered, each record bound to its place.
class UndoWriter {
  public:
    UndoWriter(File& file, uint64_t nonce, uint64_t bytes_max)
        : file_(file), nonce_(nonce), bytes_max_(bytes_max) {}

    Status header(const LogHeader& header) {
        const Bytes bytes = encode_log_header(header);
        buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
        return {};
    }
    Status add(LogRecord record) {
        record.offset = file_end_ + buffer_.size();
        if (record.offset + kPageRecordBytes + kRecordHeaderBytes > bytes_max_) {
            return make_error(Errc::unavailable, "undo file over its limit");
        }
        const Bytes head = encode_record_head(record, nonce_);
        buffer_.insert(buffer_.end(), head.begin(), head.end());
        buffer_.insert(buffer_.end(), record.payload.begin(), record.payload.end());
        ++records_;
        return buffer_.size() >= kUndoBufferBytes ? flush() : Status{};
    }
    Status old_page(RegionId region, uint64_t page, ByteSpan bytes) {
        const bool zero = bytes[0] == std::byte{0} &&
                          std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
        if (zero) return zeros(region, page, 1);
        return add({.type = RecordType::page, .region = region, .a = page, .payload = bytes});
    }
    Status zeros(RegionId region, uint64_t first, uint64_t count) {
        return add({.type = RecordType::zeros, .region = region, .a = first, .b = count});
    }
    Result<uint64_t> finish() {
        EVAC_TRY(add({.type = RecordType::end, .a = records_}));
        EVAC_TRY(flush());
        return file_end_;
    }

  private:
    Status flush() {
        EVAC_TRY(file_.write_at(file_end_, buffer_));
        file_end_ += buffer_.size();
        buffer_.clear();
        return {};
    }

    File& file_;
    const uint64_t nonce_;
    const uint64_t bytes_max_;
    Bytes buffer_;
    uint64_t file_end_ = 0;
    uint64_t records_ = 0;
};

// First index behind `begin` that does not continue its run (same region, next page, same kind), at
// most kRunPages.
size_t run_end(const std::vector<OpenDelta::Page>& pages, size_t begin) {
    size_t end = begin + 1;
    while (end < pages.size() && end - begin < kRunPages &&
           pages[end].key == pages[end - 1].key + 1 && pages[end].zero == pages[begin].zero) {
        ++end;
    }
    return end;
}

}  // namespace

uint64_t StagedVmImpl::undo_nonce(uint64_t log_nonce, uint64_t seal_offset) const {
    return Random(log_nonce ^ (seal_offset * 0x9e3779b97f4a7c15ULL)).next();
}

// ---------------------------------------------------------------- before the commit

Status StagedVmImpl::check_seal(Epoch epoch, ByteSpan device_state) const {
    EVAC_TRY(usable(Access::change));
    if (held_)
        return make_error(Errc::unavailable,
                          "staged VM '" + meta_.spec.name + "' is held (a drill uses its files)");
    const Epoch newest = in_place() ? newest_put_ : delta_.newest_epoch();
    if (epoch <= sealed_epoch() || epoch < newest) {
        return make_error(Errc::invalid_argument,
                          "seal of epoch " + std::to_string(raw(epoch)) + ": more than " +
                              std::to_string(raw(sealed_epoch())) + " and at least " +
                              std::to_string(raw(newest)) + " is accepted");
    }
    if (device_state.size() > kDeviceStateBytesMax) {
        return make_error(Errc::invalid_argument,
                          "device state of " + std::to_string(device_state.size()) +
                              " bytes: at most " + std::to_string(kDeviceStateBytesMax) +
                              " are accepted");
    }
    return {};
}

Status StagedVmImpl::write_state(Epoch epoch, ByteSpan device_state) {
    EVAC_TRY(files_.remove(state_path(epoch)));
    auto file = files_.open(state_path(epoch), OpenMode::create_new);
    EVAC_TRY(file);
    return (*file)->write_at(0, device_state);
}

Status StagedVmImpl::write_undo(Epoch epoch, const std::vector<OpenDelta::Page>& pages) {
    EVAC_TRY(files_.remove(undo_path(epoch)));
    auto file = files_.open(undo_path(epoch), OpenMode::create_new);
    EVAC_TRY(file);
    const uint64_t nonce = undo_nonce(log_nonce_, log_end_);
    UndoWriter writer(**file, nonce, options_.undo_bytes_max);
    EVAC_TRY(writer.header({LogKind::undo, meta_.spec.vm, raw(epoch), nonce}));
    Bytes buffer(kRunPages * kPageBytes);
    const auto save = [&](RegionId region, uint64_t first, uint64_t count) -> Status {
        std::fill(buffer.begin(), buffer.end(), std::byte{0});  // a short last page is padded
        auto got = regions_[raw(region)].file->read_at(first * kPageBytes,
                                                       std::span(buffer).first(count * kPageBytes));
        EVAC_TRY(got);
        for (uint64_t i = 0; i < count; ++i) {
            EVAC_TRY(writer.old_page(region, first + i,
                                     ByteSpan(buffer).subspan(i * kPageBytes, kPageBytes)));
        }
        return {};
    };
    for (const OpenDelta::ZeroRun& run : delta_.collect_runs()) {
        const uint64_t end = run.first + run.count;
        for (uint64_t page = run.first; page < end;) {
            auto data = regions_[raw(run.region)].file->next_data(page * kPageBytes);
            EVAC_TRY(data);
            const uint64_t data_begin =
                data->has_value() ? std::min(end, (*data)->begin / kPageBytes) : end;
            if (data_begin > page) EVAC_TRY(writer.zeros(run.region, page, data_begin - page));
            page = std::max(page, data_begin);
            if (page >= end) break;
            const uint64_t count =
                std::min({kRunPages, end - page, page_count_of((*data)->end) - page});
            EVAC_TRY(save(run.region, page, count));
            page += count;
        }
    }
    for (size_t begin = 0; begin < pages.size();) {
        const size_t end = run_end(pages, begin);
        EVAC_TRY(save(pages[begin].region(), pages[begin].page(), end - begin));
        begin = end;
    }
    auto bytes = writer.finish();
    EVAC_TRY(bytes);
    undo_bytes_[epoch] = *bytes;
    return {};
}

// After the commit there is no way back, so "disk full" must show itself now.
Status StagedVmImpl::reserve_room(const std::vector<OpenDelta::Page>& pages) {
    for (size_t begin = 0; begin < pages.size();) {
        const size_t end = run_end(pages, begin);
        const size_t region = raw(pages[begin].region());
        const uint64_t offset = pages[begin].page() * kPageBytes;
        const uint64_t size =
            std::min((end - begin) * kPageBytes, meta_.spec.regions[region].size_bytes - offset);
        if (!pages[begin].zero) EVAC_TRY(regions_[region].file->reserve(offset, size));
        begin = end;
    }
    return {};
}

Status StagedVmImpl::seal(Epoch epoch, ByteSpan device_state, const SealManifest& manifest) {
    EVAC_TRY(check_seal(epoch, device_state));
    EVAC_TRY(checkpoint());
    if (in_place()) EVAC_TRY(failed(sync_regions(true)));
    EVAC_TRY(need_log());
    const std::vector<OpenDelta::Page> pages = delta_.collect_pages();
    EVAC_TRY(write_state(epoch, device_state));
    bool with_undo = manifest.keep_previous && options_.points_max > 1 && !in_place();
    if (with_undo && !write_undo(epoch, pages).ok()) {
        // No room for history: the newest point matters more.
        with_undo = false;
        undo_bytes_.erase(epoch);
        EVAC_TRY(files_.remove(undo_path(epoch)));
    }
    EVAC_TRY(reserve_room(pages));
    LogRecord seal{.type = RecordType::seal,
                   .flags = static_cast<uint8_t>(with_undo ? 1 : 0),
                   .epoch = epoch,
                   .a = manifest.batches,
                   .b = static_cast<uint64_t>(manifest.wall_unix_ms),
                   .payload = device_state};
    EVAC_TRY(append(seal));
    if (!log_entry_durable_) EVAC_TRY(failed(files_.sync_dir(dir_)));
    log_entry_durable_ = true;
    EVAC_TRY(failed(log_->sync()));
    // Committed.
    EVAC_TRY(failed(apply(pages)));
    add_point(seal, device_state, with_undo);
    close_sealed_log();
    return {};
}

// ---------------------------------------------------------------- behind the commit

Status StagedVmImpl::punch_pages(RegionId region, uint64_t first, uint64_t count) {
    const uint64_t offset = first * kPageBytes;
    const uint64_t size =
        std::min(count * kPageBytes, meta_.spec.regions[raw(region)].size_bytes - offset);
    return regions_[raw(region)].file->punch(offset, size);
}

Status StagedVmImpl::write_pages(const std::vector<OpenDelta::Page>& pages, size_t begin,
                                 size_t end, Bytes& buffer) {
    const size_t region = raw(pages[begin].region());
    for (size_t i = begin; i < end; ++i) {
        auto got = log_->read_at(pages[i].offset + kRecordHeaderBytes,
                                 std::span(buffer).subspan((i - begin) * kPageBytes, kPageBytes));
        EVAC_TRY(got);
        if (*got != kPageBytes)
            return make_error(Errc::corrupt, "'" + log_path(log_generation_) + "' was shortened");
    }
    const uint64_t offset = pages[begin].page() * kPageBytes;
    const uint64_t size =
        std::min((end - begin) * kPageBytes, meta_.spec.regions[region].size_bytes - offset);
    return regions_[region].file->write_at(offset, ByteSpan(buffer).first(size));
}

Status StagedVmImpl::apply(const std::vector<OpenDelta::Page>& pages) {
    for (const OpenDelta::ZeroRun& run : delta_.collect_runs())
        EVAC_TRY(punch_pages(run.region, run.first, run.count));
    Bytes buffer(kRunPages * kPageBytes);
    for (size_t begin = 0; begin < pages.size();) {
        const size_t end = run_end(pages, begin);
        if (pages[begin].zero) {
            EVAC_TRY(punch_pages(pages[begin].region(), pages[begin].page(), end - begin));
        } else {
            EVAC_TRY(write_pages(pages, begin, end, buffer));
        }
        begin = end;
    }
    return {};
}

void StagedVmImpl::add_point(const LogRecord& seal, ByteSpan device_state, bool undo_is_there) {
    if (!undo_is_there) points_.clear();
    points_.push_back({seal.epoch, seal.a, static_cast<int64_t>(seal.b), device_state.size(),
                       crc32c(0, device_state)});
    const auto undo_bytes = [this] {
        uint64_t sum = 0;  // of the files that lead back to a point that is kept
        for (size_t i = 1; i < points_.size(); ++i) sum += undo_bytes_[points_[i].epoch];
        return sum;
    };
    while (points_.size() > 1 &&
           (points_.size() > options_.points_max || undo_bytes() > options_.undo_bytes_max)) {
        points_.erase(points_.begin());
    }
}

void StagedVmImpl::forget_open_delta() {
    delta_.clear();
    log_.reset();
    log_end_ = 0;
    ++log_generation_;
}

void StagedVmImpl::close_sealed_log() {
    sealed_log_bytes_ = log_end_;
    forget_open_delta();
    checkpoint_pending_ = true;
    for (Region& region : regions_) region.epochs = EpochMap(0);  // in place no more
}

// open() found a seal that no checkpoint followed.
Status StagedVmImpl::finish_sealed_log(LogFound& found) {
    const LogRecord& seal = *found.seal;
    log_ = std::move(found.file);
    log_end_ = found.end;
    EVAC_TRY(write_state(seal.epoch, found.state));
    EVAC_TRY(apply(delta_.collect_pages()));
    bool with_undo = (seal.flags & 1) != 0 && !in_place();
    if (with_undo) {
        auto whole = undo_is_whole(seal.epoch, undo_nonce(found.nonce, seal.offset));
        EVAC_TRY(whole);
        with_undo = *whole;
    }
    add_point(seal, found.state, with_undo);
    close_sealed_log();
    return {};
}

Status StagedVmImpl::sync_regions(bool with_ram) {
    for (size_t i = 0; i < regions_.size(); ++i) {
        if (!with_ram && meta_.spec.regions[i].kind != RegionKind::disk) continue;
        EVAC_TRY(regions_[i].file->sync());
    }
    return {};
}

Status StagedVmImpl::sync_file(const std::string& path) {
    auto file = files_.open(path, OpenMode::existing);
    EVAC_TRY(file);
    return (*file)->sync();
}

Meta StagedVmImpl::current_meta() const {
    Meta meta = meta_;
    meta.points = points_;
    meta.log_generation = log_generation_;
    return meta;
}

Status StagedVmImpl::save_meta(const Meta& meta) {
    EVAC_TRY(write_meta(files_, dir_, meta));
    meta_ = meta;
    log_entry_durable_ = log_ != nullptr;
    return {};
}

Status StagedVmImpl::checkpoint() {
    EVAC_TRY(usable(Access::read));
    if (!checkpoint_pending_ || meta_.landed) return {};
    const Epoch epoch = points_.back().epoch;
    EVAC_TRY(failed(sync_regions(true)));
    EVAC_TRY(failed(sync_file(state_path(epoch))));
    if (points_.size() > 1) EVAC_TRY(failed(sync_file(undo_path(epoch))));
    EVAC_TRY(save_meta(current_meta()));
    checkpoint_pending_ = false;
    sealed_log_bytes_ = 0;
    return remove_unreferenced();
}

Status StagedVmImpl::remove_unreferenced() {
    std::set<std::string> keep = {log_path(log_generation_)};
    for (size_t i = 0; i < points_.size(); ++i) {
        keep.insert(state_path(points_[i].epoch));
        if (i > 0) keep.insert(undo_path(points_[i].epoch));
    }
    auto names = files_.list(dir_);
    EVAC_TRY(names);
    for (const std::string& name : *names) {
        if (is_point_file(name) && !keep.contains(path(name))) EVAC_TRY(files_.remove(path(name)));
    }
    std::erase_if(undo_bytes_,
                  [&](const auto& entry) { return !keep.contains(undo_path(entry.first)); });
    return {};
}

Status StagedVmImpl::discard_open_delta() {
    EVAC_TRY(usable(Access::change));
    if (in_place()) {
        return make_error(Errc::refused, "discard_open_delta: '" + meta_.spec.name +
                                             "' was never sealed; remove it instead");
    }
    EVAC_TRY(checkpoint());
    Meta meta = current_meta();
    ++meta.log_generation;
    EVAC_TRY(save_meta(meta));
    forget_open_delta();
    return remove_unreferenced();
}

// ---------------------------------------------------------------- points

std::vector<RecoveryPoint> StagedVmImpl::points() const {
    std::vector<RecoveryPoint> result;
    for (const MetaPoint& point : points_) {
        result.push_back(
            {point.epoch, {point.batches, point.wall_unix_ms, true}, point.state_bytes});
    }
    return result;
}

Result<Bytes> StagedVmImpl::device_state(Epoch epoch) {
    EVAC_TRY(usable(Access::read));
    for (const MetaPoint& point : points_) {
        if (point.epoch != epoch) continue;
        auto file = files_.open(state_path(epoch), OpenMode::existing);
        EVAC_TRY(file);
        Bytes bytes(point.state_bytes);
        auto got = (*file)->read_at(0, bytes);
        EVAC_TRY(got);
        if (*got != bytes.size() || crc32c(0, bytes) != point.state_crc) {
            return make_error(Errc::corrupt, "'" + state_path(epoch) + "': damaged (checksum)");
        }
        return bytes;
    }
    return make_error(Errc::not_found, "'" + meta_.spec.name + "' has no recovery point " +
                                           std::to_string(raw(epoch)));
}

Result<bool> StagedVmImpl::undo_is_whole(Epoch epoch, std::optional<uint64_t> nonce) {
    auto exists = files_.exists(undo_path(epoch));
    EVAC_TRY(exists);
    if (!*exists) return false;
    auto file = files_.open(undo_path(epoch), OpenMode::existing);
    EVAC_TRY(file);
    auto size = (*file)->size();
    EVAC_TRY(size);
    Bytes head(kLogHeaderBytes);
    auto got = (*file)->read_at(0, head);
    EVAC_TRY(got);
    auto header = decode_log_header(head);
    if (!header.ok() || header->kind != LogKind::undo || header->vm != meta_.spec.vm ||
        header->number != raw(epoch) || (nonce.has_value() && header->nonce != *nonce)) {
        return false;
    }
    undo_bytes_[epoch] = *size;
    LogScan scan(**file, header->nonce, *size);
    for (uint64_t records = 0;; ++records) {
        auto record = scan.next();
        EVAC_TRY(record);
        if (!record->has_value()) return false;
        const LogRecord& one = **record;
        if (one.type == RecordType::end) return one.a == records;
        const uint64_t count = one.type == RecordType::page ? 1 : one.b;
        if (one.type == RecordType::seal || !check_range(one.region, one.a, count).ok())
            return false;
    }
}

// The file was found whole.
Status StagedVmImpl::apply_undo(Epoch epoch) {
    auto file = files_.open(undo_path(epoch), OpenMode::existing);
    EVAC_TRY(file);
    auto size = (*file)->size();
    EVAC_TRY(size);
    Bytes head(kLogHeaderBytes);
    auto got = (*file)->read_at(0, head);
    EVAC_TRY(got);
    auto header = decode_log_header(head);
    EVAC_TRY(header);
    LogScan scan(**file, header->nonce, *size);
    while (true) {
        auto record = scan.next();
        EVAC_TRY(record);
        if (!record->has_value())
            return make_error(Errc::corrupt, "'" + undo_path(epoch) + "': cut off");
        const LogRecord& one = **record;
        if (one.type == RecordType::end) return {};
        if (one.type == RecordType::zeros) {
            EVAC_TRY(punch_pages(one.region, one.a, one.b));
        } else {
            const ByteSpan bytes = one.payload.first(bytes_of_page(raw(one.region), one.a));
            EVAC_TRY(regions_[raw(one.region)].file->write_at(one.a * kPageBytes, bytes));
        }
    }
}

// Newest first; doing all of it again after a crash ends in the same content.
Status StagedVmImpl::roll_back(Epoch epoch) {
    while (points_.back().epoch > epoch) {
        EVAC_TRY(apply_undo(points_.back().epoch));
        points_.pop_back();
    }
    EVAC_TRY(sync_regions(true));
    Meta meta = current_meta();
    meta.restoring_to = Epoch{0};
    EVAC_TRY(save_meta(meta));
    return remove_unreferenced();
}

Status StagedVmImpl::restore_point(Epoch epoch) {
    EVAC_TRY(usable(Access::change));
    if (held_)
        return make_error(Errc::unavailable,
                          "staged VM '" + meta_.spec.name + "' is held (a drill uses its files)");
    const bool known = std::any_of(points_.begin(), points_.end(),
                                   [&](const MetaPoint& p) { return p.epoch == epoch; });
    if (!known) {
        return make_error(Errc::not_found, "'" + meta_.spec.name + "' has no recovery point " +
                                               std::to_string(raw(epoch)));
    }
    EVAC_TRY(discard_open_delta());
    for (const MetaPoint& point : points_) {
        if (point.epoch <= epoch) continue;
        auto whole = undo_is_whole(point.epoch, std::nullopt);
        EVAC_TRY(whole);
        if (!*whole) {
            return make_error(Errc::corrupt, "'" + undo_path(point.epoch) +
                                                 "' is damaged: no way back to point " +
                                                 std::to_string(raw(epoch)));
        }
    }
    Meta meta = current_meta();
    meta.copy_id = next_copy_id(options_.nonce_seed, meta);
    if (epoch == sealed_epoch()) return failed(save_meta(meta));
    meta.restoring_to = epoch;
    EVAC_TRY(failed(save_meta(meta)));
    return failed(roll_back(epoch));
}

// ---------------------------------------------------------------- landing

Status StagedVmImpl::mark_landed() {
    EVAC_TRY(usable(Access::read));
    if (meta_.landed) return {};
    if (points_.empty()) {
        return make_error(Errc::refused,
                          "'" + meta_.spec.name + "' was never sealed: there is nothing to land");
    }
    if (held_)
        return make_error(Errc::unavailable,
                          "staged VM '" + meta_.spec.name + "' is held (a drill uses its files)");
    if (checkpoint_pending_) {
        EVAC_TRY(failed(sync_regions(false)));
        EVAC_TRY(failed(sync_file(state_path(points_.back().epoch))));
    }
    Meta meta = current_meta();
    meta.points.erase(meta.points.begin(),
                      meta.points.end() - 1);  // what QEMU writes from now on, no undo takes back
    meta.landed = true;
    ++meta.log_generation;
    EVAC_TRY(failed(save_meta(meta)));
    points_ = meta_.points;
    forget_open_delta();
    checkpoint_pending_ = false;
    sealed_log_bytes_ = 0;
    return remove_unreferenced();
}

Status StagedVmImpl::unmark_landed() {
    EVAC_TRY(usable(Access::read));
    if (!meta_.landed) return {};
    EVAC_TRY(failed(sync_regions(true)));
    Meta meta = current_meta();
    meta.landed = false;
    return save_meta(meta);
}

}  // namespace evac::storage_sync
