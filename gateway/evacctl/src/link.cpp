#include <algorithm>
#include <cstdio>
#include <thread>

#include "table.hpp"
#include "verbs.hpp"

namespace evac::ctl {
namespace {

constexpr auto kPollEvery = std::chrono::milliseconds(250);

double number(const Json& object, const char* name) {
    return object.contains(name) && object[name].is_number() ? object[name].get<double>() : 0;
}

int show(const Context& context) {
    auto reply = context.client().get("/v1/link");
    if (!reply.ok()) return fail(reply.error());
    const Json& l = reply->body;
    if (context.json()) return print_json(l);
    std::printf("%s over %s\n", l["state"].get<std::string>().c_str(),
                l["port"].get<std::string>().c_str());
    std::printf("rate         %.1f Mbit/s delivered, %.1f paced, ceiling %.0f\n",
                number(l, "delivery_mbit"), number(l, "pacing_mbit"), number(l, "ceiling_mbit"));
    std::printf("round trip   %.1f ms, at least %.1f\n", number(l, "rtt_ms"),
                number(l, "rtt_min_ms"));
    std::printf("losses       %.2f %%: %.0f packets of %.0f, %.0f of them not lost after all\n",
                number(l, "loss_pct"), number(l, "packets_lost"), number(l, "packets_sent"),
                number(l, "packets_spurious"));
    std::printf(
        "bursts       %.1f packets on average; a queue of %.1f ms stands on the path; %s%s\n",
        number(l, "loss_burst"), number(l, "queue_delay_ms"), l.value("rate_mode", "").c_str(),
        l.value("scavenging", false) ? ", yields to other traffic" : "");
    const Json& fec = l["fec"];
    std::printf("parity       %s: %.0f packets sent, %.0f rebuilt here, %.0f at the peer\n",
                fec.value("active", false) ? "on" : "off (the line is clean)",
                number(fec, "parity_sent"), number(fec, "recovered"),
                number(fec, "recovered_by_peer"));
    std::printf("path         datagrams of %.0f bytes, changed %.0f times\n",
                number(l, "path_mtu_bytes"), number(l, "path_changes"));
    std::printf("memory       %.1f MiB held, at most %.1f\n", number(l, "memory_bytes") / 1048576,
                number(l, "memory_bytes_max") / 1048576);
    Table table({"CLASS", "QUEUED KiB", "UNSENT KiB", "SENT MiB", "RECEIVED MiB", "RESENT MiB",
                 "PARITY %"});
    for (const auto& c : l["classes"]) {
        table.add(
            {c["class"], decimal(number(c, "queued_bytes") / 1024, 1),
             decimal(number(c, "unsent_bytes") / 1024, 1),
             decimal(number(c, "sent_bytes") / 1048576, 1),
             decimal(number(c, "received_bytes") / 1048576, 1),
             decimal(number(c, "retransmitted_bytes") / 1048576, 1),
             decimal(100 * number(c, "parity_bytes") / std::max(number(c, "sent_bytes"), 1.0), 2)});
    }
    std::printf("\n%s", table.text().c_str());
    for (const auto& [reason, count] : l["drops"].items())
        std::printf("dropped: %s %llu\n", reason.c_str(), count.get<unsigned long long>());
    return kOk;
}

int print_result(const Json& r) {
    const std::string cut = r.value("cut", "");
    if (!cut.empty()) std::printf("ended early: %s\n", cut.c_str());
    if (!r.contains("goodput_mbit")) {
        std::printf("nothing was measured\n");
        return kError;
    }
    const Json& c = r["control"];
    std::printf("goodput      %.2f Mbit/s over %.1f s\n", number(r, "goodput_mbit"),
                number(r, "measured_s"));
    std::printf("losses       %.2f %%\n", number(r, "loss_pct"));
    std::printf(
        "control      1 KiB there and back, beside it: median %.1f ms, 99 %% within %.1f, worst "
        "%.1f (%.0f of %.0f answered); the line alone: %.1f ms\n",
        number(c, "rtt_ms_median"), number(c, "rtt_ms_p99"), number(c, "rtt_ms_max"),
        number(c, "answered"), number(c, "sent"), number(r, "rtt_before_ms"));
    return cut.empty() ? kOk : kPartial;
}

int test(const Context& context, double seconds) {
    auto begun = context.client().post("/v1/link/test", {{"seconds", seconds}});
    if (!begun.ok()) return fail(begun.error());
    while (true) {
        std::this_thread::sleep_for(kPollEvery);
        auto reply = context.client().get("/v1/link/test");
        if (!reply.ok()) return fail(reply.error());
        const Json& r = reply->body;
        if (!r.value("running", false)) {
            if (!context.json()) std::fprintf(stderr, "\r%*s\r", 40, "");
            if (!context.json()) return print_result(r);
            print_json(r);
            return !r.contains("goodput_mbit") ? kError : r["cut"] == "" ? kOk : kPartial;
        }
        if (!context.json())
            std::fprintf(stderr, "\rtesting: %.0f of %.0f s", number(r, "elapsed_s"), seconds);
    }
}

}  // namespace

void add_link(CLI::App& cli, Context& context) {
    auto* link = cli.add_subcommand("link", "the line to the peer: rate, losses, queues");
    link->require_subcommand(0, 1);
    auto seconds = std::make_shared<double>(10);
    auto* tested = link->add_subcommand(
        "test", "measure goodput between the sites; what is really sent goes first");
    tested->add_option("--seconds", *seconds, "how long, 1 to 300")->capture_default_str();
    // The verb's callback runs after that of `test`.
    tested->callback([&context, seconds] {
        context.chosen = [&context, seconds] { return test(context, *seconds); };
    });
    link->callback([&context, link] {
        if (link->get_subcommands().empty()) context.chosen = [&context] { return show(context); };
    });
}

}  // namespace evac::ctl
