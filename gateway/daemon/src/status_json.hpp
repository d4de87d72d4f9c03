#pragma once
// The daemon's state as JSON, for the API. Plain functions of the control thread.
#include <nlohmann/json.hpp>

namespace evac::daemon {

class App;
struct HomeVm;

nlohmann::json status_json(App& app);
nlohmann::json vm_json(App& app, const HomeVm& vm);
// RPO over 24 hours, backlog, dirty model, rounds, rungs.
void add_measures(App& app, const HomeVm& vm, nlohmann::json& out);
nlohmann::json evacuation_json(App& app);  // or the order that stands; null when there was none
nlohmann::json progress_json(App& app);    // of the newest evacuation, whatever stands
nlohmann::json doctor_json(App& app);

}  // namespace evac::daemon
