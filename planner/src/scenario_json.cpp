#include "scenario_json.hpp"

#include <cmath>
#include <vector>

namespace evac::planner::rules {
namespace {

using nlohmann::json;

// Builds the document and knows where it is.
class PathSax {
  public:
    explicit PathSax(std::string_view subject) : subject_(subject) {}

    Result<json> finish() && {
        if (error_) return std::move(*error_);
        return std::move(root_);
    }
    bool null() { return put(nullptr); }
    bool boolean(bool value) { return put(value); }
    bool number_integer(json::number_integer_t value) { return put(value); }
    bool number_unsigned(json::number_unsigned_t value) { return put(value); }
    bool number_float(json::number_float_t value, const json::string_t&) { return put(value); }
    bool string(json::string_t& value) { return put(std::move(value)); }
    bool binary(json::binary_t&) { return stop(refuse(path(), "binary", "JSON text")); }
    bool start_object(size_t) { return enter(json::object()); }
    bool start_array(size_t) { return enter(json::array()); }
    bool end_object() { return leave(); }
    bool end_array() { return leave(); }
    bool key(json::string_t& value) {
        key_ = value;
        if (!stack_.back()->contains(value)) return true;
        return stop(refuse(path(), "a second value", "each field once"));
    }
    bool parse_error(size_t position, const std::string& token,
                     const nlohmann::detail::exception&) {
        return stop(make_error(Errc::invalid_argument,
                               path() + ": not JSON at byte " + std::to_string(position) +
                                   ", near " + shown(token) +
                                   "; accepted: JSON (RFC 8259, UTF-8), finite numbers"));
    }

  private:
    bool stop(Error error) {
        error_ = std::move(error);
        return false;
    }
    // The value that is being read.
    std::string path() const {
        std::string out;
        for (size_t i = 0; i < stack_.size(); ++i) {
            if (stack_[i]->is_array()) {
                // The lists above the innermost hold the one that is being read already.
                const size_t size = stack_[i]->size();
                out = index_path(out, i + 1 < stack_.size() ? size - 1 : size);
            } else {
                const std::string& name = i + 1 < stack_.size() ? keys_[i] : key_;
                if (!name.empty()) out = field_path(out, name.substr(0, kNameBytesMax));
            }
        }
        return out.empty() ? subject_ : out;
    }
    json* insert(json value) {
        if (stack_.empty()) {
            root_ = std::move(value);
            return &root_;
        }
        json& into = *stack_.back();
        if (into.is_array()) {
            into.push_back(std::move(value));
            return &into.back();
        }
        json& slot = into[key_];
        slot = std::move(value);
        return &slot;
    }
    bool put(json value) {
        insert(std::move(value));
        if (!stack_.empty() && stack_.back()->is_object()) key_.clear();
        return true;
    }
    bool enter(json empty) {
        if (stack_.size() == kJsonDepthMax) {
            return stop(refuse(path(), "a deeper level",
                               "at most " + std::to_string(kJsonDepthMax) + " levels"));
        }
        // Pointers stay good: a list grows only when what is open in it has been left.
        json* at = insert(std::move(empty));
        if (!stack_.empty()) keys_.push_back(key_);
        stack_.push_back(at);
        key_.clear();
        return true;
    }
    bool leave() {
        stack_.pop_back();
        if (!keys_.empty()) keys_.pop_back();
        key_.clear();
        return true;
    }

