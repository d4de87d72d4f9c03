// Compiled with -mavx2; called only where the processor has it.
#define EVAC_HASH_VARIANT avx2
#include "page_hash_kernel.hpp"
