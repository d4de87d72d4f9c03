// StagedVm against a plain model, with a crash or an error at every file operation (see
// fault_files.hpp for what is modelled). Safety first: after each fault the recovery point is whole
// and is the old or the new one. Then liveness: staging goes on, and the next seal holds exactly
// what the model holds.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <map>
#include <optional>

#include "evac/storage_sync/staged_vm.hpp"
#include "fault_files.hpp"

namespace evac::storage_sync {
namespace {

using testing::FaultFiles;

const StagedSpec kSpec{"vm-a",
                       VmId{7},
                       {{RegionKind::main_ram, "pc.ram", 40 * kPageBytes},
                        {RegionKind::small_ram, "0000:00:01.0/vga.vram", 3 * kPageBytes},
                        {RegionKind::disk, "vd0", 20 * kPageBytes + 512}}};
constexpr std::array<uint64_t, 3> kPages = {40, 3, 21};
constexpr StagedOptions kOptions{.nonce_seed = 99};

// A page's content is a number: 0 = zeros.
using Image = std::array<std::vector<uint32_t>, 3>;
Image zero_image() {
    return {std::vector<uint32_t>(40), std::vector<uint32_t>(3), std::vector<uint32_t>(21)};
}

// The number in every word, so that each sector of a torn page tells where it is from.
Bytes page_bytes(uint16_t region, uint64_t page, uint32_t content) {
    Bytes bytes(kPageBytes);
    const size_t size = region == 2 && page == 20 ? 512 : kPageBytes;
    std::fill_n(reinterpret_cast<uint32_t*>(bytes.data()), size / 4, content);
    return bytes;
}
// UINT32_MAX: none that was ever put.
uint32_t content_of(uint16_t region, uint64_t page, ByteSpan bytes) {
    uint32_t content = 0;
    std::memcpy(&content, bytes.data(), 4);
    const size_t size = region == 2 && page == 20 ? 512 : kPageBytes;
    const bool same = std::memcmp(bytes.data(), bytes.data() + 4, size - 4) == 0;
    const bool padded = size == kPageBytes || bytes[size] == std::byte{0};
    return same && padded ? content : UINT32_MAX;
}

enum class Act { put, zeros, seal, seal_without_undo, checkpoint, discard, reopen, restore };
struct Step {
    Act act{};
    uint16_t region = 0;
    uint64_t page = 0;
    uint64_t count = 1;
    uint32_t content = 0;
    uint32_t epoch = 0;  // put: this one; restore: how many points back
};

std::vector<Step> make_script(uint64_t seed, size_t size) {
    Random random(seed);
    std::vector<Step> script;
    uint32_t epoch = 1;
    for (size_t i = 0; i < size; ++i) {
        Step step;
        step.region = uint16_t(random.below(3));
        step.page = random.below(kPages[step.region]);
        step.content = uint32_t(i + 1);
        step.epoch = epoch > 1 && random.chance(0.15) ? epoch - 1 : epoch;
        const uint64_t dice = random.below(100);
        if (dice < 60) {
            step.act = Act::put;
        } else if (dice < 75) {
            step.act = Act::zeros;
            step.count = 1 + random.below(kPages[step.region] - step.page);
        } else if (dice < 88) {
            step.act = random.chance(0.2) ? Act::seal_without_undo : Act::seal;
            step.epoch = epoch++;
        } else {
            constexpr std::array<Act, 5> rest = {Act::checkpoint, Act::checkpoint, Act::discard,
                                                 Act::reopen, Act::restore};
            step.act = rest[random.below(rest.size())];
            step.epoch = uint32_t(random.below(3));
        }
        script.push_back(step);
    }
    return script;
}

struct Model {
    struct Point {
        uint32_t epoch = 0;
        Image image;
    };
    Image staged = zero_image();
    std::array<std::vector<uint32_t>, 3> epochs = zero_image();  // of each staged page
    std::vector<Point> points;
    // Per page, everything that was put since the last point (what a power loss may leave).
    std::map<std::pair<uint16_t, uint64_t>, std::vector<uint32_t>> put_since;

