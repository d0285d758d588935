// A context: the KV cache and everything needed to compute on it. One thread at a time; a second one gets
// ContextBusyError. Every precondition that llama.cpp would answer with abort() is checked here first.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ggml-cpu.h"
#include "llama.h"
#include "model.h"
#include "turn.h"

namespace slipstream {

class LogCapture;

struct ContextOptions {
    uint32_t n_ctx = 0; // 0: what the model was trained on
    uint32_t n_batch = 512;
    uint32_t n_ubatch = 0; // 0: n_batch
    uint32_t n_seq_max = 1;
    uint32_t n_outputs_max = 0; // 0: n_batch
    int32_t n_threads = 0;      // 0: physical cores
    int32_t n_threads_batch = 0;
    int32_t flash_attention = -1; // -1: llama.cpp decides
    std::string type_k = "f16";
    std::string type_v = "f16";
    bool embeddings = false;
    std::string pooling = "default"; // default, none, mean, cls, last, rank
    bool kv_unified = true;
    bool swa_full = true;
    bool offload_kv = true; // the KV cache lies where its layers do; false: in host memory
    float rope_freq_base = 0;
    float rope_freq_scale = 0;
    int32_t poll = 1; // how long idle workers spin before they sleep, 0 to 100, about 2 ms each
};

// A batch: `n` tokens, each with a position and a sequence, and whether its logits are wanted.
// `positions` or `outputs` may be null: positions then go on where each sequence ends, and the last token of each
// sequence is an output.
struct Batch {
    size_t n = 0;
    const int32_t * tokens = nullptr;
    const int32_t * positions = nullptr;
    const int32_t * seq_ids = nullptr;
    const uint8_t * outputs = nullptr;
};

class LoraAdapter {
  public:
    LoraAdapter(const Model & model, const std::string & path);
    llama_adapter_lora * get() const { return adapter_; }
    const std::shared_ptr<llama_model> & model() const { return model_; }

  private:
    std::shared_ptr<llama_model> model_; // frees the adapter with itself
    llama_adapter_lora * adapter_;
};

class Context {
  public:
    static constexpr int32_t MAX_POSITION = INT32_MAX / 2; // far from overflow in whatever adds to one

    Context(const Model & model, const ContextOptions & options);
    ~Context();
    // Frees everything, its hold on the model included. Idempotent. Throws ContextBusyError.
    void close();

    // --- compute -----------------------------------------------------------------------------------------------
    // Throws InvalidBatchError, NoKVSlotError (memory as before), DecodeAborted or ComputeError (the failing batch's
    // sequences hold an unknown part of it: compare pos_max, trim, and decode again).
    void decode(const Batch & batch);
    // Generates n tokens greedily after `token`, which is decoded first at the end of sequence 0; end-of-generation
    // tokens do not stop it. The shortest way to do that with llama.cpp: the floor under engine benchmarks.
    std::vector<int32_t> greedy_loop(int32_t token, int32_t n);
    // Encoder of encoder-decoder models, or embeddings of models without memory. All tokens in one ubatch.
    // Throws as decode().
    void encode(const Batch & batch);
    // Stops a running decode between graph nodes (CPU backend). Any thread; nothing happens if none runs.
    void abort() { abort_.store(true, std::memory_order_relaxed); }

    // --- results; valid until the next decode, encode or close. The caller holds a Lease ------------------------
    // Row of the token at batch index i, n_vocab floats. Throws InvalidBatchError if it was no output.
    float * logits_leased(int32_t i);
    float * embeddings_leased(int32_t i); // n_embd() floats
    float * sequence_embedding_leased(int32_t seq_id);
    // Floats of a pooled embedding; with rank pooling, its scores.
    int32_t n_pooled_leased() const;
    // Batch indices of the outputs of the last batch, ascending.
    const std::vector<int32_t> & outputs_leased() const { return outputs_; }

    // --- memory ---------------------------------------------------------------------------------------------------
    void memory_clear(bool data);
    bool seq_rm(int32_t seq_id, int32_t p0, int32_t p1);
    void seq_cp(int32_t from, int32_t to, int32_t p0, int32_t p1);
    void seq_keep(int32_t seq_id);
    void seq_add(int32_t seq_id, int32_t p0, int32_t p1, int32_t delta);
    int32_t seq_pos_min(int32_t seq_id);
    int32_t seq_pos_max(int32_t seq_id);
    bool can_shift();

    // --- state (state.cpp) --------------------------------------------------------------------------------------
    std::string state_save(int32_t seq_id, const std::vector<int32_t> & tokens);
    // Returns the tokens given to state_save. Throws StateError; the sequence is empty then.
    std::vector<int32_t> state_load(const char * data, size_t size, int32_t seq_id);

