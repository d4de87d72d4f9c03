#include <algorithm>

#include "evac/evacuation/journal_file.hpp"

namespace evac::evacuation {

Result<Bytes> MemoryJournalFile::read_all(size_t size_max) {
    if (content_.size() > size_max) {
        return make_error(Errc::refused, "journal: " + std::to_string(content_.size()) +
                                             " bytes, at most " + std::to_string(size_max) +
                                             " are read");
    }
    return content_;
}

Status MemoryJournalFile::append(ByteSpan bytes) {
    content_.insert(content_.end(), bytes.begin(), bytes.end());
    return {};
}

Status MemoryJournalFile::sync() {
    synced_bytes_ = content_.size();
    ++syncs_;
    return {};
}

Status MemoryJournalFile::truncate(uint64_t size) {
    if (size > content_.size())
        return make_error(Errc::invalid_argument, "journal: truncate would grow it");
    content_.resize(size);
    synced_bytes_ = size;
    return {};
}

Status MemoryJournalFile::replace(ByteSpan bytes) {
    content_.assign(bytes.begin(), bytes.end());
    synced_bytes_ = content_.size();
    return {};
}

// Half of the time the tail is simply gone; else a prefix of it is there, and what follows may be
// garbage (blocks reach the disk in any order) or zeros (the size grew before the data).
void MemoryJournalFile::crash(Random& random) {
    synced_bytes_ = std::min(synced_bytes_, content_.size());
    const size_t tail = content_.size() - synced_bytes_;
    if (tail == 0) return;
    const size_t kept = random.chance(0.5) ? 0 : random.below(tail + 1);
    const uint64_t rest = random.below(3);
    if (rest == 0) {
        content_.resize(synced_bytes_ + kept);
    } else {
        for (size_t i = synced_bytes_ + kept; i < content_.size(); ++i) {
            content_[i] = rest == 1 ? std::byte{0} : static_cast<std::byte>(random.below(256));
        }
    }
    synced_bytes_ = content_.size();
}

}  // namespace evac::evacuation
