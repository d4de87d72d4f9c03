// Bytes to ship the memory of real guests whose disk is staged already, through the real Reducer
// and Expander, against zero elimination and zstd of the same pages. What away ends with is
// compared with the dumps.
//   reduce_corpus --corpus DIR [--workload NAME]... [--json FILE] [--level N] [--tuned]
//                 [--pages FILE]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "baseline.hpp"
#include "innodb.hpp"
#include "pair.hpp"

namespace {

using namespace evac;
using namespace evac::reduce;
using dedup::Rung;

constexpr double kMiBytes = 1048576;
constexpr double kMariadbTarget = 5, kPostgresTarget = 8, kInnodbTarget = 300;
constexpr double kTunedLinkBytesPerS = 100e6 / 8;

double mib(uint64_t bytes) {
    return static_cast<double>(bytes) / kMiBytes;
}

struct Settings {
    std::filesystem::path corpus;
    std::vector<std::string> workloads;
    std::string json;
    int level = 1;
    bool tuned = false;
    std::string pages;
};

struct Outcome {
    std::string name;
    Baseline baseline;
    uint64_t wire_bytes = 0;
    uint64_t wire_bytes_blind = 0;  // where home does not read its disk for bases
    uint64_t differing = 0;
    std::vector<float> innodb_wire;  // per changed InnoDB page of the later rounds
    double times_fewer() const {
        return static_cast<double>(baseline.smaller()) /
               static_cast<double>(std::max<uint64_t>(1, wire_bytes));
    }
};

double quantile(std::vector<float> values, double q) {
    if (values.empty()) return 0;
    const auto at = static_cast<size_t>(q * static_cast<double>(values.size() - 1));
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at),
                     values.end());
    return values[at];
}

void print_rungs(const Shipped& shipped, const dedup::ReducerStats& stats) {
    const auto line = [&](const char* name, uint64_t pages, uint64_t bytes) {
        if (pages == 0 && bytes == 0) return;
        std::printf("    %-20s %8llu pages  %8.2f MiB  %5.1f %%\n", name,
                    static_cast<unsigned long long>(pages), mib(bytes),
                    100.0 * static_cast<double>(bytes) /
                        static_cast<double>(std::max<uint64_t>(1, shipped.wire_bytes)));
    };
    uint64_t rung_bytes = 0;
    for (size_t i = 0; i < dedup::kRungCount; ++i) {
        const dedup::RungStats& rung = shipped.rungs.memory[i];
        line(dedup::to_string(static_cast<Rung>(i)), rung.pages, rung.wire_bytes);
        rung_bytes += rung.wire_bytes;
    }
    line("headers", 0, shipped.wire_bytes - rung_bytes);
    std::printf("    so far: bases read %llu (stale %llu), absent %llu; stale hits %llu\n",
                static_cast<unsigned long long>(stats.base_reads),
                static_cast<unsigned long long>(stats.base_reads_stale),
                static_cast<unsigned long long>(stats.bases_absent),
                static_cast<unsigned long long>(stats.stale_hits));
}

// To find out what goes as literals: `workload round page bytes`.
void append_pages(const Settings& settings, const std::string& name, int round,
                  const Shipped& shipped) {
    if (settings.pages.empty()) return;
    std::ofstream file(settings.pages, std::ios::app);
    for (size_t i = 0; i < shipped.pages.size(); ++i) {
        file << name << ' ' << round << ' ' << shipped.pages[i] << ' ' << shipped.page_wire[i]
             << '\n';
    }
}

struct Instant {
    Dump ram, disk;
};

Result<Instant> open_instant(const std::filesystem::path& folder, int number) {
    auto ram = Dump::open(folder / ("ram" + std::to_string(number) + ".bin"));
    if (!ram.ok()) return ram.error();
    auto disk = Dump::open(folder / ("disk" + std::to_string(number) + ".raw"));
    if (!disk.ok()) return disk.error();
    return Instant{std::move(ram).value(), std::move(disk).value()};
}

struct Round {
    Shipped ram, disk;
    uint64_t differing = 0;
};

// Disk first, then memory, as the classes of the WAN do.
Result<Round> ship_instant(Pair& pair, const Instant& instant, uint32_t round) {
    pair.set_disk(&instant.disk);
    auto disk = pair.ship(instant.disk, kDisk, Epoch{round});
    if (!disk.ok()) return disk.error();
    auto ram = pair.ship(instant.ram, kRam, Epoch{round});
    if (!ram.ok()) return ram.error();
    const uint64_t differing =
        pair.differing_pages(instant.disk, kDisk) + pair.differing_pages(instant.ram, kRam);
    return Round{std::move(ram).value(), std::move(disk).value(), differing};
}

