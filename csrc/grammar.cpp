#include "grammar.h"

#include <algorithm>

#include "deep_stack.h"
#include "errors.h"

namespace slipstream {

namespace {

// How deep parentheses of GBNF text are nested: llama.cpp's parser recurses for each.
size_t nesting(const std::string & grammar) {
    size_t depth = 0, deepest = 0;
    char closing = 0; // of the literal, character class or comment that this is in
    for (size_t i = 0; i < grammar.size(); i++) {
        const char c = grammar[i];
        if (closing != 0) {
            i += c == '\\' && closing != '\n' ? 1 : 0;
            closing = c == closing ? 0 : closing;
        } else if (c == '"' || c == '[' || c == '#') {
            closing = c == '"' ? '"' : c == '[' ? ']' : '\n';
        } else if (c == '(') {
            deepest = std::max(deepest, ++depth);
        } else if (c == ')' && depth > 0) {
            depth--;
        }
    }
    return deepest;
}

} // namespace

llama_sampler * parse_grammar(const llama_vocab * vocab, const std::string & grammar) {
    constexpr size_t MAX_NESTING = 256;
    const char * what = grammar.find('\0') != std::string::npos ? "the grammar has a null character in it"
                        : nesting(grammar) > MAX_NESTING ? "the grammar nests parentheses more than 256 deep"
                        : llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE
                            ? "a grammar needs a model with a vocabulary"
                            : nullptr;
    if (what != nullptr) {
        throw Error("GrammarError", what, "grammar");
    }
    // Looking for left recursion recurses for each rule; a rule has at least six characters ("a::=b" and a line end).
    constexpr size_t FRAME_PER_CHARACTER = 64;
    llama_sampler * sampler = nullptr;
    guarded(
        "GrammarError", "the grammar does not parse",
        [&] {
            run_with_stack(grammar.size() * FRAME_PER_CHARACTER,
                           [&] { sampler = llama_sampler_init_grammar(vocab, grammar.c_str(), "root"); });
        },
        "grammar");
    if (sampler == nullptr) {
        throw Error("GrammarError", "the grammar does not parse as GBNF with a rule named root", "grammar");
    }
    return sampler;
}

} // namespace slipstream
