#pragma once
// Figures of a benchmark, printed and as JSON: {"figures": {name: {value, unit, target, met,
// baseline}}}. For benchmarks only.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace evac::bench {

inline double cpu_seconds(clockid_t clock = CLOCK_THREAD_CPUTIME_ID) {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// CPU seconds of the calling thread: the median of `runs`.
inline double median_cpu_seconds(int runs, const std::function<void()>& work) {
    std::vector<double> seconds;
    for (int run = 0; run < runs; ++run) {
        const double start = cpu_seconds();
        work();
        seconds.push_back(cpu_seconds() - start);
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
}

struct Target {
    bool at_least = true;
    double value = 0;
};

class Figures {
  public:
    // `--json FILE` among the arguments; everything else is the benchmark's own.
    Figures(int argc, char** argv) {
        for (int i = 1; i + 1 < argc; ++i) {
            if (std::strcmp(argv[i], "--json") == 0) path_ = argv[i + 1];
        }
    }

    void add(const std::string& name, double value, const std::string& unit,
             std::optional<Target> target = std::nullopt,
             std::optional<double> baseline = std::nullopt) {
        std::string line = "\"" + name + "\": {\"value\": " + number(value) + ", \"unit\": \"" +
                           unit + "\", \"target\": ";
        if (target) {
            const bool met = target->at_least ? value >= target->value : value <= target->value;
            line += std::string("\"") + (target->at_least ? ">= " : "<= ") + number(target->value) +
                    "\", \"met\": " + (met ? "true" : "false");
        } else {
            line += "null, \"met\": null";
        }
        if (baseline) line += ", \"baseline\": " + number(*baseline);
        lines_.push_back(line + "}");
        std::printf("  %s\n", lines_.back().c_str());
        std::fflush(stdout);
    }

    // The exit status: 0, or 1 when the file could not be written.
    int finish() const {
        if (path_.empty()) return 0;
        std::FILE* file = std::fopen(path_.c_str(), "w");
        if (file == nullptr) {
            std::perror(path_.c_str());
            return 1;
        }
        std::fputs("{\"figures\": {\n", file);
        for (size_t i = 0; i < lines_.size(); ++i) {
            std::fprintf(file, "  %s%s\n", lines_[i].c_str(), i + 1 < lines_.size() ? "," : "");
        }
        std::fputs("}}\n", file);
        return std::fclose(file) == 0 ? 0 : 1;
    }

  private:
    static std::string number(double value) {
        char text[32];
        std::snprintf(text, sizeof text, "%.4g", value);
        return text;
    }
    std::string path_;
    std::vector<std::string> lines_;
};

}  // namespace evac::bench
