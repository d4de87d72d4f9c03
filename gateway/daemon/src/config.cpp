#include "config.hpp"

#include <optional>
#include <set>
#include <sstream>

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include "config_text.hpp"

namespace evac::daemon {
namespace {

constexpr size_t kSiteNameMax = 64;

// Reads one table and remembers the first thing that was wrong with it.
class Section {
  public:
    Section(const toml::table* table, std::string path) : table_(table), path_(std::move(path)) {}

    std::string text(const char* key, std::optional<std::string> fallback = std::nullopt) {
        const auto* node = find(key);
        if (node == nullptr) return missing(key, fallback, "text");
        if (const auto value = node->value_exact<std::string>()) {
            if (!value->empty() || fallback) return *value;
            fail(key, "\"\"", "a text that is not empty");
            return {};
        }
        fail(key, show(*node), "a text");
        return {};
    }
    double number(const char* key, double fallback, double low, double high) {
        const auto* node = find(key);
        if (node == nullptr) return fallback;
        const auto value = node->is_number() ? node->value<double>() : std::nullopt;
        if (value && *value >= low && *value <= high) return *value;
        fail(key, show(*node), "a number from " + plain(low) + " to " + plain(high));
        return fallback;
    }
    uint64_t whole(const char* key, uint64_t fallback, uint64_t low, uint64_t high) {
        const auto* node = find(key);
        if (node == nullptr) return fallback;
        const auto value = node->value_exact<int64_t>();
        if (value && *value >= static_cast<int64_t>(low) && *value <= static_cast<int64_t>(high)) {
            return static_cast<uint64_t>(*value);
        }
        fail(key, show(*node),
             "a whole number from " + std::to_string(low) + " to " + std::to_string(high));
        return fallback;
    }
    std::string choice(const char* key, std::optional<std::string> fallback,
                       const std::vector<std::string>& accepted) {
        const std::string value = text(key, fallback);
        for (const auto& option : accepted) {
            if (value == option) return value;
        }
        std::string list;
        for (const auto& option : accepted) list += (list.empty() ? "\"" : ", \"") + option + "\"";
        if (!error_) fail(key, quoted(value), list);
        return accepted.front();
    }
    std::vector<std::string> texts(const char* key) {
        std::vector<std::string> values;
        const auto* node = find(key);
        if (node == nullptr) return values;
        const auto* array = node->as_array();
        if (array == nullptr) {
            fail(key, show(*node), "a list of texts");
            return values;
        }
        for (const auto& item : *array) {
            if (const auto value = item.value_exact<std::string>()) {
                values.push_back(*value);
            } else {
                fail(key, show(item), "a list of texts");
            }
        }
        return values;
    }
    std::vector<std::pair<std::string, std::string>> pairs(const char* key) {
        std::vector<std::pair<std::string, std::string>> values;
        const auto* node = find(key);
        if (node == nullptr) return values;
        const auto* array = node->as_array();
        const char* accepted = "a list of [\"from\", \"to\"]";
        if (array == nullptr) {
            fail(key, show(*node), accepted);
            return values;
        }
        for (const auto& item : *array) {
            const auto* pair = item.as_array();
            if (pair != nullptr && pair->size() == 2 && (*pair)[0].is_string() &&
                (*pair)[1].is_string()) {
                values.emplace_back(*(*pair)[0].value<std::string>(),
                                    *(*pair)[1].value<std::string>());
            } else {
                fail(key, show(item), accepted);
            }
        }
        return values;
    }
    bool has(const char* key) { return find(key) != nullptr; }
    // Site names are parts of file names and the names in certificates.
    std::string site_name(const char* key) {
        std::string name = text(key);
        const bool plain_text = name.find_first_not_of(
                                    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                    "0123456789._-") == std::string::npos;
        if (!error_ && (!plain_text || name.size() > kSiteNameMax || name.front() == '.' ||
                        name.front() == '-')) {
            fail(key, quoted(name),
                 "1 to 64 of letters, digits, . _ -, the first a letter, a digit or _");
        }
        return name;
    }

    // Every key that was never asked for is unknown.
    Status finish() {
        if (!error_ && table_ != nullptr) {
            for (const auto& [key, node] : *table_) {
                if (known_.count(std::string(key.str())) == 0) {
                    error_ = make_error(Errc::invalid_argument,
                                        path_ + std::string(key.str()).substr(0, kEchoMax) +
                                            ": unknown key; accepted: " + known_list());
                    break;
                }
            }
        }
        if (error_) return *error_;
        return {};
    }

