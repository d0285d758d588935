// What our kernels say about themselves to the rest of the core. They are compiled into ggml-cpu.
#pragma once

#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// The instruction set of the kernels in use; null if upstream computes everything.
const char * slipstream_kernels_isa(void);
bool slipstream_kernels_serve(enum ggml_type type);
// On whose behalf this thread computes graphs from now on; and that a KV cache of theirs was freed, so that what is known
// of its cells is of no use any more.
void slipstream_kernels_set_owner(const void * owner);
void slipstream_kernels_forget(const void * owner);

#ifdef __cplusplus
}
#endif