    // --- settings -------------------------------------------------------------------------------------------------
    // Cheap unless it takes more threads than there ever were.
    void set_threads(int32_t n_threads, int32_t n_threads_batch);
    // Computes with the threads of another context, with which it takes turns: two pools would fight for the cores.
    void share_threads(const Context & other);
    void set_lora(const std::vector<std::pair<const LoraAdapter *, float>> & adapters);
    void set_causal(bool causal);

    uint32_t n_ctx() const { return n_ctx_; }
    uint32_t n_ctx_seq() const { return n_ctx_seq_; }
    uint32_t n_batch() const { return n_batch_; }
    uint32_t n_ubatch() const { return n_ubatch_; }
    uint32_t n_seq_max() const { return n_seq_max_; }
    uint32_t n_outputs_max() const { return n_outputs_max_; }
    int32_t n_threads() const { return n_threads_; }
    int32_t n_threads_batch() const { return n_threads_batch_; }
    int32_t n_vocab() const { return n_vocab_; }
    int32_t n_embd() const { return n_embd_; }
    // Under a Lease: close() lets go of the model.
    const std::shared_ptr<llama_model> & model() const { return model_; }
    const llama_vocab * vocab() const { return llama_model_get_vocab(model_.get()); }

    // Called every 50 ms during a decode, on the thread that decodes; true stops it. For Ctrl-C.
    void set_interrupt_check(std::function<bool()> check) { interrupt_check_ = std::move(check); }

    // Takes the context for one call. Throws ContextBusyError (re-entrant use is busy, too), and ClosedError unless
    // a closed context will do.
    class Lease {
      public:
        explicit Lease(Context & context, bool may_be_closed = false);

      private:
        Turn turn_;
    };

    // decode() for a caller that already holds a Lease.
    void decode_leased(const Batch & batch);
    // The same for what is no token: `compute` adds `n` entries from `position` of a sequence on and returns what
    // llama_process does. It leaves no outputs.
    void compute_leased(int32_t seq_id, int32_t position, int32_t n,
                        const std::function<int32_t(llama_context *)> & compute);
    bool seq_rm_leased(int32_t seq_id, int32_t p0, int32_t p1);
    void seq_cp_leased(int32_t from, int32_t to, int32_t p0, int32_t p1);
    void check_seq(int32_t seq_id) const;
    // Whether going on from `n_tokens` finds all that sliding-window layers look back at. llama.cpp gives the cells
    // behind a sequence's window to others, a full-size window cache notwithstanding (llama_kv_cache::find_slot).
    bool holds_window_leased(int32_t seq_id, int32_t n_tokens) const;

  private:
    static bool on_abort_poll(void * self);
    void free_all() noexcept;
    bool can_shift_leased() const;
    void prepare(const Batch & batch, bool encode);
    void begin_compute();
    // Runs llama_process, or what does; its exceptions become a ComputeError. No outputs are left unless it gives 0.
    int32_t process(const std::function<int32_t(llama_context *)> & compute);
    int32_t process(enum llama_process_type type);
    void check_code(int32_t code, size_t n, const LogCapture & log) const; // of a decode
    uint32_t embedding_ubatch(const llama_context_params & params) const;
    void check_memory_fits(const llama_context_params & params) const;
    void attach_threads(int32_t n_threads, int32_t n_threads_batch); // a new pool
    void use_threads(int32_t n_threads, int32_t n_threads_batch);    // of the pool there is
    void check_output(int32_t i) const;
    uint64_t layout() const;
    void check_tokens(const std::vector<int32_t> & tokens, const char * kind) const;

    std::shared_ptr<llama_model> model_;
    uint64_t fingerprint_;
    ContextOptions options_;
    std::unique_ptr<llama_context, void (*)(llama_context *)> ctx_;
    std::unique_ptr<llama_batch_ext, void (*)(llama_batch_ext *)> batch_;
    std::shared_ptr<ggml_threadpool> pool_;
    pid_t pid_;
    Busy busy_;
    std::atomic<bool> abort_{false};
    std::function<bool()> interrupt_check_;
    std::chrono::steady_clock::time_point last_poll_;
    std::vector<int32_t> outputs_;
    // Per sequence, scratch of prepare(): its next position, -1 if it is not in the batch; its last batch index.
    std::vector<int32_t> next_pos_, last_index_;
    uint32_t n_outputs_max_ = 0;
    uint32_t n_ctx_ = 0, n_ctx_seq_ = 0, n_batch_ = 0, n_ubatch_ = 0, n_seq_max_ = 0;
    int32_t pool_size_ = 0, n_threads_ = 0, n_threads_batch_ = 0, n_vocab_ = 0, n_embd_ = 0;
    int32_t position_limit_ = 0; // of learned position embeddings, INT32_MAX otherwise
    bool causal_ = true;
    bool encoded_ = false; // an encoder has run, which its decoder asserts
};

// Physical cores this process may run on, at least 1.
int32_t default_threads();

} // namespace slipstream
