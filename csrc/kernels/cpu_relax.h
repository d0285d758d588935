/* Forced in front of ggml-cpu.c, where threads wait for each other at every graph node by spinning on _mm_pause.

   A spinning thread whose partner has lost its core to another process burns its own time slice for nothing: with one
   busy neighbour on two cores, a decode step takes many times longer. Every 64th pause (about a microsecond) now gives
   the core away if somebody wants it; if nobody does, sched_yield comes back in a fraction of one.
   The header that defines the real _mm_pause is included first; only uses after this line see the macro. */
#if defined(__linux__) && (defined(__x86_64__) || defined(__i386__))
#include <immintrin.h>
#include <sched.h>

static inline void slipstream_cpu_relax(void) {
    static __thread unsigned n_pauses;
    _mm_pause();
    if ((++n_pauses & 63) == 0) {
        sched_yield();
    }
}
#define _mm_pause() slipstream_cpu_relax()
#endif
