#include "table.hpp"

#include <algorithm>
#include <cstdio>

namespace evac::ctl {
namespace {

bool is_number(const std::string& text) {
    return !text.empty() && text.find_first_not_of("0123456789.-+%x ") == std::string::npos;
}

// Code points, not bytes.
size_t width_of(const std::string& text) {
    return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }));
}

}  // namespace

std::string Table::text() const {
    std::vector<size_t> widths;
    for (const auto& row : rows_) {
        widths.resize(std::max(widths.size(), row.size()));
        for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
    }
    std::string out;
    for (size_t r = 0; r < rows_.size(); ++r) {
        std::string line;
        for (size_t i = 0; i < rows_[r].size(); ++i) {
            const std::string pad(widths[i] - width_of(rows_[r][i]), ' ');
            const bool right =
                r != 0 ? is_number(rows_[r][i]) : rows_.size() > 1 && is_number(rows_[1][i]);
            if (i != 0) line += "  ";
            line += right ? pad + rows_[r][i] : rows_[r][i] + pad;
        }
        line.erase(line.find_last_not_of(' ') + 1);
        out += line + "\n";
    }
    return out;
}

std::string decimal(double value, int digits) {
    char text[64];
    std::snprintf(text, sizeof(text), "%.*f", digits, value);
    return text;
}

}  // namespace evac::ctl
