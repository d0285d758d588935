# Brings the pinned llama.cpp in, static and hidden, and builds the parts of its common/ that the chat shim needs.
# Sets LLAMA_DIR; defines the targets llama, ggml, mtmd and slipstream_chat.

execute_process(
  COMMAND ${Python_EXECUTABLE} ${PROJECT_SOURCE_DIR}/third_party/fetch_llama_cpp.py
  OUTPUT_VARIABLE LLAMA_DIR OUTPUT_STRIP_TRAILING_WHITESPACE
  RESULT_VARIABLE fetch_failed)
if(fetch_failed)
  message(FATAL_ERROR "third_party/fetch_llama_cpp.py failed: the llama.cpp source is not there. "
                      "Set LLAMA_CPP_SOURCE_DIR to a checkout of it, or let pip reach its package index.")
endif()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/third_party/llama.cpp.lock)

foreach(key commit llama_version ggml_version)
  execute_process(
    COMMAND ${Python_EXECUTABLE} ${PROJECT_SOURCE_DIR}/third_party/fetch_llama_cpp.py --print-lock ${key}
    OUTPUT_VARIABLE LOCK_${key} OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
endforeach()
message(STATUS "slipstream: llama.cpp ${LOCK_commit} in ${LLAMA_DIR}")

set(BUILD_SHARED_LIBS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON) # upstream does not set it for static builds
set(LLAMA_BUILD_COMMIT ${LOCK_commit})
set(LLAMA_BUILD_NUMBER 0)
set(LLAMA_BUILD_COMMON OFF)
set(LLAMA_BUILD_MTMD ON) # images in prompts
set(MTMD_VIDEO OFF)      # it would run ffmpeg on what a client sends
set(LLAMA_OPENSSL OFF)
set(GGML_NATIVE ${SLIPSTREAM_NATIVE})
set(GGML_OPENMP OFF) # OpenMP teams belong to the calling thread: 10-15x slower from a second one
set(GGML_CCACHE OFF) # the launcher is set for the whole project
set(GGML_CUDA OFF)
set(GGML_VULKAN OFF)
set(GGML_METAL OFF)
if(SLIPSTREAM_BACKEND STREQUAL "cuda")
  set(GGML_CUDA ON)
elseif(SLIPSTREAM_BACKEND STREQUAL "vulkan")
  set(GGML_VULKAN ON)
elseif(SLIPSTREAM_BACKEND STREQUAL "metal")
  set(GGML_METAL ON)
endif()
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
add_subdirectory(${LLAMA_DIR} llama.cpp EXCLUDE_FROM_ALL)

# Our matrix products come before upstream's tiled ones, whose definitions get other names (csrc/kernels/seam.cpp).
set_property(
  SOURCE ${LLAMA_DIR}/ggml/src/ggml-cpu/tiled/tiled.cpp
  DIRECTORY ${LLAMA_DIR}/ggml/src
  APPEND PROPERTY COMPILE_DEFINITIONS
         ggml_tiled_wdata_size=upstream_tiled_wdata_size
         ggml_compute_forward_mul_mat_tiled=upstream_mul_mat_tiled
         ggml_compute_forward_mul_mat_id_tiled=upstream_mul_mat_id_tiled)
set_property(
  SOURCE ${LLAMA_DIR}/ggml/src/ggml-cpu/ops.cpp
  DIRECTORY ${LLAMA_DIR}/ggml/src
  APPEND PROPERTY COMPILE_DEFINITIONS
         ggml_compute_forward_flash_attn_ext=upstream_flash_attn_ext
         ggml_compute_forward_set_rows=upstream_set_rows)
foreach(source seam qmatmul attention cell_order)
  target_sources(ggml-cpu PRIVATE ${PROJECT_SOURCE_DIR}/csrc/kernels/${source}.cpp)
endforeach()

if(SLIPSTREAM_NATIVE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # -march=native names no CPU. Its expansion goes into a definition, so that a compiler cache that has moved to
  # another CPU does not answer with that one's code.
  execute_process(COMMAND ${CMAKE_CXX_COMPILER} -march=native -Q --help=target OUTPUT_VARIABLE native_flags ERROR_QUIET)
  string(SHA256 native_id "${native_flags}")
  string(SUBSTRING ${native_id} 0 12 native_id)
  target_compile_definitions(ggml-cpu PRIVATE SLIPSTREAM_NATIVE_ID=0x${native_id})
endif()

# Only what renders templates and parses output: no HTTP client, no argument parser, half of common/'s compile time.
# The helpers those files want from common.cpp are in csrc/common/helpers.cpp.
set(COMMON ${LLAMA_DIR}/common)
include(${COMMON}/parsers/sources.cmake)
file(GLOB chat_sources CONFIGURE_DEPENDS ${COMMON}/chat*.cpp ${COMMON}/json*.cpp ${COMMON}/jinja/*.cpp)
add_library(slipstream_chat STATIC ${chat_sources} ${LLAMA_CHAT_PARSERS_SOURCES} ${COMMON}/peg-parser.cpp
            ${COMMON}/trie.cpp ${COMMON}/unicode.cpp ${COMMON}/log.cpp ${COMMON}/reasoning-budget.cpp
            ${PROJECT_SOURCE_DIR}/csrc/common/helpers.cpp)
target_include_directories(slipstream_chat PUBLIC ${COMMON} ${LLAMA_DIR}/vendor)
target_link_libraries(slipstream_chat PUBLIC llama)
target_compile_features(slipstream_chat PUBLIC cxx_std_17)
