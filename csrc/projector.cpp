#include "projector.h"

#include <cstdlib>

#include "mtmd-helper.h"
#include "mtmd.h"
#include "native_log.h"
#include "stb/stb_image.h"

namespace slipstream {

namespace {

constexpr int64_t MAX_PIXELS = 64 << 20; // 192 MiB once decoded

using Bitmap = std::unique_ptr<mtmd_bitmap, void (*)(mtmd_bitmap *)>;

// Only still images: libmtmd's own reader takes sound, too.
Bitmap read_image(std::string_view data, size_t index) {
    const auto * bytes = reinterpret_cast<const stbi_uc *>(data.data());
    const int size = data.size() > size_t(INT32_MAX) ? 0 : int(data.size());
    int nx = 0, ny = 0, n_channels = 0;
    if (stbi_info_from_memory(bytes, size, &nx, &ny, &n_channels) == 0) {
        throw Error("InvalidRequestError",
                    format("image %zu cannot be read; it must be a JPEG, PNG, GIF or BMP file", index),
                    "messages");
    }
    if (nx < 1 || ny < 1 || int64_t(nx) * ny > MAX_PIXELS) {
        throw Error("InvalidRequestError",
                    format("image %zu has %d x %d pixels; at most %lld are taken, send a smaller one", index,
                           nx, ny, (long long)MAX_PIXELS),
                    "messages");
    }
    std::unique_ptr<stbi_uc, void (*)(void *)> pixels(
        stbi_load_from_memory(bytes, size, &nx, &ny, &n_channels, 3), stbi_image_free);
    if (!pixels) {
        throw Error("InvalidRequestError", format("image %zu is damaged and cannot be read", index),
                    "messages");
    }
    Bitmap bitmap(mtmd_bitmap_init(uint32_t(nx), uint32_t(ny), pixels.get()), mtmd_bitmap_free);
    mtmd_bitmap_set_id(bitmap.get(), std::to_string(index).c_str());
    return bitmap;
}

} // namespace

struct Vision {
    std::shared_ptr<llama_model> model; // before the context, which refers to it
    std::unique_ptr<mtmd_context, void (*)(mtmd_context *)> context{nullptr, mtmd_free};
    std::mutex encoding;
};

Picture::Picture(const mtmd_input_chunk * chunk, size_t image)
    : chunk_(mtmd_input_chunk_copy(chunk), mtmd_input_chunk_free), image_(image) {}

int32_t Picture::n_tokens() const {
    return int32_t(mtmd_input_chunk_get_n_tokens(chunk_.get()));
}

int32_t Picture::n_positions() const {
    return mtmd_input_chunk_get_n_pos(chunk_.get());
}

Projector::Projector(const Model & model, const std::string & path, const std::string & marker,
                     int32_t n_threads, bool use_gpu)
    : vision_(std::make_shared<Vision>()) {
    vision_->model = model.handle();
    mtmd_context_params params = mtmd_context_params_default();
    params.use_gpu = use_gpu;
    params.print_timings = false;
    params.n_threads = n_threads == 0 ? default_threads() : n_threads;
    params.media_marker = marker.c_str();
    params.warmup = false;
    LogCapture log;
    const auto load = [&] { return mtmd_init_from_file(path.c_str(), vision_->model.get(), params); };
    vision_->context.reset(guarded("ModelLoadError", "the projector cannot be loaded", load, path.c_str()));
    if (!vision_->context) {
        throw Error("ModelLoadError", path + ": " + log.tail("no projector for this model"), path);
    }
    if (!mtmd_support_vision(vision_->context.get())) {
        throw Error("ModelLoadError", path + ": this projector is not for images", path);
    }
}

void Projector::close() {
    std::lock_guard<std::mutex> lock(mutex_);
    vision_.reset();
}

std::shared_ptr<Vision> Projector::handle() const {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!vision_) {
        throw Error("ClosedError", "the projector is closed");
    }
    return vision_;
}

