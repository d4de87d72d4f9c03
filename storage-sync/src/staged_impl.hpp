#pragma once
// StagedVm's insides; see staged_vm.hpp for the contract and staged_format.hpp for the files.
//
// Order of a seal, which every crash argument rests on:
//   1 finish the former point (checkpoint)        2 undo-E and state-E written; room in the region
//   files reserved 3 SEAL record written, log synced: COMMITTED  4 region files written (not
//   synced)
// and of a checkpoint, some time later:
//   5 region files, undo-E, state-E synced        6 meta replaced (point E, next log): then log-G
//   is deleted
// open() finds meta before 6 and a sealed log: it does 4 to 6 again (idempotent: the log alone
// decides).
#include <map>
#include <set>

#include "epoch_map.hpp"
#include "open_delta.hpp"
#include "staged_format.hpp"

namespace evac::storage_sync {

class StagedVmImpl final : public StagedVm {
  public:
    StagedVmImpl(Files& files, std::string dir, Meta meta, const StagedOptions& options);

    static Status create_files(Files& files, const std::string& dir, const Meta& meta);
    static Status write_meta(Files& files, const std::string& dir, const Meta& meta);
    static Result<Meta> read_meta(Files& files, const std::string& dir);
    static std::string region_file(const std::string& dir, const Meta& meta, size_t region);
    static uint64_t next_copy_id(uint64_t nonce_seed, const Meta& meta);
    static bool is_region_file(const std::string& name);
    static bool is_point_file(const std::string& name);  // log-, undo-, state-, meta.new
    Status start();                                      // after create and open

    const StagedSpec& spec() const override { return meta_.spec; }
    std::string region_path(RegionId region) const override;
    StagedStats stats() const override;
    Result<PutOutcome> put(RegionId region, uint64_t page, Epoch epoch, ByteSpan bytes) override;
    bool superseded(RegionId region, uint64_t page, Epoch epoch) const override;
    Result<PutOutcome> put_zero(RegionId region, uint64_t first, uint64_t count,
                                Epoch epoch) override;
    Status read(RegionId region, uint64_t page, std::span<std::byte, kPageBytes> out) override;
    Result<std::vector<Fingerprint>> fingerprints(RegionId region, uint64_t first, uint64_t count,
                                                  const PageHasher& hasher) override;
    Status seal(Epoch epoch, ByteSpan device_state, const SealManifest& manifest) override;
    Status checkpoint() override;
    Status discard_open_delta() override;
    std::vector<RecoveryPoint> points() const override;
    Epoch sealed_epoch() const override {
        return points_.empty() ? Epoch{0} : points_.back().epoch;
    }
    uint64_t copy_id() const override { return meta_.copy_id; }
    Result<Bytes> device_state(Epoch epoch) override;
    Status restore_point(Epoch epoch) override;
    void set_hold(bool held) override { held_ = held; }
    Status mark_landed() override;
    bool landed() const override { return meta_.landed; }
    Status unmark_landed() override;

  private:
    struct Region {
        std::unique_ptr<File> file;
        uint64_t page_count = 0;
        EpochMap epochs;  // used before the first seal
        uint64_t writeback_begin = UINT64_MAX;
        uint64_t writeback_end = 0;
    };
    enum class Access : uint8_t { read, change };

    std::string path(const std::string& name) const { return dir_ + "/" + name; }
    std::string log_path(uint64_t generation) const {
        return path("log-" + std::to_string(generation));
    }
    std::string undo_path(Epoch epoch) const { return path("undo-" + std::to_string(raw(epoch))); }
    std::string state_path(Epoch epoch) const {
        return path("state-" + std::to_string(raw(epoch)));
    }
    const std::string& region_dir(size_t region) const;
    bool in_place() const { return points_.empty(); }
    Status usable(Access access) const;
    Status check_range(RegionId region, uint64_t first, uint64_t count) const;
    uint64_t bytes_of_page(size_t region, uint64_t page) const;
    Status failed(Status status) {
        if (!status.ok()) failed_ = true;
        return status;
    }

    // log
    uint64_t make_nonce(LogKind kind, uint64_t number) const;
    uint64_t undo_nonce(uint64_t log_nonce, uint64_t seal_offset) const;
    Status need_log();
    Status append(LogRecord record);
    Status scan_logs();
    struct LogFound {
        std::unique_ptr<File> file;
        uint64_t nonce = 0;
        uint64_t end = 0;
        std::optional<LogRecord> seal;
        Bytes state;
    };
    Result<std::optional<LogFound>> scan_log(uint64_t generation, OpenDelta& delta);
    Status replay(const LogRecord& record, OpenDelta& delta) const;
    Status room_in_delta(uint64_t entries, uint64_t log_bytes) const;

    // staging in place
    Status write_in_place(size_t region, uint64_t page, ByteSpan bytes);
    void want_writeback(size_t region, uint64_t offset, uint64_t size);

    // seal
    Status check_seal(Epoch epoch, ByteSpan device_state) const;
    Status write_state(Epoch epoch, ByteSpan device_state);
    Status write_undo(Epoch epoch, const std::vector<OpenDelta::Page>& pages);
    Status reserve_room(const std::vector<OpenDelta::Page>& pages);
    Status apply(const std::vector<OpenDelta::Page>& pages);
    Status write_pages(const std::vector<OpenDelta::Page>& pages, size_t begin, size_t end,
                       Bytes& buffer);
    Status punch_pages(RegionId region, uint64_t first, uint64_t count);
    void add_point(const LogRecord& seal, ByteSpan device_state, bool undo_is_there);
    Status finish_sealed_log(LogFound& found);
    Status sync_regions(bool with_ram);
    Status sync_file(const std::string& path);
    // `nonce`: expected; nullopt = any.
    Result<bool> undo_is_whole(Epoch epoch, std::optional<uint64_t> nonce);
    Status remove_unreferenced();
    Meta current_meta() const;
    Status save_meta(const Meta& meta);
    Status roll_back(Epoch epoch);
    Status apply_undo(Epoch epoch);
    void forget_open_delta();
    void close_sealed_log();

    Files& files_;
    const std::string dir_;
    Meta meta_;  // as on disk
    const StagedOptions options_;
    std::vector<Region> regions_;

    std::vector<MetaPoint>
        points_;  // as visible: may be ahead of meta_ by one point until the checkpoint
    std::map<Epoch, uint64_t> undo_bytes_;  // of the undo files that exist
    bool checkpoint_pending_ = false;

    std::unique_ptr<File> log_;  // open delta; null until the first record
    uint64_t log_generation_ = 1;
    uint64_t log_nonce_ = 0;
    uint64_t log_end_ = 0;
    bool log_entry_durable_ = false;  // its name in the folder
    uint64_t sealed_log_bytes_ = 0;
    OpenDelta delta_;
    Epoch newest_put_{};  // while in place, where delta_ is not used

    bool failed_ = false;
    bool held_ = false;
    StagedStats counters_;
};

}  // namespace evac::storage_sync
