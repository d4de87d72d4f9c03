#include "placement.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace evac::planner {
namespace {

constexpr uint64_t kRepairLooksMax = 20'000'000;  // pairs looked at; below a second

class Packer {
  public:
    Packer(const Inventory& inventory, std::span<const uint32_t> wanted,
           std::span<const int32_t> fixed)
        : inventory_(inventory), host_of_(inventory.vms.size(), kNoHost) {
        for (const AwayHost& host : inventory.away_hosts) free_.push_back(host.memory_mib);
        for (uint32_t vm = 0; vm < fixed.size(); ++vm) {
            if (fixed[vm] != kNoHost) put(vm, fixed[vm]);
        }
        for (const uint32_t vm : wanted) {
            if (host_of_[vm] == kNoHost) open_.push_back(vm);
        }
        by_room_.resize(free_.size());
        std::iota(by_room_.begin(), by_room_.end(), 0);
        std::stable_sort(by_room_.begin(), by_room_.end(),
                         [this](int32_t a, int32_t b) { return free_[at(a)] > free_[at(b)]; });
    }

    std::vector<int32_t> run() {
        sort_open([this](uint32_t vm) { return -need(vm); });
        if (first_fit()) return host_of_;
        for (const uint32_t vm : open_) take_out(vm);
        sort_open([this](uint32_t vm) { return -weight(vm) / need(vm); });
        for (const uint32_t vm : open_) best_fit(vm);
        while (repair() && looks_ < kRepairLooksMax) {
        }
        return host_of_;
    }

  private:
    static size_t at(int32_t host) { return static_cast<size_t>(host); }
    double need(uint32_t vm) const { return inventory_.vms[vm].memory_mib; }
    double weight(uint32_t vm) const { return inventory_.vms[vm].priority; }
    void put(uint32_t vm, int32_t host) {
        host_of_[vm] = host;
        free_[at(host)] -= need(vm);
    }
    void take_out(uint32_t vm) {
        if (host_of_[vm] == kNoHost) return;
        free_[at(host_of_[vm])] += need(vm);
        host_of_[vm] = kNoHost;
    }
    template <class Key>
    void sort_open(Key key) {
        std::sort(open_.begin(), open_.end(), [&](uint32_t a, uint32_t b) {
            if (key(a) != key(b)) return key(a) < key(b);
            if (weight(a) != weight(b)) return weight(a) > weight(b);
            return inventory_.vms[a].name < inventory_.vms[b].name;
        });
    }

    bool first_fit() {
        bool all = true;
        for (const uint32_t vm : open_) {
            const auto host = std::find_if(by_room_.begin(), by_room_.end(),
                                           [&](int32_t h) { return free_[at(h)] >= need(vm); });
            if (host == by_room_.end())
                all = false;
            else
                put(vm, *host);
        }
        return all;
    }

    // The host with least room that is enough; not `but`.
    int32_t tightest(double need_mib, int32_t but = kNoHost) const {
        int32_t best = kNoHost;
        for (const int32_t host : by_room_) {
            if (host == but || free_[at(host)] < need_mib) continue;
            if (best == kNoHost || free_[at(host)] < free_[at(best)]) best = host;
        }
        return best;
    }
    bool best_fit(uint32_t vm) {
        const int32_t host = tightest(need(vm));
        if (host != kNoHost) put(vm, host);
        return host != kNoHost;
    }

    // Heaviest first; true when somebody came in.
    bool repair() {
        bool any = false;
        std::vector<uint32_t> out;
        for (const uint32_t vm : open_) {
            if (host_of_[vm] == kNoHost) out.push_back(vm);
        }
        std::stable_sort(out.begin(), out.end(),
                         [this](uint32_t a, uint32_t b) { return weight(a) > weight(b); });
        for (const uint32_t vm : out) {
            if (best_fit(vm) || by_moving(vm) || in_place_of(vm)) any = true;
            if (looks_ >= kRepairLooksMax) break;
        }
        return any;
    }
    bool by_moving(uint32_t vm) {
        for (const uint32_t other : open_) {
            const int32_t host = host_of_[other];
            ++looks_;
            if (host == kNoHost || free_[at(host)] + need(other) < need(vm)) continue;
            const int32_t next = tightest(need(other), host);
            looks_ += by_room_.size();
            if (next == kNoHost) continue;
            take_out(other);
            put(other, next);
            put(vm, host);
            return true;
        }
        return false;
    }
    // The lightest that makes room goes out.
    bool in_place_of(uint32_t vm) {
        const uint32_t* lightest = nullptr;
        for (const uint32_t& other : open_) {
            const int32_t host = host_of_[other];
            ++looks_;
            if (host == kNoHost || weight(other) >= weight(vm)) continue;
            if (free_[at(host)] + need(other) < need(vm)) continue;
            if (lightest == nullptr || weight(other) < weight(*lightest)) lightest = &other;
        }
        if (lightest == nullptr) return false;
        const int32_t host = host_of_[*lightest];
        take_out(*lightest);
        put(vm, host);
        return true;
    }

    const Inventory& inventory_;
    std::vector<int32_t> host_of_;
    std::vector<double> free_;
    std::vector<int32_t> by_room_;  // hosts, largest first
    std::vector<uint32_t> open_;
    uint64_t looks_ = 0;
};

}  // namespace

std::vector<int32_t> place_at_away(const Inventory& inventory, std::span<const uint32_t> wanted,
                                   std::span<const int32_t> fixed) {
    return Packer(inventory, wanted, fixed).run();
}

}  // namespace evac::planner
