#pragma once
// The memory of a catalogue: a file mapped shared, or no file at all.
#include <string>

#include "catalogue_format.hpp"
#include "evac/core/unique_fd.hpp"

namespace evac::prestage {

class CatalogueMap {
  public:
    static Result<CatalogueMap> anonymous(uint64_t bytes);
    // What is there is kept when its header is `header`, its state plausible and its size right;
    // else a new file takes its place (never the old one cut: another process may have it mapped)
    // and `begun` says why. All of it has its blocks, so that a full disk is an error here and no
    // SIGBUS later. Zeros, not formed.
    static Result<CatalogueMap> file(const std::string& path, const CatalogueHeader& header,
                                     uint64_t bytes, std::string& begun);
    CatalogueMap() = default;
    CatalogueMap(CatalogueMap&& other) noexcept;
    CatalogueMap& operator=(CatalogueMap&& other) noexcept;
    ~CatalogueMap();

    std::byte* data() const { return data_; }

  private:
    static Result<CatalogueMap> map(uint64_t bytes, int flags, int fd, const std::string& what);

    std::byte* data_ = nullptr;
    uint64_t bytes_ = 0;
};

}  // namespace evac::prestage
