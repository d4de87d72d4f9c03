#pragma once
// EVAC_ASSERT stays on in release. Programmer errors only: never for bytes from a peer, guest, disk
// or webhook, which get an Error instead.
namespace evac {
[[noreturn]] void assert_failed(const char* expression, const char* file, int line);
}
#define EVAC_ASSERT(expr)                           \
    (static_cast<bool>(expr) ? static_cast<void>(0) \
                             : ::evac::assert_failed(#expr, __FILE__, __LINE__))