    std::string subject_;
    json root_;
    std::vector<json*> stack_;
    std::vector<std::string> keys_;  // by level, the field that holds the next level
    std::string key_;
    std::optional<Error> error_;
};

std::string joined(std::initializer_list<const char*> names) {
    std::string text;
    for (const char* name : names) text.append(text.empty() ? "" : ", ").append(name);
    return text;
}

std::string shown_json(const json& value) {
    if (value.is_string()) return shown(value.get_ref<const std::string&>());
    if (value.is_number()) return shown(value.get<double>());
    if (value.is_boolean()) return value.get<bool>() ? "true" : "false";
    if (value.is_null()) return "null";
    return value.is_array() ? "[...]" : "{...}";
}

std::string accepted_number(Range range) {
    return std::string("a number ") + (range.open ? "> " : ">= ") + shown(range.min) +
           ", at most " + shown(range.max);
}

}  // namespace

Result<json> read_json(std::string_view text, std::string_view subject, size_t bytes_max) {
    if (text.size() > bytes_max) {
        return refuse(subject, std::to_string(text.size()) + " bytes",
                      "at most " + std::to_string(bytes_max) + " bytes");
    }
    PathSax sax(subject);
    json::sax_parse(text.begin(), text.end(), &sax);
    return std::move(sax).finish();
}

void JsonNode::object(std::initializer_list<const char*> required,
                      std::initializer_list<const char*> optional) {
    if (error_) return;
    const std::string known = joined(required) +
                              (required.size() > 0 && optional.size() > 0 ? ", " : "") +
                              joined(optional);
    if (!value_.is_object()) return refuse(shown_json(value_), "an object with " + known);
    for (const auto& [key, ignored] : value_.items()) {
        const auto is = [&name = key](const char* field) { return name == field; };
        if (std::any_of(required.begin(), required.end(), is) ||
            std::any_of(optional.begin(), optional.end(), is)) {
            continue;
        }
        const std::string at = path_ == "scenario" ? "" : path_;
        error_ = make_error(Errc::invalid_argument, field_path(at, key.substr(0, kNameBytesMax)) +
                                                        ": unknown field " + shown(key) +
                                                        "; accepted: " + known);
        return;
    }
    for (const char* field : required) {
        if (value_.contains(field)) continue;
        error_ = make_error(
            Errc::invalid_argument,
            field_path(path_, field) + ": missing; accepted: all of " + joined(required));
        return;
    }
}

void JsonNode::number(const char* field, double& out, Range range) const {
    if (has(field)) at(field).number(out, range);
}

void JsonNode::number(double& out, Range range) const {
    if (error_) return;
    const double value = value_.is_number() ? value_.get<double>() : std::nan("");
    const bool above = range.open ? value > range.min : value >= range.min;  // false for NaN
    if (!std::isfinite(value) || !above || value > range.max) {
        return refuse(shown_json(value_), accepted_number(range));
    }
    out = value;
}

void JsonNode::whole(const char* field, uint64_t& out, uint64_t min, uint64_t max) const {
    if (!has(field)) return;
    const json& value = value_.at(field);
    const bool fits =
        value.is_number_unsigned() && value.get<uint64_t>() >= min && value.get<uint64_t>() <= max;
    if (!fits) {
        return refuse_at(
            field, shown_json(value),
            "a whole number from " + std::to_string(min) + " to " + std::to_string(max));
    }
    out = value.get<uint64_t>();
}

std::optional<std::string> JsonNode::text(const char* field, std::string_view accepted) const {
    return has(field) ? at(field).text(accepted) : std::nullopt;
}

std::optional<std::string> JsonNode::text(std::string_view accepted) const {
    if (error_) return std::nullopt;
    if (value_.is_string()) return value_.get<std::string>();
    refuse(shown_json(value_), accepted);
    return std::nullopt;
}

bool JsonNode::is_list(const char* field, size_t entries_max) const {
    const json& value = value_.at(field);
    const std::string accepted = "a list of 1 to " + std::to_string(entries_max) + " entries";
    if (!value.is_array()) {
        refuse_at(field, shown_json(value), accepted);
    } else if (value.empty()) {
        refuse_at(field, "an empty list", accepted);
    } else if (value.size() > entries_max) {
        refuse_at(field, std::to_string(value.size()) + " entries", accepted);
    }
    return !error_;
}

}  // namespace evac::planner::rules
