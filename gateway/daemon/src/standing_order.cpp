#include "standing_order.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "files.hpp"

namespace evac::daemon {
namespace {

constexpr size_t kFileBytesMax = 64 * 1024;

}  // namespace

Status StandingOrder::load() {
    if (!std::filesystem::exists(path_)) return {};
    auto text = read_small_file(path_, kFileBytesMax);
    EVAC_TRY(text);
    const auto record = nlohmann::json::parse(*text, nullptr, false);
    try {
        order_ =
            Order{record.at("event").get<std::string>(), record.at("reason").get<std::string>(),
                  record.at("until_unix_ms").get<int64_t>()};
    } catch (const nlohmann::json::exception& e) {
        return make_error(Errc::corrupt, "'" + path_ + "': " + e.what());
    }
    return {};
}

Status StandingOrder::give(Order order) {
    order_ = std::move(order);
    const nlohmann::json record{{"version", 1},
                                {"event", order_->event_id},
                                {"reason", order_->reason},
                                {"until_unix_ms", order_->until_unix_ms}};
    return write_file_durably(
        path_, record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

bool StandingOrder::cancel(const std::string& event_id) {
    if (!order_ || (!event_id.empty() && event_id != order_->event_id)) return false;
    order_.reset();
    std::error_code error;
    std::filesystem::remove(path_, error);
    return true;
}

const Order* StandingOrder::at(int64_t unix_ms) const {
    return order_ && unix_ms < order_->until_unix_ms ? &*order_ : nullptr;
}

}  // namespace evac::daemon
