#pragma once
// Result<T>: a value or an Error; discarding one does not compile under -Werror.
// Foreign statuses, errno and exceptions are turned into an Error once, in the adapter that meets
// them.
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <variant>

#include "evac/core/assert.hpp"

namespace evac {

enum class Errc : unsigned char {
    invalid_argument,  // the caller's or the operator's input; context names field, value, what is
                       // accepted
    not_found,
    already_exists,
    refused,      // a rule says no (policy, compatibility, wrong state)
    corrupt,      // bytes from a peer, a guest, a disk or a file do not follow their format
    io,           // the operating system said no; sys_errno is set
    unavailable,  // may work later (peer away, queue full)
    timeout,
    cancelled,
    internal,
};

const char* to_string(Errc code);

struct Error {
    Errc code = Errc::internal;
    int sys_errno = 0;    // 0 = none
    std::string context;  // for people: what was tried, on what, what is accepted

    std::string message() const;  // "context: strerror (code)"
};

inline Error make_error(Errc code, std::string context) {
    return Error{code, 0, std::move(context)};
}
// Captures errno at the call.
inline Error io_error(std::string context, int sys_errno = errno) {
    return Error{Errc::io, sys_errno, std::move(context)};
}

template <class T>
class [[nodiscard]] Result {
  public:
    Result(T value)
        : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit by design
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

    bool ok() const { return state_.index() == 0; }
    explicit operator bool() const { return ok(); }

    T& value() & {
        EVAC_ASSERT(ok());
        return *std::get_if<0>(&state_);
    }
    const T& value() const& {
        EVAC_ASSERT(ok());
        return *std::get_if<0>(&state_);
    }
    T&& value() && {
        EVAC_ASSERT(ok());
        return std::move(*std::get_if<0>(&state_));
    }
    T& operator*() & { return value(); }
    const T& operator*() const& { return value(); }
    T&& operator*() && { return std::move(*this).value(); }
    T* operator->() { return &value(); }
    const T* operator->() const { return &value(); }

    const Error& error() const& {
        EVAC_ASSERT(!ok());
        return *std::get_if<1>(&state_);
    }
    Error&& error() && {
        EVAC_ASSERT(!ok());
        return std::move(*std::get_if<1>(&state_));
    }

  private:
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
  public:
    Result() = default;
    Result(Error error) : error_(std::move(error)), ok_(false) {}  // NOLINT

    bool ok() const { return ok_; }
    explicit operator bool() const { return ok_; }
    const Error& error() const& {
        EVAC_ASSERT(!ok_);
        return error_;
    }
    Error&& error() && {
        EVAC_ASSERT(!ok_);
        return std::move(error_);
    }

  private:
    Error error_;
    bool ok_ = true;
};

using Status = Result<void>;

}  // namespace evac

// Returns the error of a failed Result from the enclosing function.
#define EVAC_TRY(expr)                                                            \
    do {                                                                          \
        auto&& evac_try_result = (expr);                                          \
        if (!evac_try_result.ok()) return ::evac::Error(evac_try_result.error()); \
    } while (false)
