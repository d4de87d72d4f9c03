#include <nlohmann/json.hpp>

#include "evac/core/bytes.hpp"
#include "flow.hpp"
#include "measures.hpp"

namespace wan_flow {
namespace {

using evac::wan::Class;
using evac::wan::Transport;

void take_bulk(std::stop_token stop, Transport& transport, const evac::Clock& clock,
               Timeline& timeline, BulkCount& count) {
    while (!stop.stop_requested()) {
        await_event(transport.data_fd());
        while (auto message = transport.try_receive(Class::bulk)) {
            count.add(*message);
            timeline.add(clock.now_ns(), message->bytes.size());
        }
    }
}

void take_control(std::stop_token stop, Transport& transport, const evac::Clock& clock,
                  LatencyHistogram& latency) {
    while (!stop.stop_requested()) {
        await_event(transport.control_fd());
        while (auto message = transport.try_receive(Class::control)) {
            const uint64_t now_ns = clock.now_ns();
            evac::ByteReader reader(message->bytes);
            reader.le64();
            const uint64_t sent_ns = reader.le64();
            if (reader.ok() && sent_ns <= now_ns) latency.add(now_ns - sent_ns);
        }
    }
}

}  // namespace

nlohmann::json run_receiver(const Options& options, Transport& transport, const evac::Clock& clock,
                            const StopSignal& stop) {
    const uint64_t start_ns = clock.now_ns();
    Timeline timeline(start_ns, options.seconds);
    BulkCount bulk;
    LatencyHistogram latency;
    {
        std::jthread data([&](std::stop_token token) {
            take_bulk(std::move(token), transport, clock, timeline, bulk);
        });
        std::jthread control([&](std::stop_token token) {
            take_control(std::move(token), transport, clock, latency);
        });
        const uint64_t end_ns = start_ns + static_cast<uint64_t>(options.seconds * 1e9);
        while (clock.now_ns() < end_ns && !stop.wait_ms(10)) drain_events(transport);
    }
    return nlohmann::json{
        {"base_ns", timeline.base_ns()}, {"bin_ns", Timeline::kBinNs},
        {"bins", timeline.bins()},       {"bulk_messages", bulk.messages},
        {"bulk_bytes", bulk.bytes},      {"out_of_order", bulk.out_of_order},
        {"sessions", bulk.sessions},     {"control_messages", latency.total()},
        {"latency_us", latency.steps()}, {"latency_us_max", latency.max_ns() / 1000},
    };
}

}  // namespace wan_flow
