#pragma once
// Fixed-width tables for people.
#include <string>
#include <vector>

namespace evac::ctl {

class Table {
  public:
    explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
    void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
    std::string text() const;  // numbers to the right

  private:
    std::vector<std::vector<std::string>> rows_;
};

std::string decimal(double value, int digits);

}  // namespace evac::ctl
