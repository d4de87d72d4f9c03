#pragma once
// The variants of page_hash.hpp; all give the same values.
namespace evac::page_hash {

namespace baseline {
void page(unsigned long seed, const void* bytes, unsigned long* low, unsigned long* high);
unsigned long stretch(unsigned long seed, const void* bytes, unsigned long size);
}  // namespace baseline

#if defined(__x86_64__)
namespace avx2 {
void page(unsigned long seed, const void* bytes, unsigned long* low, unsigned long* high);
unsigned long stretch(unsigned long seed, const void* bytes, unsigned long size);
}  // namespace avx2
inline bool has_avx2() {
    return __builtin_cpu_supports("avx2") != 0;
}
#endif

}  // namespace evac::page_hash
