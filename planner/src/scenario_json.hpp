#pragma once
// A strict reader of small JSON documents: every refusal names the path of the field. The text is
// read by a SAX handler, so that the path is known also where the text is not JSON (NaN, 1e999) and
// a field that comes twice is seen.
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "evac/core/result.hpp"
#include "inventory_rules.hpp"

namespace evac::planner::rules {

inline constexpr size_t kJsonDepthMax = 8;

// `subject` names the whole document in messages. Errors: too long, too deep, not JSON, a field
// twice.
Result<nlohmann::json> read_json(std::string_view text, std::string_view subject, size_t bytes_max);

struct Range {
    double min = 0;
    double max = kNumberMax;
    bool open = false;  // the minimum itself is refused
};

// A place in the document. The first refusal is kept in `error`; everything after it does nothing.
class JsonNode {
  public:
    JsonNode(const nlohmann::json& value, std::string path, std::optional<Error>& error)
        : value_(value), path_(std::move(path)), error_(error) {}

    // This is an object with these fields and no others.
    void object(std::initializer_list<const char*> required,
                std::initializer_list<const char*> optional);
    bool has(const char* field) const {
        return !error_ && value_.is_object() && value_.contains(field);
    }
    JsonNode at(const char* field) const {
        return {value_.at(field), field_path(path_, field), error_};
    }
    // These do nothing when the field is absent.
    void number(const char* field, double& out, Range range) const;
    void whole(const char* field, uint64_t& out, uint64_t min, uint64_t max) const;
    std::optional<std::string> text(const char* field, std::string_view accepted) const;
    // each(JsonNode, index); an empty list is refused.
    template <class Each>
    void list(const char* field, size_t entries_max, Each each) const {
        if (!has(field) || !is_list(field, entries_max)) return;
        const JsonNode all = at(field);
        for (size_t i = 0; i < all.value_.size() && !error_; ++i) {
            each(JsonNode(all.value_[i], index_path(all.path_, i), error_), i);
        }
    }
    // The value itself, for lists of plain values.
    void number(double& out, Range range) const;
    std::optional<std::string> text(std::string_view accepted) const;

    void refuse(std::string_view value, std::string_view accepted) const {
        if (!error_) error_ = rules::refuse(path_, value, accepted);
    }
    void refuse_at(const char* field, std::string_view value, std::string_view accepted) const {
        if (!error_) error_ = rules::refuse(field_path(path_, field), value, accepted);
    }
    bool failed() const { return error_.has_value(); }

  private:
    bool is_list(const char* field, size_t entries_max) const;

    const nlohmann::json& value_;
    std::string path_;
    std::optional<Error>& error_;
};

}  // namespace evac::planner::rules
