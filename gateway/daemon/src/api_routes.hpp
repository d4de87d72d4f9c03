#pragma once
// The HTTP API of the daemon (docs/api.md). Runs on the control thread.
#include "evac/api/http_server.hpp"

namespace evac::daemon {

class App;
api::HttpResponse serve_api(App& app, const api::HttpRequest& request);

}  // namespace evac::daemon