    uint32_t sealed() const { return points.empty() ? 0 : points.back().epoch; }
    void put(uint16_t region, uint64_t page, uint32_t epoch, uint32_t content) {
        if (epoch <= sealed() || epoch < epochs[region][page]) return;
        staged[region][page] = content;
        epochs[region][page] = epoch;
        put_since[{region, page}].push_back(content);
    }
    void back_to_point() {
        staged = points.back().image;
        epochs = zero_image();
        put_since.clear();
    }
    void apply(const Step& step) {
        switch (step.act) {
            case Act::put:
                put(step.region, step.page, step.epoch, step.content);
                break;
            case Act::zeros:
                for (uint64_t i = 0; i < step.count; ++i)
                    put(step.region, step.page + i, step.epoch, 0);
                break;
            case Act::seal:
            case Act::seal_without_undo:
                if (step.act == Act::seal_without_undo) points.clear();
                points.push_back({step.epoch, staged});
                if (points.size() > kPointsDefault) points.erase(points.begin());
                back_to_point();
                break;
            case Act::discard:
                if (!points.empty()) back_to_point();
                break;
            case Act::restore:
                if (step.epoch < points.size()) {
                    points.resize(points.size() - step.epoch);
                    back_to_point();
                }
                break;
            case Act::checkpoint:
            case Act::reopen:
                break;
        }
    }
};

class Run {
  public:
    Run(uint64_t seed, std::vector<Step> script) : files(seed), script_(std::move(script)) {}

    Status create() {
        auto vm = StagedVm::create(files, "/s/7", "/r/7", kSpec, kOptions);
        EVAC_TRY(vm);
        vm_ = std::move(*vm);
        return {};
    }
    Status reopen() {
        vm_.reset();
        auto vm = StagedVm::open(files, "/s/7", kOptions);
        EVAC_TRY(vm);
        vm_ = std::move(*vm);
        return {};
    }
    // Runs the script; at the first failing step `before` and `after` say what may be there.
    Status play() {
        for (; at_ < script_.size(); ++at_) {
            before = model;
            after = model;
            after.apply(script_[at_]);
            EVAC_TRY(perform(script_[at_]));
            model = after;
        }
        before = after = model;
        return {};
    }
    void skip_step() { ++at_; }
    bool at_end() const { return at_ >= script_.size(); }
    Act failed_act() const { return script_[at_].act; }

    Status perform(const Step& step) {
        const Epoch epoch{step.epoch};
        switch (step.act) {
            case Act::put: {
                auto done = vm_->put(RegionId{step.region}, step.page, epoch,
                                     page_bytes(step.region, step.page, step.content));
                EVAC_TRY(done);
                return {};
            }
            case Act::zeros: {
                auto done = vm_->put_zero(RegionId{step.region}, step.page, step.count, epoch);
                EVAC_TRY(done);
                return {};
            }
            case Act::seal:
            case Act::seal_without_undo:
                return seal(step.epoch, step.act == Act::seal);
            case Act::checkpoint:
                return vm_->checkpoint();
            case Act::discard:
                return model.points.empty() ? Status{} : vm_->discard_open_delta();
            case Act::reopen:
                return reopen();
            case Act::restore:
                if (step.epoch >= model.points.size()) return {};
                return vm_->restore_point(
                    Epoch{model.points[model.points.size() - 1 - step.epoch].epoch});
        }
        return {};
    }
    static std::string state_of(uint32_t epoch) { return "device state " + std::to_string(epoch); }
    Status seal(uint32_t epoch, bool keep) {
        return vm_->seal(Epoch{epoch}, as_byte_span(state_of(epoch)),
                         {epoch * 10, int64_t(epoch) * 1000, keep});
    }

