# evac_library(NAME n LAYER l SOURCES ... [DEPS evac libs] [PUBLIC_LIBS ...] [PRIVATE_LIBS ...]
#              [PRIVATE_OPTIONS ...])
#   A static library `evac_<n>` with public headers in include/evac/<n>/. Configuration fails when a
#   dependency's layer is not below this one: the layers are
#     0 core   1 adapters shared by stages (qmp)   2 stages   3 joins (daemon, evacctl)
# evac_test(NAME n SOURCES ... LIBS ... [LABELS ...])     a gtest program, one ctest entry
# evac_fuzzer(NAME n SOURCE f CORPUS dir LIBS ...)        libFuzzer under EVAC_FUZZ, else corpus replay

add_library(evac_warnings INTERFACE)
target_compile_options(evac_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wnon-virtual-dtor
  -Wold-style-cast -Woverloaded-virtual -Werror)

define_property(TARGET PROPERTY EVAC_LAYER BRIEF_DOCS "layer" FULL_DOCS "layer of the library")

function(evac_library)
  cmake_parse_arguments(A "" "NAME;LAYER" "SOURCES;DEPS;PUBLIC_LIBS;PRIVATE_LIBS;PRIVATE_OPTIONS" ${ARGN})
  set(target evac_${A_NAME})
  add_library(${target} STATIC ${A_SOURCES})
  set_property(TARGET ${target} PROPERTY EVAC_LAYER ${A_LAYER})
  foreach(dep IN LISTS A_DEPS)
    if(NOT TARGET evac_${dep})
      message(FATAL_ERROR "${target} depends on evac_${dep}, which is not configured")
    endif()
    get_target_property(dep_layer evac_${dep} EVAC_LAYER)
    if(NOT dep_layer LESS A_LAYER)
      message(FATAL_ERROR "layer rule: ${target} (L${A_LAYER}) may not depend on evac_${dep} (L${dep_layer})")
    endif()
    target_link_libraries(${target} PUBLIC evac_${dep})
  endforeach()
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/include/*.hpp)
  if(headers)
    target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS ${CMAKE_CURRENT_SOURCE_DIR}/include FILES ${headers})
  endif()
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
  target_link_libraries(${target} PUBLIC ${A_PUBLIC_LIBS} PRIVATE evac_warnings ${A_PRIVATE_LIBS})
  target_compile_options(${target} PRIVATE ${A_PRIVATE_OPTIONS})
  # Every public header compiles alone: cmake --build --target all_verify_interface_header_sets
  set_property(TARGET ${target} PROPERTY VERIFY_INTERFACE_HEADER_SETS ON)
endfunction()

function(evac_test)
  cmake_parse_arguments(A "" "NAME;TIMEOUT" "SOURCES;LIBS;LABELS" ${ARGN})
  add_executable(${A_NAME} ${A_SOURCES})
  target_include_directories(${A_NAME} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
  target_link_libraries(${A_NAME} PRIVATE ${A_LIBS} GTest::gtest_main)
  # gtest's macros and literals in tests trip over conversion and dangling-else warnings.
  target_compile_options(${A_NAME} PRIVATE -Wall -Wextra -Wno-dangling-else -Werror)
  set_property(TARGET ${A_NAME} PROPERTY RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${A_NAME} COMMAND ${A_NAME})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  set_tests_properties(${A_NAME} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "${A_LABELS}")
endfunction()

# The source defines extern "C" int LLVMFuzzerTestOneInput(const uint8_t*, size_t).
function(evac_fuzzer)
  cmake_parse_arguments(A "" "NAME;SOURCE;CORPUS" "LIBS" ${ARGN})
  if(EVAC_FUZZ)
    add_executable(${A_NAME} ${A_SOURCE})
    target_link_options(${A_NAME} PRIVATE -fsanitize=fuzzer)
  else()
    add_executable(${A_NAME} ${A_SOURCE} ${CMAKE_SOURCE_DIR}/tests/fuzz/replay_main.cpp)
    add_test(NAME ${A_NAME}_corpus COMMAND ${A_NAME} ${A_CORPUS})
    set_tests_properties(${A_NAME}_corpus PROPERTIES TIMEOUT 120 LABELS fuzz)
  endif()
  set_property(TARGET ${A_NAME} PROPERTY RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_link_libraries(${A_NAME} PRIVATE ${A_LIBS})
endfunction()
