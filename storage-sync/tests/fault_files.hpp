#pragma once
// Files in memory, with crashes. What it models:
//   process crash  everything that was written stays; the operation in progress may be half done
//   power loss     of what was not synced, any subset survives; a write may be torn at 512 bytes.
//   Names (create,
//                  rename, remove) that were not synced survive up to any point in their order, as
//                  on a journaling file system.
//   I/O error      one operation fails, half done or not at all, and the program goes on
// Not modelled (not survivable): a sync that lies, bits that rot, two processes on one VM.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include "evac/core/random.hpp"
#include "evac/core/units.hpp"
#include "evac/storage_sync/files.hpp"

namespace evac::storage_sync::testing {

class FaultFiles final : public Files {
  public:
    explicit FaultFiles(uint64_t seed) : random_(seed) {}

    // --- faults
    uint64_t operations() const { return operations_; }
    void crash_at(uint64_t operation) { crash_at_ = operation; }
    void fail_at(uint64_t operation) { fail_at_ = operation; }
    bool crashed() const { return crashed_; }
    bool lying_sync = false;

    void process_restarts() { crashed_ = false, crash_at_ = 0; }
    void power_returns() {
        process_restarts();
        const size_t survivors = random_.below(pending_names_.size() + 1);
        for (size_t i = 0; i < survivors; ++i) apply(durable_names_, pending_names_[i]);
        pending_names_.clear();
        names_ = durable_names_;
        for (auto& [name, inode] : names_) {
            for (const Change& change : inode->pending) {
                if (random_.chance(0.5)) torn(inode->durable, change);
            }
            inode->pending.clear();
            inode->now = inode->durable;
        }
    }

    // --- looking in
    Bytes content(const std::string& path) const { return names_.at(path)->now; }
    void corrupt_byte(const std::string& path, size_t at) {
        names_.at(path)->now.at(at) ^= std::byte{0x40};
    }
    void set_content(const std::string& path, Bytes bytes) {
        names_[path] = std::make_shared<Inode>();
        durable_names_[path] = names_[path];
        names_[path]->now = names_[path]->durable = std::move(bytes);
    }
    std::vector<std::string> all_names() const {
        std::vector<std::string> all;
        for (const auto& [name, inode] : names_) all.push_back(name);
        return all;
    }

    // --- Files
    Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) override {
        if (mode == OpenMode::create_new) {
            if (names_.contains(path)) return io_error("open '" + path + "'", EEXIST);
            EVAC_TRY(step());
            change_name({path, std::make_shared<Inode>()});
        }
        if (crashed_) return dead();
        if (!names_.contains(path)) return io_error("open '" + path + "'", ENOENT);
        return std::unique_ptr<File>(std::make_unique<Handle>(*this, names_.at(path)));
    }
    Status make_dir(const std::string&) override { return crashed_ ? Status(dead()) : Status{}; }
    Status remove_dir(const std::string&) override { return crashed_ ? Status(dead()) : Status{}; }
    Status rename(const std::string& from, const std::string& to) override {
        EVAC_TRY(step());
        if (!names_.contains(from)) return io_error("rename '" + from + "'", ENOENT);
        change_name({to, names_.at(from), from});
        return {};
    }
    Status remove(const std::string& path) override {
        if (crashed_) return dead();
        if (!names_.contains(path)) return {};
        EVAC_TRY(step());
        change_name({path, nullptr});
        return {};
    }
    // Names of all folders are one journal here: syncing one syncs all before.
    Status sync_dir(const std::string&) override {
        EVAC_TRY(step());
        if (lying_sync) return {};
        for (const NameChange& change : pending_names_) apply(durable_names_, change);
        pending_names_.clear();
        return {};
    }
    Result<std::vector<std::string>> list(const std::string& dir) override {
        if (crashed_) return dead();
        std::vector<std::string> found;
        for (const auto& [name, inode] : names_) {
            if (name.rfind(dir + "/", 0) == 0 &&
                name.find('/', dir.size() + 1) == std::string::npos) {
                found.push_back(name.substr(dir.size() + 1));
            }
        }
        return found;
    }
    Result<bool> exists(const std::string& path) override {
        if (crashed_) return dead();
        if (names_.contains(path)) return true;
        return std::any_of(names_.begin(), names_.end(),
                           [&](const auto& n) { return n.first.rfind(path + "/", 0) == 0; });
    }

  private:
    struct Change {
        uint64_t offset = 0;
        Bytes bytes;
        bool truncate = false;  // to `offset`
    };
    struct Inode {
        Bytes now;
        Bytes durable;
        std::vector<Change> pending;
    };
    using Names = std::map<std::string, std::shared_ptr<Inode>>;
    struct NameChange {
        std::string name;
        std::shared_ptr<Inode> inode;  // null = removed
        std::string old_name{};        // of a rename
    };

    static Error dead() { return io_error("crashed", EIO); }

