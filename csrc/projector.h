// Images in prompts, by llama.cpp's libmtmd: the one door to it. A projector turns pictures into embeddings that the
// text model computes in the place of tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "context.h"
#include "model.h"

struct mtmd_input_chunk;

namespace slipstream {

struct Vision; // libmtmd's context and its hold on the model

// An image, or a slice of one, as the text model sees it: it takes `n_tokens` cells and `n_positions` positions of a
// sequence, which are fewer where rows and columns have positions of their own (M-RoPE).
class Picture {
  public:
    Picture(const mtmd_input_chunk * chunk, size_t image);
    size_t image() const { return image_; } // index of its image
    int32_t n_tokens() const;
    int32_t n_positions() const;
    bool is_encoded() const { return !embeddings_.empty(); }
    size_t n_bytes() const { return embeddings_.size() * sizeof(float); }

  private:
    friend class Projector;
    std::unique_ptr<mtmd_input_chunk, void (*)(mtmd_input_chunk *)> chunk_;
    size_t image_;
    std::vector<float> embeddings_;
};

// A run of tokens, or a picture.
struct PromptPart {
    std::vector<int32_t> tokens;
    std::shared_ptr<Picture> picture;
};

class Projector {
  public:
    // `marker` stands for an image in texts. Throws ModelLoadError: no projector for images, or one for another model.
    Projector(const Model & model, const std::string & path, const std::string & marker, int32_t n_threads,
              bool use_gpu);
    // Drops this object's hold; a call on another thread keeps it alive to its end. Idempotent.
    void close();

    // The parts of a prompt. Any thread. Throws InvalidRequestError: other markers than images, or an image that
    // cannot be read, has too many pixels or is too large for the model.
    std::vector<PromptPart> tokenize(std::string_view text, const std::vector<std::string_view> & images,
                                     bool add_special) const;
    // Computes the embeddings of a picture, as long as a prompt of that size. Any thread, one at a time; others wait.
    // Throws ComputeError.
    void encode(Picture & picture) const;
    // Computes an encoded picture at `position` of a sequence. Errors as Context::decode.
    void decode(Context & context, int32_t seq_id, int32_t position, const Picture & picture) const;

  private:
    std::shared_ptr<Vision> handle() const;

    mutable std::mutex mutex_; // over vision_
    std::shared_ptr<Vision> vision_;
};

} // namespace slipstream
