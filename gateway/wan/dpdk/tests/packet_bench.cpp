// CPU per sealed packet through the whole stack (Endpoint: AES-256-GCM, acknowledgements, rate
// control; and the port), and what an idle Transport costs, on every port that runs here.
//   wan_packet_bench [--packets N] [--payload BYTES] [--idle-seconds N] [--quick] [--json FILE]
// Needs root. Both ends take turns on one thread, each timed by the thread's CPU clock, so that a
// busy machine does not show; the endpoints' time is virtual (50 us a turn), so nobody waits.
// "sent" is all that the sending end does: seal, send, receive and read acknowledgements;
// "received" likewise.
//
// On a veth the kernel runs the far end's reception inside the sender's system call. A raw run of
// the same frames, once with the far end's port and once with nobody there, measures how much that
// is, in the same process; "sent" has it subtracted, "sent_with_peers_receive" has not.
#include <poll.h>
#include <sys/prctl.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>

#include "../../tests/test_certs.hpp"
#include "dpdk_pair.hpp"
#include "evac/core/units.hpp"
#include "evac/wan/endpoint.hpp"
#include "evac/wan/transport.hpp"

using namespace evac;
using namespace evac::wan_port;
using namespace evac::wan_port::testing;

namespace {

constexpr uint64_t kTurnNs = 50'000;
constexpr size_t kBatch = 32;
constexpr size_t kMessageBytes = 64 << 10;

struct Options {
    size_t packets = 200'000, payload_bytes = 1400;
    int idle_seconds = 4;
    const char* json = nullptr;
};

struct Figure {
    double value = 0;
    const char* unit = "us";
    double target = 0;  // 0 = none
    double baseline = 0;
};
std::map<std::string, Figure> figures;

[[noreturn]] void die(const std::string& text) {
    std::fprintf(stderr, "wan_packet_bench: %s\n", text.c_str());
    std::exit(1);
}

double seconds_of(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}
double cpu_us() {
    return seconds_of(CLOCK_THREAD_CPUTIME_ID) * 1e6;
}

// One site: an endpoint on a port, driven by virtual time.
struct Site {
    DatagramPort& port;
    std::unique_ptr<wan::Endpoint> endpoint;
    std::vector<Bytes> buffers = std::vector<Bytes>(kBatch, Bytes(9000));
    std::vector<ByteSpan> views = std::vector<ByteSpan>(kBatch);
    double cpu_us_total = 0;

