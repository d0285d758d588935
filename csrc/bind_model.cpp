#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "bind.h"
#include "bind_progress.h"
#include "context.h"
#include "model.h"

namespace slipstream {

using namespace nb::literals;

namespace {

void init_model(Model * self, const std::string & path, nb::object progress, const ModelOptions & options) {
    Progress report(std::move(progress));
    // nanobind destroys what this constructs; a load that fails constructs nothing.
    try {
        nb::gil_scoped_release release;
        new (self) Model(path, options, [&](float fraction) { return report(fraction); });
    } catch (const Error &) {
        rethrow_pending();
        throw;
    }
}

nb::object special_token(llama_token token) {
    return token == LLAMA_TOKEN_NULL ? nb::none() : nb::cast(token);
}

nb::dict special_tokens(const Model & model) {
    const llama_vocab * v = model.vocab();
    nb::dict d;
    d["bos"] = special_token(llama_vocab_bos(v));
    d["eos"] = special_token(llama_vocab_eos(v));
    d["eot"] = special_token(llama_vocab_eot(v));
    d["sep"] = special_token(llama_vocab_sep(v));
    d["nl"] = special_token(llama_vocab_nl(v));
    d["pad"] = special_token(llama_vocab_pad(v));
    d["mask"] = special_token(llama_vocab_mask(v));
    d["fim_pre"] = special_token(llama_vocab_fim_pre(v));
    d["fim_suf"] = special_token(llama_vocab_fim_suf(v));
    d["fim_mid"] = special_token(llama_vocab_fim_mid(v));
    d["fim_pad"] = special_token(llama_vocab_fim_pad(v));
    d["fim_rep"] = special_token(llama_vocab_fim_rep(v));
    d["fim_sep"] = special_token(llama_vocab_fim_sep(v));
    return d;
}

} // namespace

void bind_model(nb::module_ & m) {
    nb::class_<Model>(m, "Model",
                      "A loaded GGUF model: weights and vocabulary. Reading it is safe from any thread.")
        .def(
            "__init__",
            [](Model * self, const std::string & path, int32_t gpu_layers, bool mmap, bool mlock, bool repack,
               bool vocab_only, bool check_tensors, int32_t num_experts, nb::object progress) {
                init_model(self, path, std::move(progress),
                           {gpu_layers, mmap, mlock, repack, vocab_only, check_tensors, num_experts});
            },
            "path"_a, nb::kw_only(), "gpu_layers"_a = -1, "mmap"_a = true, "mlock"_a = false,
            "repack"_a = true, "vocab_only"_a = false, "check_tensors"_a = false, "num_experts"_a = 0,
            "progress"_a = nb::none(),
            nb::sig(
                "def __init__(self, path: str, *, gpu_layers: int = -1, mmap: bool = True, mlock: bool = False, "
                "repack: bool = True, vocab_only: bool = False, check_tensors: bool = False, num_experts: int = 0, "
                "progress: collections.abc.Callable[[float], bool | None] | None = None) -> None"),
            "Load a file. The GIL is released; Ctrl-C works.\n\n"
            "Args:\n"
            "    path: A .gguf file; of a split model, its first part.\n"
            "    gpu_layers: Layers to put on the GPU; -1 means all.\n"
            "    mmap: Map the file rather than read it.\n"
            "    mlock: Keep it in memory.\n"
            "    repack: Let ggml re-arrange weights for this CPU (a copy of them).\n"
            "    vocab_only: Load the vocabulary and no weights.\n"
            "    check_tensors: Look for invalid numbers in every tensor.\n"
            "    num_experts: Experts a token is sent to, for a mixture of experts; 0 takes the file's.\n"
            "    progress: Called on this thread with 0 to 1; returning False cancels.\n\n"
            "Raises:\n"
            "    ModelLoadError: the file is no usable model, or loading was cancelled.\n"
            "    InvalidRequestError: num_experts is more than the model has.")
        .def("close", &Model::close, nb::call_guard<nb::gil_scoped_release>(),
             "Drop this object's hold on the model; contexts made from it keep it alive. Idempotent.")
        .def(
            "use_huge_pages", &Model::use_huge_pages, "wait"_a = false,
            nb::call_guard<nb::gil_scoped_release>(),
            "Copy the weights that are mapped from the file into huge pages, while they are used.\n\n"
            "The copy is arranged for the matrix kernels, which read it with less work; results keep their bits. Where they serve\n"
            "less than half of the bytes, all are moved as they are. Linux only. Nothing happens on other systems, where\n"
            "transparent huge pages are switched off, and where less than twice the weights is free.\n\n"
            "Args:\n"
            "    wait: Return when it is done; about a second for each GB. Else it goes on in the background.\n\n"
            "Returns:\n"
            "    Bytes copied so far.\n\n"
            "Raises:\n"
            "    ClosedError: the model is closed.")
        .def_prop_ro("is_closed", &Model::is_closed)
        .def_prop_ro("path", &Model::path)
        .def_prop_ro("fingerprint", &Model::fingerprint,
                     "Identity of the file's content, 64 bits; saved states carry it.")
        .def_prop_ro(
            "description", [](const Model & s) { return to_text(s.description()); },
            "Architecture, size and quantization in a few words.")
        .def_prop_ro("n_vocab", [](const Model & s) { return llama_vocab_n_tokens(s.vocab()); })
        .def_prop_ro("n_ctx_train", [](const Model & s) { return llama_model_n_ctx_train(s.handle().get()); })
        .def_prop_ro("n_embd", [](const Model & s) { return llama_model_n_embd(s.handle().get()); })
        .def_prop_ro("n_layer", [](const Model & s) { return llama_model_n_layer(s.handle().get()); })
        .def_prop_ro("n_head", [](const Model & s) { return llama_model_n_head(s.handle().get()); })
        .def_prop_ro("n_head_kv", [](const Model & s) { return llama_model_n_head_kv(s.handle().get()); })
        .def_prop_ro(
            "n_swa", [](const Model & s) { return llama_model_n_swa(s.handle().get()); },
            "Sliding window, 0 for none.")
        .def_prop_ro("n_params", [](const Model & s) { return llama_model_n_params(s.handle().get()); })
        .def_prop_ro(
            "size_bytes", [](const Model & s) { return llama_model_size(s.handle().get()); },
            "Bytes of all tensors.")
        .def_prop_ro("has_encoder", [](const Model & s) { return llama_model_has_encoder(s.handle().get()); })
        .def_prop_ro("has_decoder", [](const Model & s) { return llama_model_has_decoder(s.handle().get()); })
        .def_prop_ro("is_recurrent",
                     [](const Model & s) { return llama_model_is_recurrent(s.handle().get()); })
        .def_prop_ro("is_hybrid", [](const Model & s) { return llama_model_is_hybrid(s.handle().get()); })
        .def_prop_ro("add_bos", [](const Model & s) { return llama_vocab_get_add_bos(s.vocab()); })
        .def_prop_ro("add_eos", [](const Model & s) { return llama_vocab_get_add_eos(s.vocab()); })
        .def_prop_ro(
            "special_tokens", &special_tokens, nb::sig("def special_tokens(self) -> dict[str, int | None]"),
            "Token ids by role: bos, eos, eot, sep, nl, pad, mask and the fim_ ones; None where the vocabulary has none.")
        .def(
            "metadata",
            [](const Model & s) {
                nb::dict d;
                for (const auto & [key, value] : s.metadata()) {
                    d[to_text(key)] = to_text(value);
                }
                return d;
            },
            nb::sig("def metadata(self) -> dict[str, str]"),
            "The file's scalar metadata as text; arrays are left out.")
        .def(
            "chat_template",
            [](const Model & s, const std::string & name) { return to_text(s.chat_template(name)); },
            "name"_a = "", "The model's Jinja chat template, \"\" if it has none.")
        .def(
            "tokenize", &Model::tokenize, nb::call_guard<nb::gil_scoped_release>(), "text"_a, nb::kw_only(),
            "add_special"_a = true, "parse_special"_a = false,
            "Turn text into token ids.\n\n"
            "Args:\n"
            "    text: Any text.\n"
            "    add_special: Add BOS and EOS where the model wants them.\n"
            "    parse_special: Read the names of special tokens in the text as those tokens. Never for text a stranger wrote.")
        .def(
            "detokenize",
            [](const Model & s, const std::vector<int32_t> & tokens, bool remove_special,
               bool unparse_special) {
                const std::string text = s.detokenize(tokens, remove_special, unparse_special);
                return nb::bytes(text.data(), text.size());
            },
            "tokens"_a, nb::kw_only(), "remove_special"_a = false, "unparse_special"_a = false,
            "Turn token ids into bytes (UTF-8, cut anywhere).\n\n"
            "Raises:\n    InvalidRequestError: an id is not in the vocabulary.")
        .def(
            "token_to_piece",
            [](const Model & s, int32_t token, bool special) {
                const std::string piece = s.token_to_piece(token, special);
                return nb::bytes(piece.data(), piece.size());
            },
            "token"_a, nb::kw_only(), "special"_a = false,
            "The bytes one token stands for; b\"\" for control tokens unless `special`.")
        .def(
            "token_text",
            [](const Model & s, int32_t token) {
                s.check_token(token);
                return to_text(llama_vocab_get_text(s.vocab(), token));
            },
            "token"_a, "The vocabulary's own spelling of a token.")
        .def(
            "token_score",
            [](const Model & s, int32_t token) {
                s.check_token(token);
                return llama_vocab_get_score(s.vocab(), token);
            },
            "token"_a)
        .def(
            "is_eog",
            [](const Model & s, int32_t token) {
                s.check_token(token);
                return llama_vocab_is_eog(s.vocab(), token);
            },
            "token"_a, "Whether the token ends a generation.")
        .def(
            "is_control",
            [](const Model & s, int32_t token) {
                s.check_token(token);
                return llama_vocab_is_control(s.vocab(), token);
            },
            "token"_a);

    nb::class_<LoraAdapter>(m, "LoraAdapter",
                            "A LoRA adapter of one model. It lives as long as the model's weights do.")
        .def(nb::init<const Model &, const std::string &>(), nb::call_guard<nb::gil_scoped_release>(),
             "model"_a, "path"_a,
             "Load an adapter. No other thread may use the model meanwhile.\n\n"
             "Raises:\n    ModelLoadError: no adapter, or for another model.");
}

} // namespace slipstream
