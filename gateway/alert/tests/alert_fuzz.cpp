// First byte odd: a webhook's headers (id, timestamp and signature, each up to a newline) and then
// its body. Even: telegrams parted by 0x1e, judged one after the other by one engine. Broken
// promises abort.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "evac/alert/rules.hpp"
#include "evac/alert/webhook.hpp"

namespace {

using namespace evac::alert;

constexpr size_t kTelegramsPerInput = 16;
constexpr int64_t kNow = 1'900'000'000;

void require(bool kept) {
    if (!kept) std::abort();
}

std::string_view next(std::string_view& rest, char end) {
    const size_t at = rest.find(end);
    const std::string_view part = rest.substr(0, at);
    rest = at == std::string_view::npos ? std::string_view{} : rest.substr(at + 1);
    return part;
}

void fuzz_webhook(std::string_view rest) {
    WebhookHeaders headers;
    headers.id = next(rest, '\n');
    headers.timestamp = next(rest, '\n');
    headers.signature = next(rest, '\n');
    const auto status =
        verify_webhook(headers, rest, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 1614265330);
    require(status.ok() || !status.error().context.empty());
    // Whatever the bytes, they never pass with another secret, and as a secret they do no harm.
    require(
        !verify_webhook(headers, rest, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 1614265330).ok() ||
        !status.ok());
    (void)verify_webhook(headers, "", rest, 1614265330).ok();
}

RuleEngine make_engine() {
    Rule jma, cap, any;
    jma.min_intensity = Intensity::five_lower;
    jma.areas = {"440"};
    cap.source = Source::cap;
    cap.min_intensity = Intensity::one;
    any.min_magnitude = 6;
    any.max_distance_km = 200;
    any.action = Action::arm;
    return RuleEngine({{jma, cap, any}, Position{35.5, 139.5}, 1});
}

void fuzz_telegrams(std::string_view rest) {
    RuleEngine engine = make_engine();
    for (size_t i = 0; i < kTelegramsPerInput && !rest.empty(); ++i) {
        const auto alert = parse_alert("", next(rest, '\x1e'));
        if (!alert.ok()) {
            require(!alert.error().context.empty() && alert.error().context.size() < 2048);
            continue;
        }
        require(!alert->telegram.empty() && !alert->event_id.empty() &&
                alert->areas.size() <= kAreasMax);
        const Decision decision = engine.decide(*alert, kNow);
        const bool acts = decision.action != Action::none && decision.action != Action::exercise;
        require(!acts || alert->reality == Reality::actual);
        require(!acts || !decision.duplicate);
        require((decision.action == Action::cancel) <= (alert->kind == Kind::cancel));
        require(engine.decide(*alert, kNow).duplicate);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
    if (data[0] % 2 == 1) {
        fuzz_webhook(rest);
    } else {
        fuzz_telegrams(rest);
    }
    return 0;
}
