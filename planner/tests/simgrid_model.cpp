// The only file that includes SimGrid: its headers are heavy.
#include "simgrid_model.hpp"

#include <algorithm>
#include <cmath>
#include <simgrid/kernel/ProfileBuilder.hpp>
#include <simgrid/s4u/Actor.hpp>
#include <simgrid/s4u/Comm.hpp>
#include <simgrid/s4u/Engine.hpp>
#include <simgrid/s4u/Host.hpp>
#include <simgrid/s4u/Link.hpp>
#include <simgrid/s4u/NetZone.hpp>
#include <sstream>
#include <string>

namespace evac::planner::testing {
namespace {

namespace s4u = simgrid::s4u;

constexpr double kMib = 1048576.0;
constexpr double kLatencyS = 1e-9;

// All that SimGrid's network model would otherwise add to "bytes over bandwidth".
void set_every_factor(s4u::Engine& engine) {
    engine.set_config("network/model:LV08");
    engine.set_config("network/latency-factor:1");
    engine.set_config("network/bandwidth-factor:1");
    engine.set_config("network/weight-S:0");
    engine.set_config("network/crosstraffic:0");
    engine.set_config("network/TCP-gamma:0");  // no window cap
    engine.set_config("network/optim:Full");
    engine.set_config("network/loopback-lat:0");
    engine.set_config("maxmin/precision:1e-9");
    engine.set_config("surf/precision:1e-9");
}

std::string profile_of(const FlowScenario& scenario) {
    std::ostringstream text;
    text.precision(17);
    text << "0 " << scenario.mib_s * kMib << "\n";
    for (const auto& [at, mib_s] : scenario.changes) text << at << " " << mib_s * kMib << "\n";
    return text.str();
}

}  // namespace

std::vector<std::vector<double>> play_in_simgrid(const std::vector<FlowScenario>& scenarios) {
    int argc = 2;
    char name[] = "simgrid", quiet[] = "--log=root.thres:warning";
    char* argv[] = {name, quiet, nullptr};
    s4u::Engine engine(&argc, argv);
    set_every_factor(engine);
    s4u::NetZone* zone = s4u::create_full_zone("sites");
    std::vector<std::vector<double>> ends(scenarios.size());
    std::vector<size_t> next(scenarios.size(), 0);
    for (size_t k = 0; k < scenarios.size(); ++k) {
        const FlowScenario& scenario = scenarios[k];
        const std::string id = std::to_string(k);
        s4u::Host* home = zone->create_host("home" + id, 1e9)->seal();
        s4u::Host* away = zone->create_host("away" + id, 1e9)->seal();
        s4u::Link* link = zone->create_link("wan" + id, scenario.mib_s * kMib);
        link->set_latency(kLatencyS);
        if (!scenario.changes.empty()) {
            link->set_bandwidth_profile(simgrid::kernel::profile::ProfileBuilder::from_string(
                "wan" + id, profile_of(scenario), -1));
        }
        link->seal();
        zone->add_route(home->get_netpoint(), away->get_netpoint(), nullptr, nullptr,
                        {s4u::LinkInRoute(link)}, false);
        ends[k].assign(scenario.flow_mib.size(), 0);
        for (size_t stream = 0; stream < scenario.streams; ++stream) {
            s4u::Actor::create("stream", home, [&scenario, &ends, &next, k, home, away] {
                while (next[k] < scenario.flow_mib.size()) {
                    const size_t flow = next[k]++;
                    const auto bytes =
                        static_cast<uint64_t>(std::llround(scenario.flow_mib[flow] * kMib));
                    s4u::Comm::sendto(home, away, std::max<uint64_t>(bytes, 1));
                    ends[k][flow] = s4u::Engine::get_clock();
                }
            });
        }
    }
    zone->seal();
    engine.run();
    return ends;
}

}  // namespace evac::planner::testing
