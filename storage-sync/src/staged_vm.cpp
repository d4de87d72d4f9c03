// Creating, opening, putting and reading. Seals and everything behind them: staged_apply.cpp.
#include "evac/storage_sync/staged_vm.hpp"

#include <algorithm>

#include "crc32c.hpp"
#include "evac/core/random.hpp"
#include "staged_impl.hpp"

namespace evac::storage_sync {
namespace {

constexpr std::string_view kMetaName = "meta";
constexpr std::string_view kMetaNewName = "meta.new";
constexpr uint64_t kWritebackBytes = 8 * kMiB;  // written in place before write-back is asked for
constexpr uint64_t kReadBlockPages = 256;

std::string safe_name(const std::string& name) {
    std::string safe;
    for (const char c : name.substr(0, 64)) {
        const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                          (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
        safe += good ? c : '_';
    }
    return safe;
}

std::string parent_of(const std::string& path) {
    const size_t slash = path.find_last_not_of('/') == std::string::npos
                             ? std::string::npos
                             : path.rfind('/', path.find_last_not_of('/'));
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : path.substr(0, slash);
}

bool all_zero(ByteSpan bytes) {
    return bytes.empty() || (bytes[0] == std::byte{0} &&
                             std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

bool ends_with_digits(std::string_view name, std::string_view prefix) {
    if (name.size() <= prefix.size() || name.substr(0, prefix.size()) != prefix) return false;
    return std::all_of(name.begin() + static_cast<std::ptrdiff_t>(prefix.size()), name.end(),
                       [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

// ---------------------------------------------------------------- files

std::string StagedVmImpl::region_file(const std::string& dir, const Meta& meta, size_t region) {
    const StagedRegion& spec = meta.spec.regions[region];
    const char* suffix = spec.kind == RegionKind::disk       ? ".img"
                         : spec.kind == RegionKind::main_ram ? ".ram"
                                                             : ".blk";
    const std::string number = (region < 10 ? "0" : "") + std::to_string(region);
    const std::string& folder = spec.kind == RegionKind::main_ram ? meta.ram_dir : dir;
    return folder + "/" + number + "-" + safe_name(spec.name) + suffix;
}

bool StagedVmImpl::is_region_file(const std::string& name) {
    const auto digit = [](char c) { return c >= '0' && c <= '9'; };
    return name.size() > 7 && digit(name[0]) && digit(name[1]) && name[2] == '-' &&
           (name.ends_with(".img") || name.ends_with(".ram") || name.ends_with(".blk"));
}

bool StagedVmImpl::is_point_file(const std::string& name) {
    return ends_with_digits(name, "log-") || ends_with_digits(name, "undo-") ||
           ends_with_digits(name, "state-") || name == kMetaNewName;
}

// Another one than the present.
uint64_t StagedVmImpl::next_copy_id(uint64_t nonce_seed, const Meta& meta) {
    Random mix(nonce_seed ^ meta.copy_id ^ (uint64_t{raw(meta.spec.vm)} << 32) ^ 0x636f7079);
    uint64_t id = mix.next();
    while (id == 0 || id == meta.copy_id) id = mix.next();
    return id;
}

Status StagedVmImpl::write_meta(Files& files, const std::string& dir, const Meta& meta) {
    const std::string fresh = dir + "/" + std::string(kMetaNewName);
    EVAC_TRY(files.remove(fresh));
    auto file = files.open(fresh, OpenMode::create_new);
    EVAC_TRY(file);
    EVAC_TRY((*file)->write_at(0, encode_meta(meta)));
    EVAC_TRY((*file)->sync());
    EVAC_TRY(files.rename(fresh, dir + "/" + std::string(kMetaName)));
    return files.sync_dir(dir);
}

Result<Meta> StagedVmImpl::read_meta(Files& files, const std::string& dir) {
    const std::string name = dir + "/" + std::string(kMetaName);
    auto exists = files.exists(name);
    EVAC_TRY(exists);
    if (!*exists) return make_error(Errc::not_found, "no staged VM in '" + dir + "'");
    auto file = files.open(name, OpenMode::existing);
    EVAC_TRY(file);
    Bytes bytes(kMetaBytesMax + 1);
    auto size = (*file)->read_at(0, bytes);
    EVAC_TRY(size);
    bytes.resize(*size);
    auto meta = decode_meta(bytes);
    if (!meta.ok()) return make_error(meta.error().code, "'" + name + "': " + meta.error().context);
    return meta;
}

Status StagedVmImpl::create_files(Files& files, const std::string& dir, const Meta& meta) {
    EVAC_TRY(files.make_dir(dir));
    EVAC_TRY(files.make_dir(meta.ram_dir));
    auto exists = files.exists(dir + "/" + std::string(kMetaName));
    EVAC_TRY(exists);
    if (*exists) return make_error(Errc::already_exists, "'" + dir + "' holds a staged VM already");
    EVAC_TRY(
        StagedVm::remove(files, dir, meta.ram_dir));  // what a create() that was cut short has left
    EVAC_TRY(files.make_dir(dir));
    EVAC_TRY(files.make_dir(meta.ram_dir));
    for (size_t i = 0; i < meta.spec.regions.size(); ++i) {
        auto file = files.open(region_file(dir, meta, i), OpenMode::create_new);
        EVAC_TRY(file);
        EVAC_TRY((*file)->truncate(meta.spec.regions[i].size_bytes));
        EVAC_TRY((*file)->sync());
    }
    EVAC_TRY(files.sync_dir(meta.ram_dir));
    EVAC_TRY(files.sync_dir(parent_of(dir)));
    EVAC_TRY(files.sync_dir(parent_of(meta.ram_dir)));
    return write_meta(files, dir, meta);
}

Result<std::unique_ptr<StagedVm>> StagedVm::create(Files& files, const std::string& dir,
                                                   const std::string& ram_dir,
                                                   const StagedSpec& spec,
                                                   const StagedOptions& options) {
    EVAC_TRY(check_spec(spec));
    if (dir.empty() || ram_dir.empty()) {
        return make_error(Errc::invalid_argument, "dir and ram_dir: a path is needed for each");
    }
    if (options.points_max == 0 || options.points_max > kPointsMax) {
        return make_error(Errc::invalid_argument,
                          "points_max " + std::to_string(options.points_max) + ": 1 to " +
                              std::to_string(kPointsMax) + " is accepted");
    }
    Meta meta;
    meta.spec = spec;
    meta.ram_dir = ram_dir;
    meta.copy_id = StagedVmImpl::next_copy_id(options.nonce_seed, meta);
    EVAC_TRY(StagedVmImpl::create_files(files, dir, meta));
    auto vm = std::make_unique<StagedVmImpl>(files, dir, std::move(meta), options);
    EVAC_TRY(vm->start());
    return std::unique_ptr<StagedVm>(std::move(vm));
}

Result<std::unique_ptr<StagedVm>> StagedVm::open(Files& files, const std::string& dir,
                                                 const StagedOptions& options) {
    auto meta = StagedVmImpl::read_meta(files, dir);
    EVAC_TRY(meta);
    auto vm = std::make_unique<StagedVmImpl>(files, dir, std::move(*meta), options);
    EVAC_TRY(vm->start());
    return std::unique_ptr<StagedVm>(std::move(vm));
}

Status StagedVm::remove(Files& files, const std::string& dir, const std::string& ram_dir) {
    // The metadata goes first and durably: half a VM must not be opened.
    auto exists = files.exists(dir + "/" + std::string(kMetaName));
    EVAC_TRY(exists);
    if (*exists) {
        EVAC_TRY(files.remove(dir + "/" + std::string(kMetaName)));
        EVAC_TRY(files.sync_dir(dir));
    }
    for (const std::string& folder : {dir, ram_dir}) {
        auto there = files.exists(folder);
        EVAC_TRY(there);
        if (!*there) continue;
        auto names = files.list(folder);
        EVAC_TRY(names);
        bool empty = true;
        for (const std::string& name : *names) {
            const bool ours =
                StagedVmImpl::is_region_file(name) || StagedVmImpl::is_point_file(name);
            empty = empty && ours;
            if (ours) EVAC_TRY(files.remove(folder + "/" + name));
        }
        if (empty && folder == ram_dir && ram_dir != dir) EVAC_TRY(files.remove_dir(folder));
    }
    auto there = files.exists(dir);
    EVAC_TRY(there);
    if (!*there) return {};
    auto left = files.list(dir);
    EVAC_TRY(left);
    return left->empty() ? files.remove_dir(dir) : Status{};
}

// ---------------------------------------------------------------- opening

StagedVmImpl::StagedVmImpl(Files& files, std::string dir, Meta meta, const StagedOptions& options)
    : files_(files),
      dir_(std::move(dir)),
      meta_(std::move(meta)),
      options_(options),
      points_(meta_.points) {
    log_generation_ = meta_.log_generation;
}

Status StagedVmImpl::start() {
    if (meta_.copy_id == 0) {  // of a build that had none; nobody refers to it yet
        meta_.copy_id = next_copy_id(options_.nonce_seed, meta_);
        EVAC_TRY(write_meta(files_, dir_, meta_));
    }
    for (size_t i = 0; i < meta_.spec.regions.size(); ++i) {
        const std::string name = region_file(dir_, meta_, i);
        const uint64_t expected = meta_.spec.regions[i].size_bytes;
        auto exists = files_.exists(name);
        EVAC_TRY(exists);
        if (!*exists) {
            return make_error(Errc::corrupt,
                              "region file '" + name +
                                  "' is lost (RAM on tmpfs does not outlive the "
                                  "machine); remove the staged VM and stage it again");
        }
        auto file = files_.open(name, OpenMode::existing);
        EVAC_TRY(file);
        auto size = (*file)->size();
        EVAC_TRY(size);
        if (*size != expected) {
            return make_error(Errc::corrupt, "region file '" + name + "' has " +
                                                 std::to_string(*size) + " bytes, expected " +
                                                 std::to_string(expected));
        }
        const uint64_t pages = page_count_of(expected);
        regions_.push_back(
            Region{std::move(*file), pages, EpochMap(points_.empty() ? pages : 0), UINT64_MAX, 0});
    }
    if (meta_.landed) return {};
    for (const MetaPoint& point : points_) {
        auto file = files_.open(undo_path(point.epoch), OpenMode::existing);
        if (!file.ok()) continue;
        auto size = (*file)->size();
        EVAC_TRY(size);
        undo_bytes_[point.epoch] = *size;
    }
    if (raw(meta_.restoring_to) != 0) EVAC_TRY(roll_back(meta_.restoring_to));
    EVAC_TRY(scan_logs());
    EVAC_TRY(checkpoint());
    return remove_unreferenced();
}

Status StagedVmImpl::scan_logs() {
    auto found = scan_log(log_generation_, delta_);
    EVAC_TRY(found);
    if (found->has_value() && (*found)->seal.has_value()) {
        EVAC_TRY(finish_sealed_log(**found));
        found = scan_log(log_generation_, delta_);
        EVAC_TRY(found);
        if (found->has_value() && (*found)->seal.has_value()) {
            return make_error(Errc::corrupt, "'" + dir_ + "': two sealed logs");
        }
    } else {
        auto next = files_.exists(log_path(log_generation_ + 1));
        EVAC_TRY(next);
        if (*next) {
            return make_error(Errc::corrupt, "'" + log_path(log_generation_) +
                                                 "' lacks its seal, but the next log exists");
        }
    }
    if (!found->has_value()) return {};
    log_ = std::move((*found)->file);
    log_nonce_ = (*found)->nonce;
    log_end_ = (*found)->end;
    log_entry_durable_ = false;
    return log_->truncate(log_end_);  // the torn tail
}

// nullopt: there is no log, or a crash left not even its header.
Result<std::optional<StagedVmImpl::LogFound>> StagedVmImpl::scan_log(uint64_t generation,
                                                                     OpenDelta& delta) {
    const std::optional<LogFound> none;
    const std::string name = log_path(generation);
    auto exists = files_.exists(name);
    EVAC_TRY(exists);
    if (!*exists) return std::optional<LogFound>{};
    auto file = files_.open(name, OpenMode::existing);
    EVAC_TRY(file);
    auto size = (*file)->size();
    EVAC_TRY(size);
    Bytes head(kLogHeaderBytes);
    auto head_bytes = (*file)->read_at(0, head);
    EVAC_TRY(head_bytes);
    if (*head_bytes < kLogHeaderBytes || all_zero(head)) {
        EVAC_TRY(files_.remove(name));
        return std::optional<LogFound>{};
    }
    auto header = decode_log_header(head);
    if (!header.ok() || header->kind != LogKind::log || header->vm != meta_.spec.vm ||
        header->number != generation) {
        return make_error(Errc::corrupt, "'" + name + "': damaged header");
    }
    LogFound found;
    found.nonce = header->nonce;
    LogScan scan(**file, header->nonce, *size);
    while (!found.seal.has_value()) {
        auto record = scan.next();
        EVAC_TRY(record);
        if (!record->has_value()) break;
        if ((*record)->type == RecordType::seal && (*record)->epoch > sealed_epoch()) {
            found.state.assign((*record)->payload.begin(), (*record)->payload.end());
            found.seal = **record;
            found.seal->payload = {};
            break;
        }
        EVAC_TRY(replay(**record, delta));
    }
    found.end = scan.offset();
    found.file = std::move(*file);
    return std::optional<LogFound>(std::move(found));
}

// The checksum was right, so a record that makes no sense was not torn: the file or this program is
// broken.
Status StagedVmImpl::replay(const LogRecord& record, OpenDelta& delta) const {
    const bool page = record.type == RecordType::page;
    const uint64_t count = page ? 1 : record.b;
    const bool good = (page || record.type == RecordType::zeros) && !in_place() &&
                      record.epoch > sealed_epoch() &&
                      check_range(record.region, record.a, count).ok();
    if (!good) {
        return make_error(Errc::corrupt, "'" + log_path(log_generation_) +
                                             "': impossible record at " +
                                             std::to_string(record.offset));
    }
    if (page) {
        (void)delta.put_page(record.region, record.a, record.epoch, record.offset);
    } else {
        delta.put_zeros(record.region, record.a, count, record.epoch, record.offset);
    }
    return {};
}

// ---------------------------------------------------------------- staging

std::string StagedVmImpl::region_path(RegionId region) const {
    EVAC_ASSERT(raw(region) < meta_.spec.regions.size());
    return region_file(dir_, meta_, raw(region));
}

StagedStats StagedVmImpl::stats() const {
    StagedStats stats = counters_;
    stats.open_pages = delta_.pages();
    stats.open_zero_runs = delta_.zero_runs();
    stats.log_bytes = log_end_ + sealed_log_bytes_;
    for (const auto& [epoch, bytes] : undo_bytes_) stats.undo_bytes += bytes;
    return stats;
}

Status StagedVmImpl::usable(Access access) const {
    if (failed_) {
        return make_error(Errc::refused, "staged VM '" + meta_.spec.name +
                                             "': an earlier I/O error left it unfinished; "
                                             "open it again");
    }
    if (access == Access::change && meta_.landed) {
        return make_error(Errc::refused, "staged VM '" + meta_.spec.name +
                                             "' has landed: its files belong to QEMU");
    }
    return {};
}

Status StagedVmImpl::check_range(RegionId region, uint64_t first, uint64_t count) const {
    if (raw(region) >= regions_.size()) {
        return make_error(Errc::invalid_argument, "region " + std::to_string(raw(region)) +
                                                      ": there are " +
                                                      std::to_string(regions_.size()));
    }
    const uint64_t pages = regions_[raw(region)].page_count;
    if (count == 0 || first >= pages || count > pages - first) {
        return make_error(Errc::invalid_argument, "region " + std::to_string(raw(region)) +
                                                      ": pages " + std::to_string(first) + " + " +
                                                      std::to_string(count) + ", it has " +
                                                      std::to_string(pages));
    }
    return {};
}

// Less than kPageBytes for the last page of a region of odd size.
uint64_t StagedVmImpl::bytes_of_page(size_t region, uint64_t page) const {
    return std::min<uint64_t>(kPageBytes,
                              meta_.spec.regions[region].size_bytes - page * kPageBytes);
}

Status StagedVmImpl::room_in_delta(uint64_t entries, uint64_t log_bytes) const {
    if (delta_.entries() + entries > options_.delta_entries_max) {
        return make_error(Errc::unavailable,
                          "open delta of '" + meta_.spec.name + "': at its limit of " +
                              std::to_string(options_.delta_entries_max) + " entries");
    }
    if (log_end_ + sealed_log_bytes_ + log_bytes > options_.log_bytes_max) {
        return make_error(Errc::unavailable,
                          "open delta of '" + meta_.spec.name + "': at its limit of " +
                              std::to_string(options_.log_bytes_max) + " log bytes");
    }
    return {};
}

uint64_t StagedVmImpl::make_nonce(LogKind kind, uint64_t number) const {
    Random mix(options_.nonce_seed ^ (uint64_t{raw(meta_.spec.vm)} << 32) ^ (number << 1) ^
               static_cast<uint64_t>(kind));
    mix.next();
    return mix.next();
}

Status StagedVmImpl::need_log() {
    if (log_ != nullptr) return {};
    EVAC_TRY(files_.remove(log_path(log_generation_)));  // of an attempt that failed half-way
    auto file = files_.open(log_path(log_generation_), OpenMode::create_new);
    EVAC_TRY(file);
    const LogHeader header{LogKind::log, meta_.spec.vm, log_generation_,
                           make_nonce(LogKind::log, log_generation_)};
    EVAC_TRY((*file)->write_at(0, encode_log_header(header)));
    log_ = std::move(*file);
    log_nonce_ = header.nonce;
    log_end_ = kLogHeaderBytes;
    log_entry_durable_ = false;
    return {};
}

// On an error nothing was appended.
Status StagedVmImpl::append(LogRecord record) {
    record.offset = log_end_;
    const Bytes head = encode_record_head(record, log_nonce_);
    const Status written = log_->write_at(log_end_, head, record.payload);
    if (!written.ok()) {
        (void)log_->truncate(log_end_);  // a hint only: what is torn does not pass its checksum
        return written;
    }
    log_end_ += head.size() + record.payload.size();
    return {};
}

void StagedVmImpl::want_writeback(size_t region, uint64_t offset, uint64_t size) {
    Region& file = regions_[region];
    file.writeback_begin = std::min(file.writeback_begin, offset);
    file.writeback_end = std::max(file.writeback_end, offset + size);
    counters_.staged_bytes += size;
    if (counters_.staged_bytes / kWritebackBytes ==
        (counters_.staged_bytes - size) / kWritebackBytes)
        return;
    file.file->start_writeback(file.writeback_begin, file.writeback_end - file.writeback_begin);
    file.writeback_begin = UINT64_MAX;
    file.writeback_end = 0;
}

Status StagedVmImpl::write_in_place(size_t region, uint64_t page, ByteSpan bytes) {
    const uint64_t offset = page * kPageBytes;
    EVAC_TRY(regions_[region].file->write_at(offset, bytes.first(bytes_of_page(region, page))));
    want_writeback(region, offset, bytes.size());
    return {};
}

bool StagedVmImpl::superseded(RegionId region, uint64_t page, Epoch epoch) const {
    if (!check_range(region, page, 1).ok()) return false;
    if (epoch <= sealed_epoch()) return true;
    return in_place() ? !regions_[raw(region)].epochs.may_put(page, epoch)
                      : !delta_.is_newest(region, page, epoch);
}

Result<PutOutcome> StagedVmImpl::put(RegionId region, uint64_t page, Epoch epoch, ByteSpan bytes) {
    EVAC_TRY(usable(Access::change));
    EVAC_TRY(check_range(region, page, 1));
    if (bytes.size() != kPageBytes || raw(epoch) == 0 ||
        !all_zero(bytes.subspan(bytes_of_page(raw(region), page)))) {
        return make_error(Errc::invalid_argument,
                          "put: a page is 4096 bytes, zero behind the region's end, of epoch 1 "
                          "or later");
    }
    ++counters_.puts;
    Region& target = regions_[raw(region)];
    if (superseded(region, page, epoch)) {
        ++counters_.stale_puts;
        return PutOutcome::stale;
    }
    if (in_place()) {
        EVAC_TRY(write_in_place(raw(region), page, bytes));
        target.epochs.set(page, epoch);
        newest_put_ = std::max(newest_put_, epoch);
        return PutOutcome::kept;
    }
    EVAC_TRY(room_in_delta(1, kPageRecordBytes));
    EVAC_TRY(need_log());
    const uint64_t offset = log_end_;
    EVAC_TRY(append(
        {.type = RecordType::page, .region = region, .epoch = epoch, .a = page, .payload = bytes}));
    (void)delta_.put_page(region, page, epoch, offset);
    counters_.staged_bytes += kPageBytes;
    return PutOutcome::kept;
}

Result<PutOutcome> StagedVmImpl::put_zero(RegionId region, uint64_t first, uint64_t count,
                                          Epoch epoch) {
    EVAC_TRY(usable(Access::change));
    EVAC_TRY(check_range(region, first, count));
    if (raw(epoch) == 0) return make_error(Errc::invalid_argument, "put_zero: of epoch 1 or later");
    ++counters_.zero_puts;
    const bool one_is_stale =
        count == 1 && (in_place() ? !regions_[raw(region)].epochs.may_put(first, epoch)
                                  : !delta_.is_newest(region, first, epoch));
    if (epoch <= sealed_epoch() || one_is_stale) {
        ++counters_.stale_puts;
        return PutOutcome::stale;
    }
    if (in_place()) {
        const Status punched = regions_[raw(region)].epochs.set_run(
            first, count, epoch,
            [&](uint64_t from, uint64_t pages) { return punch_pages(region, from, pages); });
        EVAC_TRY(punched);
        newest_put_ = std::max(newest_put_, epoch);
        return PutOutcome::kept;
    }
    EVAC_TRY(room_in_delta(OpenDelta::entries_for_zeros(count), kRecordHeaderBytes));
    EVAC_TRY(need_log());
    const uint64_t offset = log_end_;
    EVAC_TRY(append(
        {.type = RecordType::zeros, .region = region, .epoch = epoch, .a = first, .b = count}));
    delta_.put_zeros(region, first, count, epoch, offset);
    return PutOutcome::kept;
}

Status StagedVmImpl::read(RegionId region, uint64_t page, std::span<std::byte, kPageBytes> out) {
    EVAC_TRY(usable(Access::read));
    EVAC_TRY(check_range(region, page, 1));
    const OpenDelta::Found found = delta_.find(region, page);
    std::fill(out.begin(), out.end(), std::byte{0});
    if (found.kind == OpenDelta::Kind::zero) return {};
    const bool logged = found.kind == OpenDelta::Kind::logged;
    const uint64_t size = logged ? kPageBytes : bytes_of_page(raw(region), page);
    auto got = logged ? log_->read_at(found.offset + kRecordHeaderBytes, out)
                      : regions_[raw(region)].file->read_at(page * kPageBytes, out.first(size));
    EVAC_TRY(got);
    if (*got != size)
        return make_error(Errc::corrupt, "'" + region_path(region) + "' or its log was shortened");
    return {};
}

Result<std::vector<Fingerprint>> StagedVmImpl::fingerprints(RegionId region, uint64_t first,
                                                            uint64_t count,
                                                            const PageHasher& hasher) {
    EVAC_TRY(usable(Access::read));
    EVAC_TRY(check_range(region, first, count));
    if (count > kFingerprintsPerCallMax) {
        return make_error(Errc::invalid_argument, "fingerprints: at most " +
                                                      std::to_string(kFingerprintsPerCallMax) +
                                                      " pages per call are accepted");
    }
    File& file = *regions_[raw(region)].file;
    Bytes block(kReadBlockPages * kPageBytes);
    const Fingerprint zero = hasher(ByteSpan(block).first(kPageBytes));
    std::vector<Fingerprint> result(count, zero);
    uint64_t page = first;
    while (page < first + count) {
        auto data = file.next_data(page * kPageBytes);
        EVAC_TRY(data);
        if (!data->has_value()) break;
        page = std::max(page, (*data)->begin / kPageBytes);
        if (page >= first + count) break;
        const uint64_t data_end = page_count_of((*data)->end);
        const uint64_t pages = std::min({kReadBlockPages, first + count - page, data_end - page});
        std::fill(block.begin(), block.end(), std::byte{0});
        auto got = file.read_at(page * kPageBytes, std::span(block).first(pages * kPageBytes));
        EVAC_TRY(got);
        for (uint64_t i = 0; i < pages; ++i) {
            result[page - first + i] = hasher(ByteSpan(block).subspan(i * kPageBytes, kPageBytes));
        }
        page += pages;
    }
    if (delta_.empty()) return result;
    for (uint64_t i = 0; i < count; ++i) {
        const OpenDelta::Found found = delta_.find(region, first + i);
        if (found.kind == OpenDelta::Kind::none) continue;
        const std::span<std::byte, kPageBytes> one = std::span(block).first<kPageBytes>();
        if (found.kind == OpenDelta::Kind::logged) EVAC_TRY(read(region, first + i, one));
        result[i] = found.kind == OpenDelta::Kind::zero ? zero : hasher(one);
    }
    return result;
}

}  // namespace evac::storage_sync
