// VM facts from the peer: whatever is accepted is judged, compared and written again without
// change.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "evac/prestage/enrolment.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace evac::prestage;
    const auto facts = facts_from_text({reinterpret_cast<const char*>(data), size});
    if (!facts.ok()) return 0;
    static_cast<void>(refusals(*facts));
    static_cast<void>(region_list(*facts));
    if (!compare(*facts, *facts).empty()) std::abort();
    const auto again = facts_from_text(facts_to_text(*facts));
    if (!again.ok() || !(*again == *facts)) std::abort();
    return 0;
}
