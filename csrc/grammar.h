// GBNF text to llama.cpp's grammar sampler, past the texts its parser dies of.
#pragma once

#include <string>

#include "llama.h"

namespace slipstream {

// Throws GrammarError. The caller frees the sampler.
llama_sampler * parse_grammar(const llama_vocab * vocab, const std::string & grammar);

} // namespace slipstream
