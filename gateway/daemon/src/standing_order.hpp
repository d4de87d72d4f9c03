#pragma once
// "Everything out": the order of an alert, or of an operator for all VMs. It stands until it is
// cancelled or has stood too long, because what an alert finds is seldom complete: the line may
// just be down, a copy may be in synchronisation, a first copy may be half-way. Such a VM is moved
// as soon as it can be. Durable: state_dir/standing-order.json. Owner: the control thread.
#include <cstdint>
#include <optional>
#include <string>

#include "evac/core/result.hpp"

namespace evac::daemon {

struct Order {
    std::string event_id, reason;
    int64_t until_unix_ms = 0;
};

class StandingOrder {
  public:
    explicit StandingOrder(std::string path) : path_(std::move(path)) {}

    // Takes up what an earlier process was ordered. Errors: corrupt or io, which name the file; no
    // order stands then.
    Status load();
    // Replaces the present one. What cannot be written stands all the same, in this process.
    Status give(Order order);
    // An empty event, or that of the present one: it ends. True when one ended.
    bool cancel(const std::string& event_id);
    // The order that stands at this time.
    const Order* at(int64_t unix_ms) const;

  private:
    std::string path_;
    std::optional<Order> order_;
};

}  // namespace evac::daemon