Result<std::unique_ptr<Pair>> make_pair_for(const Instant& instant, int level, double link) {
    return Pair::create({level, link, instant.ram.pages(), instant.disk.pages()});
}

Status later_rounds(Pair& pair, const Settings& settings, Outcome& out) {
    const std::filesystem::path folder = settings.corpus / out.name;
    for (int number = 1;
         std::filesystem::exists(folder / ("ram" + std::to_string(number) + ".bin")); ++number) {
        auto instant = open_instant(folder, number);
        if (!instant.ok()) return instant.error();
        auto round = ship_instant(pair, *instant, static_cast<uint32_t>(number) + 1);
        if (!round.ok()) return round.error();
        out.differing += round->differing;
        const std::vector<bool> innodb = innodb_pages(instant->ram);
        std::vector<float> of_innodb;
        for (size_t i = 0; i < round->ram.pages.size(); ++i) {
            if (innodb[round->ram.pages[i]]) of_innodb.push_back(round->ram.page_wire[i]);
        }
        std::printf("  round %d: %llu pages of RAM changed, %.2f MiB (disk %llu, %.2f MiB)\n",
                    number + 1, static_cast<unsigned long long>(round->ram.changed_pages),
                    mib(round->ram.wire_bytes),
                    static_cast<unsigned long long>(round->disk.changed_pages),
                    mib(round->disk.wire_bytes));
        print_rungs(round->ram, pair.stats());
        append_pages(settings, out.name, number + 1, round->ram);
        if (!of_innodb.empty()) {
            std::printf(
                "    InnoDB: %zu pages, wire bytes each: %.0f median, %.0f at 75 %%, "
                "%.0f at 90 %%\n",
                of_innodb.size(), quantile(of_innodb, 0.5), quantile(of_innodb, 0.75),
                quantile(of_innodb, 0.9));
        }
        out.innodb_wire.insert(out.innodb_wire.end(), of_innodb.begin(), of_innodb.end());
    }
    return {};
}

Status print_tuned(const Instant& instant, const Baseline& baseline, const Settings& settings) {
    auto pair = make_pair_for(instant, settings.level, kTunedLinkBytesPerS);
    if (!pair.ok()) return pair.error();
    auto round = ship_instant(**pair, instant, 1);
    if (!round.ok()) return round.error();
    std::printf("  as the tuner would at 100 Mbit/s: %.1f MiB, %.2f times fewer\n",
                mib(round->ram.wire_bytes),
                static_cast<double>(baseline.smaller()) /
                    static_cast<double>(std::max<uint64_t>(1, round->ram.wire_bytes)));
    return {};
}

Result<Outcome> measure(const Settings& settings, const std::string& name) {
    const std::filesystem::path folder = settings.corpus / name;
    Outcome out;
    out.name = name;
    auto instant = open_instant(folder, 0);
    if (!instant.ok()) return instant.error();
    auto baseline = zero_elimination_and_zstd(instant->ram, settings.level);
    if (!baseline.ok()) return baseline.error();
    out.baseline = *baseline;
    auto pair = make_pair_for(*instant, settings.level, 0);
    if (!pair.ok()) return pair.error();
    auto first = ship_instant(**pair, *instant, 1);
    if (!first.ok()) return first.error();
    out.wire_bytes = first->ram.wire_bytes;
    out.differing = first->differing;
    std::printf(
        "%s: %.0f MiB of RAM, %.0f not zero; zero elimination + zstd %d: %.1f MiB in 64 KiB "
        "batches, %.1f per page\n",
        name.c_str(), mib(instant->ram.pages() * kPageBytes), mib(baseline->pages * kPageBytes),
        settings.level, mib(baseline->batch_bytes), mib(baseline->page_bytes));
    std::printf("  disk staged before in %.1f MiB; RAM: %.1f MiB, %.2f times fewer, NAKs %llu\n",
                mib(first->disk.wire_bytes), mib(out.wire_bytes), out.times_fewer(),
                static_cast<unsigned long long>(first->ram.naks));
    print_rungs(first->ram, (*pair)->stats());
    append_pages(settings, name, 1, first->ram);
    EVAC_TRY(later_rounds(**pair, settings, out));
    pair->reset();
    auto blind = Pair::create(
        {settings.level, 0, instant->ram.pages(), instant->disk.pages(), /*read_disk=*/false});
    if (!blind.ok()) return blind.error();
    auto blindly = ship_instant(**blind, *instant, 1);
    if (!blindly.ok()) return blindly.error();
    out.wire_bytes_blind = blindly->ram.wire_bytes;
    out.differing += blindly->differing;
    std::printf("  without reading home's disk for bases: %.1f MiB\n", mib(out.wire_bytes_blind));
    blind->reset();
    if (settings.tuned) EVAC_TRY(print_tuned(*instant, out.baseline, settings));
    std::printf("  away's copy: %llu pages differ\n\n",
                static_cast<unsigned long long>(out.differing));
    std::fflush(stdout);
    return out;
}