    // Counts a changing operation; the one that crashes or fails is told so.
    Status step() {
        if (crashed_) return dead();
        ++operations_;
        if (operations_ == crash_at_) crashed_ = true;
        if (operations_ == crash_at_ || operations_ == fail_at_)
            return io_error("injected", ENOSPC);
        return {};
    }
    static void apply(Names& names, const NameChange& change) {
        if (!change.old_name.empty()) names.erase(change.old_name);
        if (change.inode == nullptr)
            names.erase(change.name);
        else
            names[change.name] = change.inode;
    }
    void change_name(NameChange change) {
        apply(names_, change);
        pending_names_.push_back(std::move(change));
    }
    static void apply(Bytes& bytes, const Change& change) {
        if (change.truncate) {
            bytes.resize(change.offset);
            return;
        }
        if (bytes.size() < change.offset + change.bytes.size())
            bytes.resize(change.offset + change.bytes.size());
        std::copy(change.bytes.begin(), change.bytes.end(),
                  bytes.begin() + std::ptrdiff_t(change.offset));
    }
    // Some of its sectors.
    void torn(Bytes& bytes, const Change& change) {
        if (change.truncate || random_.chance(0.6)) return apply(bytes, change);
        for (uint64_t at = 0; at < change.bytes.size();) {
            const uint64_t sector_end = ((change.offset + at) / 512 + 1) * 512 - change.offset;
            const uint64_t end = std::min<uint64_t>(sector_end, change.bytes.size());
            const auto begin = change.bytes.begin();
            if (random_.chance(0.5)) {
                apply(bytes, {change.offset + at,
                              Bytes(begin + std::ptrdiff_t(at), begin + std::ptrdiff_t(end))});
            }
            at = end;
        }
    }

    class Handle final : public File {
      public:
        Handle(FaultFiles& files, std::shared_ptr<Inode> inode)
            : files_(files), inode_(std::move(inode)) {}

        Result<size_t> read_at(uint64_t offset, std::span<std::byte> out) override {
            if (files_.crashed_) return dead();
            if (offset >= inode_->now.size()) return size_t{0};
            const size_t size = std::min<size_t>(out.size(), inode_->now.size() - offset);
            std::copy_n(inode_->now.begin() + std::ptrdiff_t(offset), size, out.begin());
            return size;
        }
        Status write_at(uint64_t offset, ByteSpan a, ByteSpan b) override {
            Change change{offset, Bytes(a.begin(), a.end())};
            change.bytes.insert(change.bytes.end(), b.begin(), b.end());
            const bool was_dead = files_.crashed_;
            Status status = files_.step();
            if (!status.ok() && !was_dead)
                change.bytes.resize(files_.random_.below(change.bytes.size() + 1));
            if (status.ok() || !was_dead) record(std::move(change));
            return status;
        }
        Status punch(uint64_t offset, uint64_t size) override {
            EVAC_TRY(files_.step());
            record({offset, Bytes(std::min<uint64_t>(size, inode_->now.size() - offset))});
            return {};
        }
        Status reserve(uint64_t, uint64_t) override { return files_.step(); }
        Status truncate(uint64_t size) override {
            EVAC_TRY(files_.step());
            record({size, {}, true});
            return {};
        }
        Status sync() override {
            EVAC_TRY(files_.step());
            if (files_.lying_sync) return {};
            inode_->durable = inode_->now;
            inode_->pending.clear();
            return {};
        }
        void start_writeback(uint64_t, uint64_t) override {}
        Result<uint64_t> size() override {
            if (files_.crashed_) return dead();
            return uint64_t{inode_->now.size()};
        }
        Result<std::optional<ByteRange>> next_data(uint64_t offset) override {
            if (files_.crashed_) return dead();
            const auto is_data = [this](uint64_t at) {
                const size_t end =
                    std::min<size_t>(at / kPageBytes * kPageBytes + kPageBytes, inode_->now.size());
                const std::byte* page = inode_->now.data() + at / kPageBytes * kPageBytes;
                const size_t bytes = end - at / kPageBytes * kPageBytes;
                return page[0] != std::byte{0} || std::memcmp(page, page + 1, bytes - 1) != 0;
            };
            const uint64_t size = inode_->now.size();
            while (offset < size && !is_data(offset))
                offset = (offset / kPageBytes + 1) * kPageBytes;
            if (offset >= size) return std::optional<ByteRange>{};
            ByteRange range{offset, offset};
            while (range.end < size && is_data(range.end))
                range.end = (range.end / kPageBytes + 1) * kPageBytes;
            range.end = std::min(range.end, size);
            return std::optional<ByteRange>{range};
        }

      private:
        void record(Change change) {
            apply(inode_->now, change);
            inode_->pending.push_back(std::move(change));
        }
        FaultFiles& files_;
        std::shared_ptr<Inode> inode_;
    };

    Random random_;
    Names names_;
    Names durable_names_;
    std::vector<NameChange> pending_names_;
    uint64_t operations_ = 0;
    uint64_t crash_at_ = 0;
    uint64_t fail_at_ = 0;
    bool crashed_ = false;
};

}  // namespace evac::storage_sync::testing
