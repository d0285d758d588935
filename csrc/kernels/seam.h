// What our kernels say about themselves to the rest of the core. They are compiled into ggml-cpu.
#pragma once

#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// The instruction set of the kernels in use; null if upstream computes everything.
const char * slipstream_kernels_isa(void);
bool slipstream_kernels_serve(enum ggml_type type);
// The bytes of a copy of weights that is arranged for the kernels, whole cache lines; 0 if they gain nothing by one. One matrix, or several of
// which products choose (experts).
size_t slipstream_packed_size(const struct ggml_tensor * weights);
// Writes part i of n of it.
void slipstream_pack(const struct ggml_tensor * weights, void * out, int64_t i, int64_t n);
// Has products with these weights read the copy from now on, also those that are being computed; it must live as long as
// the weights. Their own data stay in use for everything else. Not for weights in a buffer of ggml's own arrangement, nor
// for several matrices that are all multiplied at once, whose products are upstream's: it asks for `extra`, too.
void slipstream_use_packed(struct ggml_tensor * weights, const void * packed);
// On whose behalf this thread computes graphs from now on; and that a KV cache of theirs was freed, so that what is known
// of its cells is of no use any more.
void slipstream_kernels_set_owner(const void * owner);
void slipstream_kernels_forget(const void * owner);

#ifdef __cplusplus
}
#endif
