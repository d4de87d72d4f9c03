#pragma once
// "Everything out": the orders of alerts, or of an operator for all VMs. Each stands until it is
// cancelled or has stood too long, because what an alert finds is seldom complete: the line may
// just be down, a copy may be in synchronisation, a first copy may be half-way. Such a VM is moved
// as soon as it can be. Durable: state_dir/standing-orders.json. Owner: the control thread.
#include <cstdint>
#include <string>
#include <vector>

#include "evac/core/result.hpp"

namespace evac::daemon {

struct Order {
    std::string event_id, reason;
    int64_t given_unix_ms = 0, until_unix_ms = 0;
};

class StandingOrders {
  public:
    static constexpr size_t kMax = 16;  // then the oldest goes: the newer ones say the same

    explicit StandingOrders(std::string path) : path_(std::move(path)) {}

    // Takes up what an earlier process was ordered. Errors: corrupt or io, which name the file; no
    // order stands then.
    Status load();
    // One for the same event is replaced. What cannot be written stands all the same, in this
    // process.
    Status give(Order order);
    // That of this event, or all with an empty one. True when one ended.
    Result<bool> cancel(const std::string& event_id);
    // Those that have run out, and end here. A clock that went far back makes an order run out, not
    // stand again.
    std::vector<Order> expire(int64_t unix_ms);
    // The oldest that stands, or null.
    const Order* first() const { return orders_.empty() ? nullptr : &orders_.front(); }

  private:
    Status save() const;
    std::string path_;
    std::vector<Order> orders_;
};

}  // namespace evac::daemon
