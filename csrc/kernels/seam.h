// What our kernels say about themselves to the rest of the core. They are compiled into ggml-cpu.
#pragma once

#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// The instruction set of the kernels in use; null if upstream computes everything.
const char * slipstream_kernels_isa(void);
bool slipstream_kernels_serve(enum ggml_type type);

#ifdef __cplusplus
}
#endif
