#include "emulator.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace wan_emulator {
namespace {

using evac::Errc;
using evac::Result;
using evac::Status;

constexpr size_t kArrivalsPerPass = 4096;  // so that a flood one way does not starve the other
constexpr size_t kDeliverBatch = 64;
// A quiet emulator with frames on the way wakes for the next one, but no longer than this apart, so
// that a control command or a clock step is never far.
constexpr uint64_t kSleepNsMax = 1'000'000'000;

int64_t realtime_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

double cpu_seconds() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& t) {
        return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

FrameStore::FrameStore(size_t frames, size_t frame_bytes_max)
    : slot_bytes_((frame_bytes_max + 63) / 64 * 64),
      mapped_bytes_(frames * slot_bytes_),
      sizes_(frames) {
    // Untouched pages of this cost nothing.
    void* mapped = ::mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped != MAP_FAILED) memory_ = static_cast<std::byte*>(mapped);
    free_.reserve(frames);
    for (size_t i = frames; i > 0; --i) free_.push_back(static_cast<uint32_t>(i - 1));
}

FrameStore::~FrameStore() {
    if (memory_ != nullptr) ::munmap(memory_, mapped_bytes_);
}

uint32_t FrameStore::put(std::span<const std::byte> frame) {
    const uint32_t handle = free_.back();
    free_.pop_back();
    sizes_[handle] = static_cast<uint32_t>(frame.size());
    std::memcpy(memory_ + handle * slot_bytes_, frame.data(), frame.size());
    return handle;
}

std::span<const std::byte> FrameStore::get(uint32_t handle) const {
    return {memory_ + handle * slot_bytes_, sizes_[handle]};
}

Result<std::unique_ptr<Emulator>> Emulator::open(const Options& options, const evac::Clock& clock) {
    auto a = PacketSocket::open(options.interface_a);
    if (!a.ok()) return a.error();
    auto b = PacketSocket::open(options.interface_b);
    if (!b.ok()) return b.error();
    std::unique_ptr<Emulator> emulator(new Emulator(options, clock, std::move(*a), std::move(*b)));
    if (!emulator->a_to_b_.store.valid() || !emulator->b_to_a_.store.valid()) {
        return evac::io_error("memory for --packets-max " + std::to_string(options.packets_max));
    }
    if (!options.control_path.empty()) {
        auto control = ControlServer::open(
            options.control_path,
            [raw = emulator.get()](std::string_view line) { return raw->command(line); });
        if (!control.ok()) return control.error();
        emulator->control_ = std::move(*control);
    }
    return Result<std::unique_ptr<Emulator>>(std::move(emulator));
}

Emulator::Emulator(const Options& options, const evac::Clock& clock,
                   std::unique_ptr<PacketSocket> a, std::unique_ptr<PacketSocket> b)
    : options_(options),
      clock_(clock),
      a_(std::move(a)),
      b_(std::move(b)),
      a_to_b_{"a_to_b", *a_, *b_, LinkModel(options.link, options.seed * 2, options.packets_max),
              FrameStore(options.packets_max, a_->frame_bytes_max())},
      b_to_a_{"b_to_a", *b_, *a_,
              LinkModel(options.link, options.seed * 2 + 1, options.packets_max),
              FrameStore(options.packets_max, b_->frame_bytes_max())},
      started_ns_(clock.now_ns()) {
    for (const OutagePlan& outage : options_.outages) {
        a_to_b_.model.add_outage(started_ns_ + outage.at_ns, outage.for_ns, started_ns_);
        b_to_a_.model.add_outage(started_ns_ + outage.at_ns, outage.for_ns, started_ns_);
    }
}

Status Emulator::run(int stop_fd) {
    while (!stop_) {
        const uint64_t now_ns = clock_.now_ns();
        unix_minus_monotonic_ns_ = realtime_ns() - static_cast<int64_t>(now_ns);
        ++wakes_;
        size_t work = 0;
        for (Direction* direction : {&a_to_b_, &b_to_a_}) {
            work += take_arrivals(*direction, now_ns);
            work += deliver(*direction, now_ns);
        }
        sleep(stop_fd, work > 0, now_ns);
    }
    return {};
}

