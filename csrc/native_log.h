// llama.cpp's log: one process-wide callback, so it is set once and fans out here. Python is never called from it;
// engine.llama_runner drains the buffer into the "slipstream.llama" logger.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace slipstream {

// ggml levels: 1 debug, 2 info, 3 warning, 4 error
struct LogLine {
    int level;
    std::string text;
};

void install_log();
// For the callback: keeps the line if a LogCapture of this thread wants it.
void capture_line(int level, const std::string & text);
// Likewise, for a LogWatch.
void watch_line(const std::string & text);

// Takes the buffered lines, oldest first. The buffer keeps the newest 4096. Any thread.
std::vector<LogLine> drain_log();

// While alive, keeps the warnings and errors logged by this thread: load and context creation report nothing else.
class LogCapture {
  public:
    LogCapture();
    ~LogCapture();
    LogCapture(const LogCapture &) = delete;
    LogCapture & operator=(const LogCapture &) = delete;

    // The last few lines joined, or `otherwise` if nothing was logged.
    std::string tail(const char * otherwise) const;

  private:
    friend void capture_line(int level, const std::string & text);
    LogCapture * outer_; // callbacks may load or compute in the middle of a load
    std::vector<std::string> lines_;
};

// While alive, sees the lines logged by this thread, info included. What it throws goes through the code that logged:
// only for calls that are known to catch it.
class LogWatch {
  public:
    explicit LogWatch(std::function<void(const std::string &)> see);
    ~LogWatch();
    LogWatch(const LogWatch &) = delete;
    LogWatch & operator=(const LogWatch &) = delete;

  private:
    friend void watch_line(const std::string & text);
    LogWatch * outer_;
    std::function<void(const std::string &)> see_;
};

} // namespace slipstream
