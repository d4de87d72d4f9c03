#include <time.h>

#include <array>
#include <nlohmann/json.hpp>
#include <vector>

#include "evac/core/bytes.hpp"
#include "flow.hpp"

namespace wan_flow {
namespace {

using evac::Bytes;
using evac::ByteWriter;
using evac::wan::Class;
using evac::wan::SendResult;
using evac::wan::Transport;

constexpr uint64_t kConnectNs = 15'000'000'000;
constexpr uint64_t kLingerNs = 2'000'000'000;  // for what is still queued when the load ends

Bytes stamped(uint64_t sequence, uint64_t now_ns, size_t size) {
    Bytes message;
    message.reserve(size);
    ByteWriter writer(message);
    writer.le64(sequence);
    writer.le64(now_ns);
    message.resize(size);
    return message;
}

// As fast as the transport takes it.
void send_bulk(std::stop_token stop, Transport& transport, const evac::Clock& clock, size_t size,
               uint64_t& sent) {
    Bytes message = stamped(sent, clock.now_ns(), size);
    while (!stop.stop_requested()) {
        const SendResult result =
            transport.try_send(Class::bulk, transport.session(), std::move(message));
        if (result == SendResult::ok) {
            message = stamped(++sent, clock.now_ns(), size);
        } else {
            await_event(transport.writable_fd(Class::bulk));
        }
    }
}

struct ControlCount {
    uint64_t sent = 0, refused = 0;
};

void sleep_until_ns(uint64_t at_ns) {
    const timespec at{static_cast<time_t>(at_ns / 1'000'000'000),
                      static_cast<long>(at_ns % 1'000'000'000)};
    ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr);
}

// One message every 1/rate seconds; a message that is refused counts as never arriving.
void send_control(std::stop_token stop, Transport& transport, const evac::Clock& clock,
                  const Options& options, ControlCount& count) {
    const auto interval_ns = static_cast<uint64_t>(1e9 / options.control_per_s);
    uint64_t due_ns = clock.now_ns() + static_cast<uint64_t>(options.control_after_s * 1e9);
    while (clock.now_ns() < due_ns && !stop.stop_requested())
        sleep_until_ns(std::min(due_ns, clock.now_ns() + 50'000'000));
    for (; !stop.stop_requested(); due_ns += interval_ns) {
        sleep_until_ns(due_ns);
        const auto result =
            transport.try_send(Class::control, transport.session(),
                               stamped(count.sent, clock.now_ns(), options.control_bytes));
        ++count.sent;
        if (result != SendResult::ok) ++count.refused;
    }
}

bool await_session(Transport& transport, const evac::Clock& clock, const StopSignal& stop) {
    const uint64_t until_ns = clock.now_ns() + kConnectNs;
    while (!transport.connected() && clock.now_ns() < until_ns) {
        if (stop.wait_ms(2)) return false;
        drain_events(transport);
    }
    return transport.connected();
}

// What the transport thought, each 100 ms: shows why a rate was not reached. An unsent queue that
// is empty means that the load, not the transport, was late.
class Samples {
  public:
    static constexpr uint64_t kEveryNs = 100'000'000;

    Samples(uint64_t start_ns, double seconds) : due_ns_(start_ns) {
        rows_.reserve(static_cast<size_t>(seconds * 1e9 / kEveryNs) + 2);
    }
    void take(uint64_t now_ns, const Transport& transport) {
        if (now_ns < due_ns_ || rows_.size() == rows_.capacity()) return;
        due_ns_ += kEveryNs;
        const auto stats = transport.stats();
        rows_.push_back({stats.pacing_rate_bits_per_s / 1000, stats.delivery_rate_bits_per_s / 1000,
                         stats.inflight_bytes / 1024, transport.unsent_bytes(Class::bulk) / 1024,
                         stats.rtt_smoothed_ns / 1000});
    }
    nlohmann::json json() const {
        return {
            {"columns", {"pacing_kbit", "delivery_kbit", "inflight_kib", "unsent_kib", "rtt_us"}},
            {"rows", rows_}};
    }

  private:
    uint64_t due_ns_;
    std::vector<std::array<uint64_t, 5>> rows_;
};

bool all_acknowledged(const Transport& transport) {
    return transport.queued_bytes(Class::bulk) == 0 && transport.queued_bytes(Class::control) == 0;
}

}  // namespace

evac::Result<nlohmann::json> run_sender(const Options& options, Transport& transport,
                                        const evac::Clock& clock, const StopSignal& stop) {
    if (!await_session(transport, clock, stop))
        return evac::make_error(evac::Errc::unavailable, "no session with the peer");
    uint64_t bulk_sent = 0;
    ControlCount control;
    const uint64_t start_ns = clock.now_ns();
    Samples samples(start_ns, options.seconds);
    say({{"event", "start"}, {"ns", start_ns}});
    {
        std::jthread bulk, urgent;
        if (options.bulk_bytes != 0) {
            bulk = std::jthread([&](std::stop_token token) {
                send_bulk(std::move(token), transport, clock, options.bulk_bytes, bulk_sent);
            });
        }
        if (options.control_per_s > 0) {
            urgent = std::jthread([&](std::stop_token token) {
                send_control(std::move(token), transport, clock, options, control);
            });
        }
        const uint64_t end_ns = start_ns + static_cast<uint64_t>(options.seconds * 1e9);
        while (clock.now_ns() < end_ns && !stop.wait_ms(10)) {
            drain_events(transport);
            samples.take(clock.now_ns(), transport);
        }
    }
    const uint64_t end_ns = clock.now_ns();
    while (!all_acknowledged(transport) && clock.now_ns() < end_ns + kLingerNs) {
        if (stop.wait_ms(10)) break;
        drain_events(transport);
    }
    return nlohmann::json{{"start_ns", start_ns},
                          {"end_ns", end_ns},
                          {"bulk_messages", bulk_sent},
                          {"control_messages", control.sent},
                          {"control_refused", control.refused},
                          {"each_100_ms", samples.json()}};
}

}  // namespace wan_flow