    Site(DatagramPort& on, wan::Role role, const UdpAddress& peer, size_t payload_bytes)
        : port(on) {
        wan::EndpointConfig config;
        config.role = role;
        config.peer_address = peer;
        config.datagram_bytes_max = payload_bytes;
        config.start_bits_per_s = 8'000'000'000;
        auto made =
            wan::Endpoint::create(config,
                                  role == wan::Role::listen ? wan::testing::site_a_context()
                                                            : wan::testing::site_b_context(),
                                  7, 1);
        if (!made.ok()) die(made.error().message());
        endpoint = std::move(*made);
    }
    // Whether there was anything to do; if not, it costs nothing here.
    bool run(uint64_t now_ns) {
        const double start = cpu_us();
        size_t work = port.receive(1024, [&](const UdpAddress& from, ByteSpan datagram) {
            endpoint->receive(now_ns, from, datagram);
        });
        endpoint->tick(now_ns);
        for (;;) {
            size_t count = 0;
            UdpAddress to;
            for (; count < kBatch; ++count) {
                const size_t size = endpoint->transmit(now_ns, buffers[count], to);
                if (size == 0) break;
                views[count] = {buffers[count].data(), size};
            }
            if (count == 0) break;
            work += port.send(to, {views.data(), count});
            if (count < kBatch) break;
        }
        while (endpoint->take(wan::Class::bulk)) {
        }
        if (work > 0) cpu_us_total += cpu_us() - start;
        return work > 0;
    }
};

void keep_full(wan::Endpoint& endpoint, std::vector<Bytes>& spare) {
    for (int i = 0; i < 8; ++i) {
        if (spare.empty()) spare.emplace_back(kMessageBytes, std::byte{0x5a});
        if (endpoint.send(wan::Class::bulk, endpoint.session(), std::move(spare.back())) !=
            wan::SendResult::ok) {
            return;
        }
        spare.pop_back();
    }
}

struct Cost {
    double sent_us = 0, received_us = 0;
};

Cost whole_stack(DatagramPort& from, DatagramPort& to, const Options& options) {
    Site sender(from, wan::Role::connect, to.local_address(), options.payload_bytes);
    Site receiver(to, wan::Role::listen, from.local_address(), options.payload_bytes);
    uint64_t now = 1;
    std::vector<Bytes> spare;
    const auto turn = [&] {
        now += kTurnNs;
        keep_full(*sender.endpoint, spare);
        const bool worked = sender.run(now);
        // Where the kernel delivers later (its own threads, when busy), virtual time must not run
        // away from it.
        if (!receiver.run(now) && !worked)
            std::this_thread::sleep_for(std::chrono::microseconds(50));
    };
    const auto packets = [&](const Site& site) { return site.port.counters(); };
    const double give_up = seconds_of(CLOCK_MONOTONIC) + 20;  // a bound on failure
    while (packets(receiver).rx_packets < 5000) {  // handshake, and the rate's first steps
        turn();
        if (seconds_of(CLOCK_MONOTONIC) > give_up) die("no session on " + std::string(from.name()));
    }
    sender.cpu_us_total = receiver.cpu_us_total = 0;
    const uint64_t sent_before = packets(sender).tx_packets;
    const uint64_t got_before = packets(receiver).rx_packets;
    while (packets(receiver).rx_packets - got_before < options.packets) turn();
    const auto sent = static_cast<double>(packets(sender).tx_packets - sent_before);
    const auto got = static_cast<double>(packets(receiver).rx_packets - got_before);
    const wan::Stats stats = sender.endpoint->stats(now);
    std::printf("  %-22s %.0f packets sent, %.0f received, %llu acknowledging\n", from.name(), sent,
                got, static_cast<unsigned long long>(packets(receiver).tx_packets));
    if (stats.state != static_cast<uint64_t>(wan::SessionState::up)) die("the session ended");
    return {sender.cpu_us_total / sent, receiver.cpu_us_total / got};
}

// The port alone: CPU of sending `payload_bytes` datagrams, and of receiving them when `to` is set.
Cost raw(DatagramPort& from, DatagramPort* to, const UdpAddress& address, const Options& options) {
    const Bytes payload(options.payload_bytes, std::byte{0x5a});
    const std::vector<ByteSpan> batch(kBatch, ByteSpan(payload));
    size_t sent = 0, got = 0;
    double tx = 0, rx = 0;
    const DatagramHandler count = [&](const UdpAddress&, ByteSpan) { ++got; };
    while (sent < options.packets / 2) {
        const double start = cpu_us();
        sent += from.send(address, batch);
        const double middle = cpu_us();
        if (to != nullptr) to->receive(256, count);
        tx += middle - start;
        rx += cpu_us() - middle;
        if (to == nullptr) from.receive(4, count);
    }
    return {tx / static_cast<double>(sent), rx / static_cast<double>(got != 0 ? got : 1)};
}

// An idle pair of Transports with a session, as the daemon runs them: % of a core, the worse end.
double idle_percent(DatagramPort& a, DatagramPort& b, int seconds) {
    static const SystemClock clock;
    const auto open = [&](DatagramPort& port, wan::Role role, const UdpAddress& peer) {
        wan::TransportConfig config;
        config.endpoint.role = role;
        config.endpoint.peer_address = peer;
        auto made =
            wan::Transport::create(config,
                                   role == wan::Role::listen ? wan::testing::site_a_context()
                                                             : wan::testing::site_b_context(),
                                   port, clock, 7);
        if (!made.ok()) die(made.error().message());
        return std::move(*made);
    };
    const auto first = open(a, wan::Role::listen, b.local_address());
    const auto second = open(b, wan::Role::connect, a.local_address());
    std::jthread threads[] = {std::jthread([&](std::stop_token stop) { first->run(stop); }),
                              std::jthread([&](std::stop_token stop) { second->run(stop); })};
    for (int i = 0; i < 10'000 && !(first->connected() && second->connected()); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (!second->connected()) die("no session on " + std::string(a.name()));
    std::this_thread::sleep_for(std::chrono::seconds(1));
    clockid_t clocks[2];
    double before[2], worst = 0;
    for (int i = 0; i < 2; ++i) {
        pthread_getcpuclockid(threads[i].native_handle(), &clocks[i]);
        before[i] = seconds_of(clocks[i]);
    }
    const double start = seconds_of(CLOCK_MONOTONIC);
    std::this_thread::sleep_for(std::chrono::seconds(seconds));
    const double wall = seconds_of(CLOCK_MONOTONIC) - start;
    for (int i = 0; i < 2; ++i)
        worst = std::max(worst, (seconds_of(clocks[i]) - before[i]) / wall * 100);
    return worst;
}

// What the far end's reception costs the sender on a veth: the same frames to a far end whose
// hardware address has changed, so that the kernel throws them away first thing.
double peers_receive_us(DpdkPair& pair, const Options& options) {
    const UdpAddress to = pair.peer().local_address();
    if (!warm_up(pair.port(), pair.peer())) die("no way to the peer");
    const double with = raw(pair.port(), &pair.peer(), to, options).sent_us;
    if (!pair.move_peer_away().ok()) die("cannot change the peer's hardware address");
    const double without = raw(pair.port(), nullptr, to, options).sent_us;
    std::printf("  %-22s raw send %.2f us, %.2f of it without the peer's reception\n",
                pair.port().name(), with, without);
    figures[pair.driver() + "_raw_send"] = {without, "us/packet", 0, 0};
    return std::max(0.0, with - without);
}

std::unique_ptr<DpdkPair> open_pair(const DpdkPairOptions& options) {
    std::string reason;
    auto pair = DpdkPair::make(options, reason);
    if (pair == nullptr) die(reason.empty() ? "cannot open " + options.driver : reason);
    if (!warm_up(pair->port(), pair->peer())) die("no way to the peer on " + options.driver);
    return pair;
}

void record(const std::string& name, const Cost& cost, double peers_us, bool targets) {
    figures[name + "_sent"] = {cost.sent_us - peers_us, "us/packet", targets ? 3.5 : 0, 0};
    figures[name + "_received"] = {cost.received_us, "us/packet", targets ? 3.0 : 0, 0};
    if (peers_us > 0)
        figures[name + "_sent_with_peers_receive"] = {cost.sent_us, "us/packet", 0, 0};
}

void measure_dpdk(const std::string& driver, bool veth, const Options& options) {
    // memif ports stay open: see memif_test.cpp.
    DpdkPair& pair = *open_pair({.driver = driver, .dpdk_peer = true}).release();
    const Cost cost = whole_stack(pair.port(), pair.peer(), options);
    figures[driver + "_idle"] = {idle_percent(pair.port(), pair.peer(), options.idle_seconds),
                                 "% of a core", 0.5, 0};
    record(driver, cost, veth ? peers_receive_us(pair, options) : 0, true);
}

void measure_kernel_udp(bool segments, const Options& options) {
    auto a = NetNamespace::create(), b = NetNamespace::create();
    if (!a.ok() || !b.ok() ||
        !make_veth({&*a, "ka", "10.0.0.1/24"}, {&*b, "kb", "10.0.0.2/24"}).ok()) {
        die("cannot make a veth pair");
    }
    const auto open = [&](const NetNamespace& ns, uint32_t ip) {
        const ScopedNetns inside(ns);
        auto port = open_kernel_udp_port({.local = {ip, 4500}, .segmentation_offload = segments});
        if (!port.ok()) die(port.error().message());
        return std::move(*port);
    };
    const auto from = open(*a, 0x0a000001), to = open(*b, 0x0a000002);
    if (!warm_up(*from, *to)) die("no way to the peer");
    const std::string name = segments ? "kernel_udp_gso" : "kernel_udp";
    const Cost cost = whole_stack(*from, *to, options);
    figures[name + "_idle"] = {idle_percent(*from, *to, options.idle_seconds), "% of a core", 0.5,
                               0};
    // The peer's reception, as above; its raw cost with nobody listening is not measured here.
    record(name, cost, 0, false);
}

bool met(const Figure& figure) {
    return figure.target == 0 || figure.value <= figure.target;
}

void print_figures() {
    for (const auto& [name, figure] : figures) {
        std::printf("%-38s %8.3f %s", name.c_str(), figure.value, figure.unit);
        if (figure.target != 0)
            std::printf("   target %.1f: %s", figure.target, met(figure) ? "met" : "MISSED");
        if (std::strcmp(figure.unit, "us/packet") == 0) {
            // 1442 bytes of Ethernet frame for 1400 of payload.
            std::printf("   = %.0f / %.0f %% of a core at 1 / 10 Gbit/s",
                        1e9 / 8 / 1442 * figure.value / 1e4, 1e10 / 8 / 1442 * figure.value / 1e4);
        }
        std::printf("\n");
    }
}

void write_json(const char* path) {
    FILE* file = std::fopen(path, "w");
    if (file == nullptr) die(std::string("cannot write ") + path);
    std::fprintf(file, "{\"figures\": {");
    const char* separator = "\n";
    for (const auto& [name, figure] : figures) {
        std::fprintf(file, "%s  \"wan_cpu_%s\": {\"value\": %.4f, \"unit\": \"%s\"", separator,
                     name.c_str(), figure.value, figure.unit);
        if (figure.target != 0)
            std::fprintf(file, ", \"target\": %.1f, \"met\": %s", figure.target,
                         met(figure) ? "true" : "false");
        if (figure.baseline != 0) std::fprintf(file, ", \"baseline\": %.4f", figure.baseline);
        std::fprintf(file, "}");
        separator = ",\n";
    }
    std::fprintf(file, "\n}}\n");
    if (std::fclose(file) != 0) die(std::string("cannot write ") + path);
}

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        const auto number = [&] {
            if (i + 1 == argc) die(word + ": a value is missing");
            const size_t value = std::strtoull(argv[++i], nullptr, 10);
            if (value == 0) die(word + " '" + argv[i] + "': expected a number above 0");
            return value;
        };
        if (word == "--packets") {
            options.packets = number();
        } else if (word == "--payload") {
            options.payload_bytes = number();
        } else if (word == "--idle-seconds") {
            options.idle_seconds = static_cast<int>(number());
        } else if (word == "--quick") {
            options.packets = 40'000;
            options.idle_seconds = 2;
        } else if (word == "--json" && i + 1 < argc) {
            options.json = argv[++i];
        } else {
            die("'" + word +
                "': expected --packets N, --payload BYTES, --idle-seconds N, --quick, --json FILE");
        }
    }
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    if (const std::string why = netns_unavailable_reason(); !why.empty()) die(why);
    measure_dpdk("af_packet", true, options);
    measure_dpdk("af_xdp", true, options);
    measure_dpdk("memif", false, options);
    measure_kernel_udp(true, options);
    measure_kernel_udp(false, options);
    // Kernel UDP without offloads is what each is compared with.
    for (auto& [name, figure] : figures) {
        for (const std::string kind : {"_sent_with_peers_receive", "_received"}) {
            if (name.ends_with(kind) && !name.starts_with("kernel_udp")) {
                figure.baseline =
                    figures[kind == "_received" ? "kernel_udp_received" : "kernel_udp_sent"].value;
            }
        }
    }
    print_figures();
    if (options.json != nullptr) write_json(options.json);
    std::fflush(nullptr);
    ::_exit(0);  // the memif pair stays open
}