    Image read_all() {
        Image image = zero_image();
        for (uint16_t r = 0; r < 3; ++r) {
            for (uint64_t page = 0; page < kPages[r]; ++page) {
                std::array<std::byte, kPageBytes> bytes;
                const Status read = vm_->read(RegionId{r}, page, bytes);
                image[r][page] = read.ok() ? content_of(r, page, bytes) : UINT32_MAX - 1;
            }
        }
        return image;
    }
    Image read_files() {
        Image image = zero_image();
        for (uint16_t r = 0; r < 3; ++r) {
            Bytes file = files.content(vm_->region_path(RegionId{r}));
            if (file.size() != kSpec.regions[r].size_bytes) return {};
            file.resize(kPages[r] * kPageBytes);
            for (uint64_t page = 0; page < kPages[r]; ++page) {
                image[r][page] =
                    content_of(r, page, ByteSpan(file).subspan(page * kPageBytes, kPageBytes));
            }
        }
        return image;
    }
    // The points of `expected`; older ones may be missing when `forgetful`.
    bool points_are(const Model& expected, bool forgetful) {
        const std::vector<RecoveryPoint> points = vm_->points();
        if (points.size() > expected.points.size() || points.empty() != expected.points.empty())
            return false;
        if (!forgetful && points.size() != expected.points.size()) return false;
        for (size_t i = 0; i < points.size(); ++i) {
            const uint32_t epoch =
                expected.points[expected.points.size() - points.size() + i].epoch;
            if (points[i].epoch != Epoch{epoch} || points[i].manifest.batches != epoch * 10)
                return false;
            auto state = vm_->device_state(points[i].epoch);
            if (!state.ok() || as_text(*state) != state_of(epoch)) return false;
        }
        return points.empty() || read_files() == expected.points.back().image;
    }
    bool same_but_for_failed_step(const Image& image) const {
        const Step& step = script_[at_];
        for (uint16_t r = 0; r < 3; ++r) {
            for (uint64_t page = 0; page < kPages[r]; ++page) {
                const bool in_step =
                    r == step.region && page >= step.page && page < step.page + step.count;
                if (image[r][page] != before.staged[r][page] && !in_step) return false;
            }
        }
        return true;
    }
    // Empty = fine. Sets `model` to what is there.
    std::string check(bool power_was_lost) {
        const bool forgetful =
            power_was_lost || failed_act() == Act::seal || failed_act() == Act::restore;
        const bool may_be_before = points_are(before, forgetful);
        const bool may_be_after = points_are(after, forgetful);
        if (!may_be_before && !may_be_after)
            return "neither the old recovery point nor the new one";
        const Image image = read_all();
        // Staged pages decide when the points do not. In place, the pages of the failed operation
        // may be torn.
        const bool is_before =
            may_be_before && (!may_be_after || before.points.empty() || image == before.staged);
        Model there = is_before ? before : after;
        // A restore forgets the open delta first: a crash right behind that leaves the old points
        // without it.
        if (is_before && failed_act() == Act::restore && image != there.staged)
            there.back_to_point();
        if (!there.points.empty() && !power_was_lost && image != there.staged)
            return "what was put is not there";
        if (there.points.empty() && !power_was_lost && !same_but_for_failed_step(image))
            return "in place: a page is lost";
        if (!there.points.empty() && power_was_lost) {
            for (uint16_t r = 0; r < 3; ++r) {
                for (uint64_t page = 0; page < kPages[r]; ++page) {
                    std::vector<uint32_t> possible = {there.points.back().image[r][page]};
                    for (const Model* one : {&before, &after}) {
                        const auto put = one->put_since.find({r, page});
                        if (put != one->put_since.end() && one->sealed() == there.sealed()) {
                            possible.insert(possible.end(), put->second.begin(), put->second.end());
                        }
                    }
                    if (std::ranges::find(possible, image[r][page]) == possible.end())
                        return "a page that was never put";
                }
            }
        }
        const size_t kept = vm_->points().size();
        model = there;
        model.staged = image;
        model.points.erase(model.points.begin(), model.points.end() - std::ptrdiff_t(kept));
        return {};
    }
    // Stages everything anew and seals; every older point must still lead back to its content.
    std::string live_on() {
        const uint32_t epoch = 1000;
        Image wanted = model.points.empty() ? read_all() : model.staged;
        for (uint16_t r = 0; r < 3; ++r) {
            for (uint64_t page = 0; page < kPages[r]; page += 1 + page % 3) {
                wanted[r][page] = uint32_t(5000 + page * 3 + r);
                auto done =
                    vm_->put(RegionId{r}, page, Epoch{epoch}, page_bytes(r, page, wanted[r][page]));
                if (!done.ok()) return "put: " + done.error().message();
            }
        }
        const Status sealed = seal(epoch, true);
        if (!sealed.ok()) return "seal: " + sealed.error().message();
        if (read_files() != wanted || read_all() != wanted) return "the next point is wrong";
        for (int i = int(vm_->points().size()) - 2; i >= 0; --i) {
            const Epoch older = vm_->points()[size_t(i)].epoch;
            const Status restored = vm_->restore_point(older);
            if (!restored.ok()) return "restore: " + restored.error().message();
            const auto expected = std::ranges::find(model.points, raw(older), &Model::Point::epoch);
            if (expected == model.points.end() || read_files() != expected->image)
                return "an older point is wrong";
        }
        return {};
    }