size_t Emulator::take_arrivals(Direction& direction, uint64_t now_ns) {
    size_t taken = 0;
    for (; taken < kArrivalsPerPass; ++taken) {
        const auto arrival = direction.in.next();
        if (!arrival) break;
        const int64_t at_ns = arrival->unix_ns - unix_minus_monotonic_ns_;
        // The wall clock may have stepped since the kernel stamped it: never later than now.
        const uint64_t arrived_ns =
            std::min(now_ns, static_cast<uint64_t>(std::max<int64_t>(at_ns, 0)));
        const auto bytes = static_cast<uint32_t>(arrival->frame.size());
        if (direction.store.full()) {
            // The model holds as many packets as the store: it refuses, and counts it.
            direction.model.arrive(arrived_ns, bytes, 0);
        } else {
            const uint32_t handle = direction.store.put(arrival->frame);
            if (!direction.model.arrive(arrived_ns, bytes, handle)) direction.store.free(handle);
        }
        direction.in.release();
    }
    return taken;
}

size_t Emulator::deliver(Direction& direction, uint64_t now_ns) {
    std::array<std::span<const std::byte>, kDeliverBatch> frames;
    std::array<uint32_t, kDeliverBatch> handles;
    size_t total = 0, count = 0;
    const auto flush = [&] {
        direction.out.send({frames.data(), count});
        for (size_t i = 0; i < count; ++i) direction.store.free(handles[i]);
        count = 0;
    };
    while (const auto due = direction.model.pop_due(now_ns)) {
        ++total;
        if (!due->deliver) {
            direction.store.free(due->handle);
            continue;
        }
        const uint64_t late_ns = now_ns - due->due_ns;
        direction.late_ns_max = std::max(direction.late_ns_max, late_ns);
        direction.late_ns_sum += late_ns;
        frames[count] = direction.store.get(due->handle);
        handles[count++] = due->handle;
        if (count == kDeliverBatch) flush();
    }
    if (count > 0) flush();
    return total;
}