std::vector<PromptPart> Projector::tokenize(std::string_view text,
                                            const std::vector<std::string_view> & images,
                                            bool add_special) const {
    const std::shared_ptr<Vision> vision = handle();
    std::vector<Bitmap> bitmaps;
    std::vector<const mtmd_bitmap *> pointers;
    for (const std::string_view image : images) {
        bitmaps.push_back(read_image(image, bitmaps.size()));
        pointers.push_back(bitmaps.back().get());
    }
    const mtmd_input_text input = {text.data(), text.size(), add_special, true};
    const std::unique_ptr<mtmd_input_chunks, void (*)(mtmd_input_chunks *)> chunks(mtmd_input_chunks_init(),
                                                                                   mtmd_input_chunks_free);
    LogCapture log;
    const int32_t code = guarded(
        "InvalidRequestError", "the images cannot be put into the prompt",
        [&] {
            return mtmd_tokenize(vision->context.get(), chunks.get(), &input, pointers.data(),
                                 pointers.size());
        },
        "messages");
    if (code != 0) {
        throw Error("InvalidRequestError",
                    "the images cannot be put into the prompt: " + log.tail("libmtmd gave no reason"),
                    "messages");
    }
    std::vector<PromptPart> parts;
    for (size_t i = 0; i < mtmd_input_chunks_size(chunks.get()); i++) {
        const mtmd_input_chunk * chunk = mtmd_input_chunks_get(chunks.get(), i);
        PromptPart part;
        if (mtmd_input_chunk_get_type(chunk) == MTMD_INPUT_CHUNK_TYPE_TEXT) {
            size_t n = 0;
            const llama_token * tokens = mtmd_input_chunk_get_tokens_text(chunk, &n);
            part.tokens.assign(tokens, tokens + n);
        } else {
            const char * id = mtmd_input_chunk_get_id(chunk);
            part.picture =
                std::make_shared<Picture>(chunk, id == nullptr ? 0 : std::strtoul(id, nullptr, 10));
        }
        parts.push_back(std::move(part));
    }
    return parts;
}

void Projector::encode(Picture & picture) const {
    const std::shared_ptr<Vision> vision = handle();
    std::lock_guard<std::mutex> lock(vision->encoding);
    if (picture.is_encoded()) {
        return;
    }
    LogCapture log;
    mtmd_context * context = vision->context.get();
    const int32_t code = guarded("ComputeError", "the image cannot be encoded",
                                 [&] { return mtmd_encode_chunk(context, picture.chunk_.get()); });
    const float * embeddings = code == 0 ? mtmd_get_output_embd(context) : nullptr;
    if (embeddings == nullptr) {
        throw Error("ComputeError", "the image cannot be encoded: " + log.tail("libmtmd gave no reason"));
    }
    const size_t n = size_t(llama_model_n_embd_inp(vision->model.get())) * size_t(picture.n_tokens());
    picture.embeddings_.assign(embeddings, embeddings + n);
}

void Projector::decode(Context & context, int32_t seq_id, int32_t position, const Picture & picture) const {
    const std::shared_ptr<Vision> vision = handle();
    Context::Lease lease(context);
    context.check_seq(seq_id);
    if (vision->model != context.model()) {
        throw Error("InvalidBatchError", "the projector belongs to another model than this context");
    }
    if (!picture.is_encoded()) {
        throw Error("InvalidBatchError", "the picture is not encoded; encode it first");
    }
    const bool all_at_once = mtmd_decode_use_non_causal(vision->context.get(), picture.chunk_.get());
    if (all_at_once && uint32_t(picture.n_tokens()) > context.n_ubatch()) {
        throw Error("InvalidBatchError",
                    format("a picture of %d tokens is computed at once; this context takes %u",
                           picture.n_tokens(), context.n_ubatch()));
    }
    context.compute_leased(seq_id, position, picture.n_tokens(), [&](llama_context * ctx) {
        llama_pos end = position;
        // It only reads the embeddings, though they are not const.
        return mtmd_helper_decode_image_chunk(vision->context.get(), ctx, picture.chunk_.get(),
                                              const_cast<float *>(picture.embeddings_.data()), position,
                                              seq_id, int32_t(context.n_batch()), &end, nullptr, nullptr);
    });
}

} // namespace slipstream
