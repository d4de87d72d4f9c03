// Parsing alone; tests/integration/test_config.py holds the same promises against the real binary,
// files included.
#include "config.hpp"

#include <gtest/gtest.h>

namespace evac::daemon {
namespace {

const std::string kMinimal = R"(
[site]
name = "site-a"
[pair]
secret_file = "/s"
peer = "site-b"
[wan]
port = "kernel"
local = "10.0.0.1:4500"
peer = "10.0.0.2:4500"
role = "listen"
ca = "/ca"
cert = "/cert"
key = "/key"
)";

std::string refusal(const std::string& more) {
    const auto config = parse_config(kMinimal + more, "t.toml");
    if (config.ok()) return "accepted";
    EXPECT_EQ(config.error().code, Errc::invalid_argument);
    return config.error().context;
}

TEST(Config, MinimalHasTheDocumentedDefaults) {
    const auto config = parse_config(kMinimal, "t.toml");
    ASSERT_TRUE(config.ok()) << config.error().message();
    EXPECT_EQ(config->site.name, "site-a");
    EXPECT_EQ(config->peer_site, "site-b");
    EXPECT_EQ(config->site.state_dir, "/var/lib/evacgw");
    EXPECT_EQ(config->api_socket, "/run/evacgw/api.sock");
    EXPECT_EQ(config->staging.ram_dir, "/var/lib/evacgw/ram");
    EXPECT_TRUE(config->wan.listens);
    EXPECT_FALSE(config->webhook.enabled);
    EXPECT_FALSE(config->site.has_position);
    EXPECT_TRUE(config->alert_rules.empty());
    EXPECT_TRUE(config->evacuation.silence_may_run);
    EXPECT_EQ(config->evacuation.silence_s, 10);
}

TEST(Config, EveryValueArrives) {
    const auto config = parse_config(kMinimal + R"(
rate_ceiling_mbit = 0.5
prefix_length = 0
[[alert.rule]]
source = "cap"
action = "arm"
areas = ["390"]
min_intensity = "5+"
[[alert.rule]]
source = "any"
min_magnitude = 7
[landing]
path_map = [["/a", "/b"]]
[evacuation]
policy = "planned"
)",
                                     "t.toml");
    ASSERT_TRUE(config.ok()) << config.error().message();
    EXPECT_EQ(config->wan.ceiling_mbit, 0.5);
    EXPECT_EQ(config->wan.prefix_length, 0);
    ASSERT_EQ(config->alert_rules.size(), 2u);
    EXPECT_EQ(config->alert_rules[0].action, "arm");
    EXPECT_EQ(config->alert_rules[0].areas, std::vector<std::string>{"390"});
    EXPECT_EQ(config->alert_rules[1].min_magnitude, 7);
    EXPECT_EQ(config->landing.path_map.front().second, "/b");
    EXPECT_FALSE(config->evacuation.silence_may_run);
}

TEST(Config, RefusalsNameFileKeyValueAndWhatIsAccepted) {
    EXPECT_EQ(refusal("[evacuation]\nsilence_s = 0.5\n"),
              "t.toml: evacuation.silence_s: 0.5 is refused; accepted: a number from 1 to 86400");
    EXPECT_EQ(
        refusal("[evacuation]\npolicy = \"hope\"\n"),
        "t.toml: evacuation.policy: \"hope\" is refused; accepted: \"evacuation\", \"planned\"");
    EXPECT_EQ(refusal("[evacuation]\nsilence_s = nan\n"),
              "t.toml: evacuation.silence_s: nan is refused; accepted: a number from 1 to 86400");
    EXPECT_EQ(refusal("[api]\nport = 1\n"), "t.toml: api.port: unknown key; accepted: socket");
    EXPECT_EQ(refusal("[webhook]\nlisten = \"1.2.3.4:5\"\n"),
              "t.toml: webhook.cert: missing; text is needed");
    EXPECT_EQ(
        refusal("[[alert.rule]]\nsource = \"json\"\nmin_intensity = \"5-\"\n"),
        "t.toml: alert.rule[0].min_intensity: needs site.latitude and site.longitude, or areas");
    EXPECT_EQ(refusal("[[alert.rule]]\nsource = \"json\"\nmax_distance_km = 5\n"),
              "t.toml: alert.rule[0].max_distance_km: needs site.latitude and site.longitude");
}

TEST(Config, ALongValueIsNotEchoedWhole) {
    const std::string text =
        refusal("[evacuation]\npolicy = \"" + std::string(100'000, 'x') + "\"\n");
    EXPECT_LT(text.size(), 300u);
    EXPECT_NE(text.find("evacuation.policy"), std::string::npos);
}

TEST(Config, SiteNamesAreNames) {
    std::string text = kMinimal;
    text.replace(text.find("site-a"), 6, "../etc");
    const auto config = parse_config(text, "t.toml");
    ASSERT_FALSE(config.ok());
    EXPECT_NE(config.error().context.find("site.name: \"../etc\" is refused"), std::string::npos);
}

}  // namespace
}  // namespace evac::daemon
