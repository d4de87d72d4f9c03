#pragma once
// From a signed webhook to an action of the coordinator. Durable: every accepted telegram is in
// state_dir/alerts.jsonl (bounded) before anything is done about it. Answers 202 (accepted), 200
// (seen before), 400 (not understood), 401 (signature, timestamp), 405, 413; asynchronous work is
// the coordinator's. Owner: the control thread.
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "config.hpp"
#include "evac/alert/rules.hpp"
#include "evac/api/http_server.hpp"
#include "evac/core/clock.hpp"
#include "evac/core/log.hpp"

namespace evac::daemon {

class AlertDesk {
  public:
    struct Actions {
        std::function<Status(const std::string& event, const std::string& reason)> arm;
        std::function<Status(const std::string& event, const std::string& reason)> evacuate;
        std::function<Status(const std::string& event)> cancel;
    };
    struct Entry {
        int64_t unix_ms = 0;
        std::string telegram, event_id, title, reality, action, reason;
    };
    static constexpr size_t kEntriesMax = 1024;

    static Result<std::unique_ptr<AlertDesk>> create(const Config& config, const Clock& clock,
                                                     Logger& log, Actions actions);

    api::HttpResponse serve(const api::HttpRequest& request);  // the webhook: POST /v1/alerts
    // Signed and sent by ourselves: a JSON alert with status test through verification, parser and
    // rules.
    Result<std::string> self_test();
    const std::deque<Entry>& entries() const { return entries_; }

  private:
    AlertDesk(const Clock& clock, Logger& log, Actions actions, alert::RuleSet rules,
              std::string path, std::string secret)
        : clock_(clock),
          log_(log),
          actions_(std::move(actions)),
          engine_(std::move(rules)),
          path_(std::move(path)),
          secret_(std::move(secret)) {}
    Status load();
    Status record(const Entry& entry);
    Status act(const alert::Decision& decision);

    const Clock& clock_;
    Logger& log_;
    Actions actions_;
    alert::RuleEngine engine_;
    std::string path_;
    std::string secret_;
    std::deque<Entry> entries_;
};

}  // namespace evac::daemon
