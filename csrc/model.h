// A loaded model: weights and vocabulary. Reading it is safe from any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "errors.h"
#include "huge_pages.h"
#include "llama.h"

namespace slipstream {

struct ModelOptions {
    int32_t gpu_layers = -1;
    bool mmap = true;
    bool mlock = false;
    bool repack = true;
    bool vocab_only = false;
    bool check_tensors = false;
    int32_t num_experts = 0; // experts a token is sent to; 0: as the file says
};

class Model {
  public:
    // Loads the file. `progress` is called on this thread with 0…1 and cancels by returning false.
    // Throws ModelLoadError with the loader's last log lines, path as detail.
    Model(const std::string & path, const ModelOptions & options,
          const std::function<bool(float)> & progress);

    ~Model() { close(); }

    // Copies what is mapped from the file into huge pages, in the background or, with `wait`, now; see HugePages.
    // Returns the bytes copied so far. Throws ClosedError.
    size_t use_huge_pages(bool wait);

    // Drops this object's hold; contexts made from the model keep it alive. Idempotent.
    void close();
    bool is_closed() const;

    // The handle contexts and adapters share; holding it keeps the weights while another thread calls close().
    // Throws ClosedError after close() or in a forked child.
    std::shared_ptr<llama_model> handle() const;
    // Valid as long as somebody holds the handle.
    const llama_vocab * vocab() const;

    const std::string & path() const { return path_; }
    bool is_vocab_only() const { return vocab_only_; }

    // Identity of the model, see fingerprint_model(). States carry it.
    uint64_t fingerprint() const { return fingerprint_; }

    std::vector<std::pair<std::string, std::string>> metadata() const;
    std::string description() const;
    // The model's Jinja chat template, empty if it has none.
    std::string chat_template(const std::string & name) const;

    // Throws InvalidRequestError where the vocabulary has no tokens for the text.
    std::vector<int32_t> tokenize(std::string_view text, bool add_special, bool parse_special) const;
    std::string detokenize(const std::vector<int32_t> & tokens, bool remove_special,
                           bool unparse_special) const;
    // The bytes a token stands for; control tokens give "" unless `special`. Throws InvalidRequestError out of range.
    std::string token_to_piece(int32_t token, bool special) const;
    // Throws InvalidRequestError unless 0 <= token < n_vocab.
    void check_token(int32_t token) const;

  private:
    void check_vocabulary() const;
    // As handle(); the lock is held.
    const std::shared_ptr<llama_model> & open_model() const;

    std::string path_;
    bool vocab_only_;
    uint64_t fingerprint_;
    pid_t pid_;
    mutable std::mutex mutex_; // over model_
    std::shared_ptr<llama_model> model_;
    std::shared_ptr<HugePages> huge_pages_; // over mutex_, too
};

// A short metadata value, "" if it is missing.
std::string metadata_text(const llama_model * model, const std::string & key);
std::string architecture(const llama_model * model);

// token_to_piece without bounds checks, for the step's hot path. Nothing where the model has no vocabulary.
void append_piece(const llama_vocab * vocab, int32_t token, bool special, std::string & out);

} // namespace slipstream
