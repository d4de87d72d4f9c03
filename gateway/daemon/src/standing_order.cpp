#include "standing_order.hpp"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "files.hpp"

namespace evac::daemon {
namespace {

constexpr size_t kFileBytesMax = 64 * 1024;
constexpr int64_t kClockStepMs = 3'600'000;  // of a clock set back, which an order survives

}  // namespace

Status StandingOrders::load() {
    if (!std::filesystem::exists(path_)) return {};
    auto text = read_small_file(path_, kFileBytesMax);
    EVAC_TRY(text);
    const auto list = nlohmann::json::parse(*text, nullptr, false);
    try {
        for (const auto& record : list.at("orders")) {
            orders_.push_back({record.at("event").get<std::string>(),
                               record.at("reason").get<std::string>(),
                               record.at("given_unix_ms").get<int64_t>(),
                               record.at("until_unix_ms").get<int64_t>()});
        }
    } catch (const nlohmann::json::exception& e) {
        orders_.clear();
        return make_error(Errc::corrupt, "'" + path_ + "': " + e.what());
    }
    return {};
}

Status StandingOrders::save() const {
    auto list = nlohmann::json::array();
    for (const Order& order : orders_) {
        list.push_back({{"event", order.event_id},
                        {"reason", order.reason},
                        {"given_unix_ms", order.given_unix_ms},
                        {"until_unix_ms", order.until_unix_ms}});
    }
    const nlohmann::json record{{"version", 1}, {"orders", list}};
    return write_file_durably(
        path_, record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

Status StandingOrders::give(Order order) {
    const auto same = std::ranges::find(orders_, order.event_id, &Order::event_id);
    if (same != orders_.end()) {
        *same = std::move(order);
    } else {
        if (orders_.size() == kMax) orders_.erase(orders_.begin());
        orders_.push_back(std::move(order));
    }
    return save();
}

Result<bool> StandingOrders::cancel(const std::string& event_id) {
    const auto ended = std::erase_if(orders_, [&event_id](const Order& order) {
        return event_id.empty() || order.event_id == event_id;
    });
    if (ended == 0) return false;
    EVAC_TRY(save());
    return true;
}

std::vector<Order> StandingOrders::expire(int64_t unix_ms) {
    std::vector<Order> ended;
    for (const Order& order : orders_) {
        if (unix_ms >= order.until_unix_ms || unix_ms < order.given_unix_ms - kClockStepMs) {
            ended.push_back(order);
        }
    }
    if (ended.empty()) return ended;
    for (const Order& order : ended) {
        std::erase_if(orders_, [&order](const Order& o) { return o.event_id == order.event_id; });
    }
    static_cast<void>(save().ok());  // it runs out again
    return ended;
}

}  // namespace evac::daemon
