// The few helpers that the chat files of llama.cpp's common/ want from common.cpp, written anew: linking that file
// would pull in its samplers, downloaders and argument parser. A helper that upstream adds shows as a link error.
#include <cstdarg>
#include <cstdio>
#include <string>
#include <vector>

#include "common.h"

std::string string_format(const char * fmt, ...) {
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    std::string text(size_t(std::vsnprintf(nullptr, 0, fmt, args)), '\0');
    std::vsnprintf(text.data(), text.size() + 1, fmt, again);
    va_end(again);
    va_end(args);
    return text;
}

std::string string_join(const std::vector<std::string> & values, const std::string & separator) {
    std::string joined;
    for (size_t i = 0; i < values.size(); i++) {
        joined += i == 0 ? values[i] : separator + values[i];
    }
    return joined;
}

std::vector<std::string> string_split(const std::string & str, const std::string & delimiter) {
    std::vector<std::string> parts;
    size_t start = 0;
    for (size_t end = str.find(delimiter); end != std::string::npos; end = str.find(delimiter, start)) {
        parts.push_back(str.substr(start, end - start));
        start = end + delimiter.size();
    }
    parts.push_back(str.substr(start));
    return parts;
}

std::string string_repeat(const std::string & str, size_t n) {
    std::string repeated;
    repeated.reserve(str.size() * n);
    for (size_t i = 0; i < n; i++) {
        repeated += str;
    }
    return repeated;
}

void string_replace_all(std::string & s, const std::string & search, const std::string & replace) {
    if (search.empty()) {
        return;
    }
    for (size_t at = s.find(search); at != std::string::npos; at = s.find(search, at + replace.size())) {
        s.replace(at, search.size(), replace);
    }
}

bool tty_can_use_colors() {
    return false;
}

std::vector<llama_token> common_tokenize(const llama_vocab * vocab, const std::string & text,
                                         bool add_special, bool parse_special) {
    std::vector<llama_token> tokens(text.size() + 8);
    const auto call = [&] {
        return llama_tokenize(vocab, text.data(), int32_t(text.size()), tokens.data(), int32_t(tokens.size()),
                              add_special, parse_special);
    };
    int32_t n = call();
    if (n < 0) {
        tokens.resize(size_t(-n));
        n = call();
    }
    tokens.resize(size_t(n));
    return tokens;
}

std::string common_token_to_piece(const llama_vocab * vocab, llama_token token, bool special) {
    std::string piece(64, '\0');
    const auto call = [&] {
        return llama_token_to_piece(vocab, token, piece.data(), int32_t(piece.size()), 0, special);
    };
    int32_t n = call();
    if (n < 0) {
        piece.resize(size_t(-n));
        n = call();
    }
    piece.resize(size_t(n));
    return piece;
}
