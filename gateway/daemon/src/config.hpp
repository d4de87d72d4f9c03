#pragma once
// The daemon's configuration (TOML). Strict: an unknown key, a wrong type or a value out of range
// is an error that names the key, the value and what is accepted. docs/configuration.md lists every
// key; a test holds both together.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "evac/core/result.hpp"
#include "evac/wan/tls_config.hpp"

namespace evac::daemon {

struct SiteConfig {
    std::string name;
    std::string state_dir;  // everything durable
    std::string run_dir;    // sockets; may be on tmpfs
    double latitude = 0, longitude = 0;
    bool has_position = false;
};

struct WanConfig {
    std::string port;         // dpdk:DEVICE (see wan_dpdk/dpdk_port.hpp) | kernel
    std::string local, peer;  // ip:port
    int prefix_length = 24;
    std::string gateway;  // next hop when the peer is not in the local subnet; empty = none
    int vlan = 0;         // 802.1Q identifier, 0 = untagged; dpdk only
    int vlan_priority = 0;
    bool listens = false;  // role = "listen": the handshake's server
    double ceiling_mbit = 10'000;
    std::string ca, cert, key;
    std::string crl;  // revocation lists of `ca`; empty = nobody is revoked
    bool allow_address_change = true;
};

struct WebhookConfig {
    bool enabled = false;
    std::string listen, cert, key, secret_file, client_ca;
};

struct PrestageConfig {
    double interval_s = 5;  // a VM's rounds start at least this far apart
    double rpo_target_s =
        30;  // a VM whose newest recovery point is older is "behind", not "protected"
    double cpu_share = 0.5;  // of one core, for all rounds of this host together
    uint64_t rounds_at_once = 1;
    double ceiling_mbit = 0;   // prestaging on the WAN; 0 = no ceiling of its own
    bool scavenge = true;      // prestaging yields the line to other traffic
    uint64_t queue_mib = 512;  // all dirty queues together
    int zstd_level = 0;        // 0: not given, reduction tunes itself
    uint64_t index_table_mib = 64;
    uint64_t index_store_mib = 512;
    uint64_t delta_cache_mib = 256;
    double background_share = 0.05;  // of the reducer thread: re-indexing, reads of home's disks
};

struct StagingConfig {
    std::string ram_dir;  // main RAM of staged VMs; tmpfs or disk; default state_dir/ram
    uint32_t recovery_points = 3;
};

struct LandingConfig {
    std::string qemu = "qemu-system-x86_64";
    std::vector<std::pair<std::string, std::string>> path_map;
};

struct EvacuationConfig {
    bool silence_may_run = true;  // policy = "evacuation"; false: "planned"
    double silence_s = 10;
    double window_s = 0;        // from an alert until the site may be dark; 0 = not known
    double standing_s = 1800;   // how long the order of an alert stands
    double lookahead_ms = 400;  // the next guest is stopped when less than this is left to send
};

struct AlertRuleConfig {
    std::string source;         // "jma" | "cap" | "json" | "power" | "any"
    std::string min_intensity;  // JMA class: "5-"
    double min_magnitude = 0;
    double max_distance_km = 0;
    std::vector<std::string> areas;
    std::string action = "evacuate";  // or "arm"
};

struct Config {
    SiteConfig site;
    std::string pair_secret_file, peer_site;
    WanConfig wan;
    std::string api_socket;
    WebhookConfig webhook;
    std::vector<AlertRuleConfig> alert_rules;
    int alert_sources_needed = 1;
    PrestageConfig prestage;
    StagingConfig staging;
    LandingConfig landing;
    EvacuationConfig evacuation;
};

Result<Config> load_config(const std::string& path);
Result<Config> parse_config(const std::string& text, const std::string& name);

// What a parsed configuration points to: addresses, port, certificates and keys, secrets. Only
// reads; done before anything is made, so that a refused configuration leaves no trace.
Status check_config(const Config& config);

// The transport's certificates, lists and names as configured, read now. The two gateways of
// another pair are refused by `secret`, of which only a digest goes over the line.
Result<std::shared_ptr<const wan::TlsContext>> load_wan_tls(const Config& config,
                                                            const std::string& secret);

// 64 or more hex digits (32 bytes), from a file that only its owner may read.
Result<std::string> load_pair_secret(const std::string& path);

}  // namespace evac::daemon