void Emulator::sleep(int stop_fd, bool busy, uint64_t now_ns) {
    uint64_t sleep_ns = options_.grain_ns;
    poll_fds_.clear();
    poll_fds_.push_back({stop_fd, POLLIN, 0});
    if (control_) control_->add_poll_fds(poll_fds_);
    const size_t control_fds = poll_fds_.size();
    if (!busy) {
        const uint64_t due_ns = std::min(a_to_b_.model.next_due_ns(), b_to_a_.model.next_due_ns());
        sleep_ns = due_ns <= now_ns ? 0 : std::min(due_ns - now_ns, kSleepNsMax);
        poll_fds_.push_back({a_->fd(), POLLIN, 0});
        poll_fds_.push_back({b_->fd(), POLLIN, 0});
    }
    const timespec timeout{static_cast<time_t>(sleep_ns / 1'000'000'000),
                           static_cast<long>(sleep_ns % 1'000'000'000)};
    // With an interface down its socket reports POLLERR at once and for ever: that must not become
    // a busy loop.
    if (::ppoll(poll_fds_.data(), poll_fds_.size(), &timeout, nullptr) <= 0) return;
    stop_ = poll_fds_[0].revents != 0;
    const auto reported = [&](size_t from, size_t to, int events) {
        return std::any_of(poll_fds_.begin() + static_cast<std::ptrdiff_t>(from),
                           poll_fds_.begin() + static_cast<std::ptrdiff_t>(to),
                           [&](const pollfd& fd) { return (fd.revents & events) != 0; });
    };
    if (control_ && reported(1, control_fds, ~0)) control_->serve();
    if (reported(control_fds, poll_fds_.size(), POLLERR | POLLHUP | POLLNVAL)) {
        const timespec pause{0, 10'000'000};
        ::nanosleep(&pause, nullptr);
    }
}

std::string Emulator::command(std::string_view line) {
    const auto parsed = parse_command(line);
    if (!parsed.ok()) return "error: " + parsed.error().context;
    const uint64_t now_ns = clock_.now_ns();
    switch (parsed->kind) {
        case Command::Kind::stats:
            return stats_json();
        case Command::Kind::help:
            return "ok: SETTING VALUE [a-b|b-a] with rate, rtt-ms, delay-ms, jitter-ms, loss, ge, "
                   "queue-kib; "
                   "outage FOR [a-b|b-a]; stats";
        case Command::Kind::set:
        case Command::Kind::outage:
            break;
    }
    for (Direction* direction : {&a_to_b_, &b_to_a_}) {
        if (!(direction == &a_to_b_ ? parsed->a_to_b : parsed->b_to_a)) continue;
        if (parsed->kind == Command::Kind::outage) {
            if (!direction->model.add_outage(now_ns, parsed->outage_ns, now_ns))
                return "error: too many outages";
            continue;
        }
        LinkSettings settings = direction->model.settings();
        const Status status = apply_setting(settings, parsed->name, parsed->value);
        if (!status.ok()) return "error: " + status.error().context;
        direction->model.change(settings, now_ns);
    }
    return "ok";
}

void Emulator::add_direction(std::string& json, Direction& direction) {
    const LinkCounters& link = direction.model.counters();
    const LinkSettings& settings = direction.model.settings();
    const PacketSocketCounters in = direction.in.counters();
    const PacketSocketCounters out = direction.out.counters();
    const auto into = std::back_inserter(json);
    fmt::format_to(
        into,
        "\"{}\":{{\"rate_bit_per_s\":{},\"delay_ms\":{},\"jitter_ms\":{},\"loss_pct\":{},"
        "\"ge_loss_pct\":{},\"ge_burst\":{},\"queue_kib\":{},",
        direction.name, settings.rate_bits_per_s, static_cast<double>(settings.delay_ns) / 1e6,
        static_cast<double>(settings.jitter_ns) / 1e6, settings.loss * 100, settings.ge_loss * 100,
        settings.ge_burst, settings.queue_bytes / 1024);
    fmt::format_to(
        into,
        "\"offered_packets\":{},\"offered_bytes\":{},\"delivered_packets\":{},\"delivered_bytes\":{"
        "},"
        "\"dropped_queue\":{},\"dropped_memory\":{},\"lost_random\":{},\"lost_burst\":{},"
        "\"lost_outage\":{},",
        link.offered_packets, link.offered_bytes, link.delivered_packets, link.delivered_bytes,
        link.dropped_queue, link.dropped_memory, link.lost_random, link.lost_burst,
        link.lost_outage);
    const double late_us_mean = link.delivered_packets == 0
                                    ? 0
                                    : static_cast<double>(direction.late_ns_sum) /
                                          static_cast<double>(link.delivered_packets) / 1e3;
    fmt::format_to(into,
                   "\"queued_bytes\":{},\"queued_bytes_peak\":{},\"link_busy_s\":{:.6f},\"late_us_"
                   "mean\":{:.1f},"
                   "\"late_us_max\":{:.1f},\"ring_drops\":{},\"oversize\":{},\"vlan_tagged\":{},"
                   "\"checksum_pending\":{},\"send_failed\":{}}}",
                   direction.model.queued_bytes(), link.queue_bytes_peak,
                   static_cast<double>(link.busy_ns) / 1e9, late_us_mean,
                   static_cast<double>(direction.late_ns_max) / 1e3, in.ring_drops, in.oversize,
                   in.vlan_tagged, in.checksum_pending, out.send_failed);
}

std::string Emulator::stats_json() {
    std::string json = "{";
    fmt::format_to(std::back_inserter(json),
                   "\"elapsed_s\":{:.3f},\"cpu_s\":{:.3f},\"wakes\":{},\"seed\":{},",
                   static_cast<double>(clock_.now_ns() - started_ns_) / 1e9, cpu_seconds(), wakes_,
                   options_.seed);
    add_direction(json, a_to_b_);
    json += ',';
    add_direction(json, b_to_a_);
    json += '}';
    return json;
}

}  // namespace wan_emulator