nlohmann::json figure(double value, const char* unit, double target, bool met) {
    return {{"value", value}, {"unit", unit}, {"target", target}, {"met", met}};
}

// Without a target of the issue it is information.
nlohmann::json fewer_figure(const Outcome& outcome) {
    const double fewer = outcome.times_fewer();
    nlohmann::json out{{"value", fewer}, {"unit", "times"}, {"target", nullptr}, {"met", nullptr}};
    if (outcome.name == "mariadb_rw")
        out = figure(fewer, "times", kMariadbTarget, fewer >= kMariadbTarget);
    if (outcome.name == "postgresql")
        out = figure(fewer, "times", kPostgresTarget, fewer >= kPostgresTarget);
    out["baseline"] = mib(outcome.baseline.smaller());
    out["baseline_unit"] = "MiB";
    out["wire_mib"] = mib(outcome.wire_bytes);
    return out;
}

nlohmann::json figures_of(const std::vector<Outcome>& outcomes) {
    nlohmann::json out = nlohmann::json::object();
    uint64_t differing = 0;
    for (const Outcome& outcome : outcomes) {
        out[outcome.name + "_times_fewer"] = fewer_figure(outcome);
        out[outcome.name + "_times_fewer_without_disk_reads"] = {
            {"value", static_cast<double>(outcome.baseline.smaller()) /
                          static_cast<double>(std::max<uint64_t>(1, outcome.wire_bytes_blind))},
            {"unit", "times"},
            {"target", nullptr},
            {"met", nullptr}};
        differing += outcome.differing;
        if (outcome.name != "mariadb_rw" || outcome.innodb_wire.empty()) continue;
        const double median = quantile(outcome.innodb_wire, 0.5);
        nlohmann::json innodb = figure(median, "B", kInnodbTarget, median <= kInnodbTarget);
        innodb["pages"] = outcome.innodb_wire.size();
        out["innodb_page_wire_bytes_median"] = innodb;
    }
    out["corpus_pages_differing"] =
        figure(static_cast<double>(differing), "pages", 0, differing == 0);
    return out;
}

std::optional<Settings> parse(int argc, char** argv, int& exit_code) {
    Settings settings;
    CLI::App cli{"Bytes to ship the memory of the corpus' guests"};
    cli.add_option("--corpus", settings.corpus, "folder that corpus.py printed")
        ->required()
        ->check(CLI::ExistingDirectory);
    cli.add_option("--workload", settings.workloads, "only these");
    cli.add_option("--json", settings.json, "figures");
    cli.add_option("--level", settings.level, "zstd's, for us and for the baseline")
        ->check(CLI::Range(-7, 19));
    cli.add_option("--pages", settings.pages, "a line for each page of RAM sent: what it cost");
    cli.add_flag("--tuned", settings.tuned, "also with the settings that the tuner takes");
    try {
        cli.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        exit_code = cli.exit(error) == 0 ? 0 : 2;
        return std::nullopt;
    }
    if (settings.workloads.empty()) {
        for (const auto& entry : std::filesystem::directory_iterator(settings.corpus)) {
            if (std::filesystem::exists(entry.path() / "ram0.bin")) {
                settings.workloads.push_back(entry.path().filename());
            }
        }
        std::sort(settings.workloads.begin(), settings.workloads.end());
    }
    return settings;
}

}  // namespace

int main(int argc, char** argv) {
    int exit_code = 2;
    const auto settings = parse(argc, argv, exit_code);
    if (!settings) return exit_code;
    std::vector<Outcome> outcomes;
    for (const std::string& name : settings->workloads) {
        auto outcome = measure(*settings, name);
        if (!outcome.ok()) {
            std::fprintf(stderr, "reduce_corpus: %s: %s\n", name.c_str(),
                         outcome.error().message().c_str());
            return 1;
        }
        outcomes.push_back(std::move(outcome).value());
    }
    if (outcomes.empty()) {
        std::fprintf(stderr, "reduce_corpus: no captures in %s\n", settings->corpus.c_str());
        return 1;
    }
    const nlohmann::json figures = figures_of(outcomes);
    if (!settings->json.empty()) {
        std::ofstream file(settings->json);
        file << nlohmann::json{{"figures", figures}}.dump(2) << "\n";
        if (!file.flush()) {
            std::fprintf(stderr, "reduce_corpus: cannot write %s\n", settings->json.c_str());
            return 1;
        }
    }
    return figures["corpus_pages_differing"]["met"] ? 0 : 1;
}
