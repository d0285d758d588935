// The one door to llama.cpp's common/ chat code, whose types change without notice: strings and JSON text cross it,
// nothing else. Works without a model.
#pragma once

#include <map>
#include <memory>
#include <string>

namespace slipstream {

class ChatTemplate {
  public:
    // Parses Jinja text. Throws TemplateError.
    ChatTemplate(const std::string & source, const std::string & bos, const std::string & eos);
    ~ChatTemplate();

    // Messages and tools are JSON arrays in OpenAI's shape (tools may be ""), options a JSON object of further
    // template variables. Returns the prompt text. Throws TemplateError, also where the template itself refuses.
    // Const and thread-safe.
    std::string render(const std::string & messages, const std::string & tools, const std::string & options,
                       bool add_generation_prompt) const;
    // What the template can do by its own analysis: "supports_tools" and the like.
    std::map<std::string, bool> capabilities() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace slipstream