    FaultFiles files;
    Model model, before, after;

  private:
    std::vector<Step> script_;
    size_t at_ = 0;
    std::unique_ptr<StagedVm> vm_;
};

enum class Fault { process_crash, power_loss, io_error };

uint64_t operations_of(uint64_t seed, const std::vector<Step>& script) {
    Run run(seed, script);
    EXPECT_TRUE(run.create().ok());
    const Status played = run.play();
    EXPECT_TRUE(played.ok());
    const uint64_t operations = run.files.operations();
    EXPECT_TRUE(run.points_are(run.model, false));
    EXPECT_TRUE(run.read_all() == run.model.staged);
    EXPECT_EQ(run.live_on(), "");
    return operations;
}

std::string run_with_fault(uint64_t seed, const std::vector<Step>& script, uint64_t at, Fault fault,
                           bool lying = false) {
    Run run(seed * 1000 + at, script);
    run.files.lying_sync = lying;
    if (fault == Fault::io_error)
        run.files.fail_at(at);
    else
        run.files.crash_at(at);
    if (!run.create().ok()) {
        if (fault == Fault::power_loss)
            run.files.power_returns();
        else
            run.files.process_restarts();
        const Status opened = run.reopen();
        if (!opened.ok() && opened.error().code != Errc::not_found)
            return "after create: " + opened.error().message();
        if (!opened.ok() && !run.create().ok()) return "create again";
        return run.live_on();
    }
    while (!run.play().ok()) {
        if (fault == Fault::power_loss)
            run.files.power_returns();
        else
            run.files.process_restarts();
        const Status opened = run.reopen();
        if (!opened.ok()) return "open: " + opened.error().message();
        std::string bad = run.check(fault == Fault::power_loss);
        if (!bad.empty()) return bad;
        if (fault != Fault::io_error) return run.live_on();
        run.skip_step();  // in place, a page whose put failed is unknown: the model says what it
                          // says
        if (run.model.points.empty()) return run.live_on();
    }
    return run.live_on();
}

// Each script at every operation.
void sweep(Fault fault, uint64_t scripts) {
    for (uint64_t seed = 1; seed <= scripts; ++seed) {
        const std::vector<Step> script = make_script(seed, 40);
        const uint64_t operations = operations_of(seed, script);
        for (uint64_t at = 1; at <= operations; ++at) {
            const std::string bad = run_with_fault(seed, script, at, fault);
            ASSERT_EQ(bad, "") << "seed " << seed << ", fault at operation " << at << " of "
                               << operations;
        }
    }
}

TEST(StagedCrash, ProcessCrashAtEveryOperation) {
    sweep(Fault::process_crash, 5);
}
TEST(StagedCrash, PowerLossAtEveryOperation) {
    sweep(Fault::power_loss, 5);
}
TEST(StagedCrash, IoErrorAtEveryOperation) {
    sweep(Fault::io_error, 5);
}

// The checks above would notice: with a sync that does nothing, power losses must show.
TEST(StagedCrash, CanaryLyingSyncIsNoticed) {
    uint64_t noticed = 0;
    const std::vector<Step> script = make_script(3, 40);
    const uint64_t operations = operations_of(3, script);
    for (uint64_t at = 1; at <= operations; ++at) {
        noticed += run_with_fault(3, script, at, Fault::power_loss, true).empty() ? 0 : 1;
    }
    EXPECT_GT(noticed, 10u);
}

}  // namespace
}  // namespace evac::storage_sync