  private:
    const toml::node* find(const char* key) {
        known_.insert(key);
        return table_ == nullptr ? nullptr : table_->get(key);
    }
    std::string missing(const char* key, const std::optional<std::string>& fallback,
                        const char* what) {
        if (fallback) return *fallback;
        if (!error_) {
            error_ = make_error(Errc::invalid_argument,
                                path_ + key + ": missing; " + what + " is needed");
        }
        return {};
    }
    void fail(const std::string& key, const std::string& value, const std::string& accepted) {
        if (error_) return;
        error_ = refuse(path_ + key, value, accepted);
    }
    static std::string plain(double value) {
        std::ostringstream out;
        out << value;
        return out.str();
    }
    static std::string show(const toml::node& node) {
        std::ostringstream out;
        if (const auto text = node.value_exact<std::string>()) {
            out << quoted(*text);
        } else if (const auto whole = node.value_exact<int64_t>()) {
            out << *whole;
        } else if (const auto number = node.value_exact<double>()) {
            out << *number;
        } else if (const auto flag = node.value_exact<bool>()) {
            out << (*flag ? "true" : "false");
        } else {
            out << (node.is_array() ? "a list" : "a table");
        }
        return out.str();
    }
    std::string known_list() const {
        std::string list;
        for (const auto& key : known_) list += (list.empty() ? "" : ", ") + key;
        return list;
    }

    const toml::table* table_;
    std::string path_;
    std::set<std::string> known_;
    std::optional<Error> error_;
};

class Parser {
  public:
    explicit Parser(const toml::table& root) : root_(root) {}

    Result<Config> parse() {
        static const std::set<std::string> kSections{"site",    "pair",      "wan",      "api",
                                                     "webhook", "alert",     "prestage", "staging",
                                                     "landing", "evacuation"};
        for (const auto& [key, node] : root_) {
            if (kSections.count(std::string(key.str())) == 0) {
                return make_error(Errc::invalid_argument,
                                  std::string(key.str()).substr(0, kEchoMax) +
                                      ": unknown section; accepted: site, pair, wan, api, webhook, "
                                      "alert, prestage, "
                                      "staging, landing, evacuation");
            }
            if (!node.is_table()) {
                return make_error(Errc::invalid_argument,
                                  std::string(key.str()) + ": must be a section");
            }
        }
        EVAC_TRY(site());
        EVAC_TRY(wan());
        EVAC_TRY(surfaces());
        EVAC_TRY(alert());
        EVAC_TRY(engines());
        return std::move(config_);
    }

  private:
    Section section(const char* name) {
        return Section(root_[name].as_table(), std::string(name) + ".");
    }

