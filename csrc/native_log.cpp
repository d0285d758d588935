#include "native_log.h"

#include <deque>
#include <mutex>

#include "llama.h"
#include "mtmd-helper.h"

namespace slipstream {

namespace {

constexpr size_t MAX_LINES = 4096;

std::mutex mutex;
std::deque<LogLine> buffer;
thread_local LogCapture * capture = nullptr;
thread_local LogWatch * watch = nullptr;
thread_local int last_level = GGML_LOG_LEVEL_INFO;

void keep_line(int level, bool continues, const std::string & line) {
    std::lock_guard<std::mutex> lock(mutex);
    if (continues && !buffer.empty()) {
        buffer.back().text += line;
        return;
    }
    buffer.push_back({level, line});
    if (buffer.size() > MAX_LINES) {
        buffer.pop_front();
    }
}

void on_log(ggml_log_level level, const char * text, void *) {
    const bool continues = level == GGML_LOG_LEVEL_CONT;
    const int effective = continues ? last_level : int(level);
    last_level = effective;
    if (effective == GGML_LOG_LEVEL_NONE || effective == GGML_LOG_LEVEL_DEBUG) {
        return;
    }
    std::string line(text);
    while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) {
        line.pop_back();
    }
    if (line.empty() || line.find_first_not_of('.') == std::string::npos) {
        return; // progress dots
    }
    capture_line(effective, line);
    keep_line(effective, continues, line);
    watch_line(line);
}

} // namespace

void capture_line(int level, const std::string & text) {
    if (capture != nullptr && level >= GGML_LOG_LEVEL_WARN) {
        capture->lines_.push_back(text);
    }
}

void watch_line(const std::string & text) {
    if (watch != nullptr) {
        watch->see_(text);
    }
}

void install_log() {
    llama_log_set(on_log, nullptr);
    mtmd_helper_log_set(on_log, nullptr); // libmtmd's, too
}

std::vector<LogLine> drain_log() {
    std::lock_guard<std::mutex> lock(mutex);
    std::vector<LogLine> lines(buffer.begin(), buffer.end());
    buffer.clear();
    return lines;
}

LogCapture::LogCapture() : outer_(capture) {
    capture = this;
}

LogCapture::~LogCapture() {
    capture = outer_;
}

LogWatch::LogWatch(std::function<void(const std::string &)> see) : outer_(watch), see_(std::move(see)) {
    watch = this;
}

LogWatch::~LogWatch() {
    watch = outer_;
}

std::string LogCapture::tail(const char * otherwise) const {
    if (lines_.empty()) {
        return otherwise;
    }
    std::string text;
    const size_t first = lines_.size() > 4 ? lines_.size() - 4 : 0;
    for (size_t i = first; i < lines_.size(); i++) {
        text += (i > first ? "; " : "") + lines_[i];
    }
    return text;
}

} // namespace slipstream