    Status site() {
        Section s = section("site");
        config_.site.name = s.site_name("name");
        config_.site.state_dir = s.text("state_dir", "/var/lib/evacgw");
        config_.site.run_dir = s.text("run_dir", "/run/evacgw");
        config_.site.has_position = s.has("latitude") && s.has("longitude");
        config_.site.latitude = s.number("latitude", 0, -90, 90);
        config_.site.longitude = s.number("longitude", 0, -180, 180);
        const bool half = s.has("latitude") != s.has("longitude");
        EVAC_TRY(s.finish());
        if (half)
            return make_error(Errc::invalid_argument,
                              "site.latitude, site.longitude: both or none are accepted");
        Section p = section("pair");
        config_.pair_secret_file = p.text("secret_file");
        config_.peer_site = p.site_name("peer");
        EVAC_TRY(p.finish());
        if (config_.peer_site == config_.site.name) {
            return refuse("pair.peer", quoted(config_.peer_site), "another name than site.name");
        }
        return {};
    }
    Status wan() {
        Section s = section("wan");
        auto& wan = config_.wan;
        wan.port = s.text("port");
        wan.local = s.text("local");
        wan.peer = s.text("peer");
        wan.prefix_length = static_cast<int>(s.whole("prefix_length", 24, 0, 32));
        wan.gateway = s.text("gateway", "");
        wan.vlan = static_cast<int>(s.whole("vlan", 0, 0, 4094));
        wan.vlan_priority = static_cast<int>(s.whole("vlan_priority", 0, 0, 7));
        wan.listens = s.choice("role", std::nullopt, {"connect", "listen"}) == "listen";
        wan.ceiling_mbit = s.number("rate_ceiling_mbit", wan.ceiling_mbit, 0.1, 400'000);
        wan.ca = s.text("ca");
        wan.cert = s.text("cert");
        wan.key = s.text("key");
        wan.crl = s.text("crl", "");
        wan.allow_address_change = s.choice("allow_address_change", "yes", {"yes", "no"}) == "yes";
        return s.finish();
    }
    Status surfaces() {
        Section a = section("api");
        config_.api_socket = a.text("socket", config_.site.run_dir + "/api.sock");
        EVAC_TRY(a.finish());
        Section w = section("webhook");
        auto& webhook = config_.webhook;
        webhook.enabled = root_.contains("webhook");
        if (webhook.enabled) {
            webhook.listen = w.text("listen");
            webhook.cert = w.text("cert");
            webhook.key = w.text("key");
            webhook.secret_file = w.text("secret_file");
            webhook.client_ca = w.text("client_ca", "");
        }
        return w.finish();
    }
    Status alert() {
        const toml::table* table = root_["alert"].as_table();
        Section s(table, "alert.");
        config_.alert_sources_needed = static_cast<int>(s.whole("sources_needed", 1, 1, 8));
        s.has("rule");
        EVAC_TRY(s.finish());
        if (table == nullptr || !table->contains("rule")) return {};
        const toml::array* rules = table->get("rule")->as_array();
        if (rules == nullptr)
            return make_error(Errc::invalid_argument, "alert.rule: must be [[alert.rule]]");
        for (size_t i = 0; i < rules->size(); ++i) {
            const toml::table* entry = (*rules)[i].as_table();
            const std::string path = "alert.rule[" + std::to_string(i) + "].";
            if (entry == nullptr)
                return make_error(Errc::invalid_argument, path + ": must be a table");
            Section r(entry, path);
            AlertRuleConfig rule;
            rule.source = r.choice("source", std::nullopt, {"jma", "cap", "json", "power", "any"});
            rule.action = r.choice("action", "evacuate", {"evacuate", "arm"});
            if (r.has("min_intensity")) {
                rule.min_intensity = r.choice("min_intensity", std::nullopt,
                                              {"1", "2", "3", "4", "5-", "5+", "6-", "6+", "7"});
            }
            rule.min_magnitude = r.number("min_magnitude", 0, 0, 10);
            rule.max_distance_km = r.number("max_distance_km", 0, 0, 20'100);
            rule.areas = r.texts("areas");
            EVAC_TRY(r.finish());
            const bool near =
                rule.max_distance_km > 0 || (!rule.min_intensity.empty() && rule.areas.empty());
            if (near && !config_.site.has_position) {
                return make_error(
                    Errc::invalid_argument,
                    path + (rule.max_distance_km > 0 ? "max_distance_km" : "min_intensity") +
                        ": needs site.latitude and site.longitude" +
                        (rule.max_distance_km > 0 ? "" : ", or areas"));
            }
            config_.alert_rules.push_back(std::move(rule));
        }
        return {};
    }
    Status engines() {
        Section p = section("prestage");
        auto& prestage = config_.prestage;
        prestage.interval_s = p.number("interval_s", prestage.interval_s, 0.1, 86'400);
        prestage.rpo_target_s = p.number("rpo_target_s", prestage.rpo_target_s, 0.1, 604'800);
        prestage.cpu_share = p.number("cpu_share", prestage.cpu_share, 0.01, 64);
        prestage.rounds_at_once = p.whole("rounds_at_once", prestage.rounds_at_once, 1, 2);
        prestage.ceiling_mbit = p.number("ceiling_mbit", prestage.ceiling_mbit, 0, 400'000);
        prestage.scavenge = p.choice("scavenge", "yes", {"yes", "no"}) == "yes";
        prestage.queue_mib = p.whole("queue_mib", prestage.queue_mib, 16, 1 << 20);
        prestage.zstd_level = static_cast<int>(p.whole("zstd_level", 0, 1, 19));
        prestage.index_table_mib = p.whole("index_table_mib", prestage.index_table_mib, 1, 1 << 20);
        prestage.index_store_mib =
            p.whole("index_store_mib", prestage.index_store_mib, 16, 1 << 20);
        prestage.delta_cache_mib = p.whole("delta_cache_mib", prestage.delta_cache_mib, 1, 1 << 20);
        prestage.background_share = p.number("background_share", prestage.background_share, 0, 0.5);
        EVAC_TRY(p.finish());
        Section t = section("staging");
        config_.staging.ram_dir = t.text("ram_dir", config_.site.state_dir + "/ram");
        config_.staging.recovery_points =
            static_cast<uint32_t>(t.whole("recovery_points", 3, 1, 64));
        EVAC_TRY(t.finish());
        Section l = section("landing");
        config_.landing.qemu = l.text("qemu", config_.landing.qemu);
        config_.landing.path_map = l.pairs("path_map");
        EVAC_TRY(l.finish());
        Section e = section("evacuation");
        config_.evacuation.silence_may_run =
            e.choice("policy", "evacuation", {"evacuation", "planned"}) == "evacuation";
        config_.evacuation.silence_s =
            e.number("silence_s", config_.evacuation.silence_s, 1, 86'400);
        config_.evacuation.standing_s =
            e.number("standing_s", config_.evacuation.standing_s, 1, 604'800);
        config_.evacuation.window_s = e.number("window_s", config_.evacuation.window_s, 0, 604'800);
        config_.evacuation.lookahead_ms =
            e.number("lookahead_ms", config_.evacuation.lookahead_ms, 0, 60'000);
        return e.finish();
    }

    const toml::table& root_;
    Config config_;
};

}  // namespace

Result<Config> parse_config(const std::string& text, const std::string& name) {
    const toml::parse_result parsed = toml::parse(text, name);
    if (!parsed) {
        const auto& where = parsed.error().source().begin;
        return make_error(Errc::invalid_argument, name + ", line " + std::to_string(where.line) +
                                                      ": " +
                                                      std::string(parsed.error().description()));
    }
    auto config = Parser(parsed.table()).parse();
    if (!config.ok()) return make_error(config.error().code, name + ": " + config.error().context);
    return config;
}

Result<Config> load_config(const std::string& path) {
    auto text = read_file("configuration", path);
    EVAC_TRY(text);
    return parse_config(*text, path);
}

}  // namespace evac::daemon
