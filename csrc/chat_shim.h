// The one door to llama.cpp's common/ chat code, whose types change without notice: strings and JSON text cross it,
// nothing else. Works without a model.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace slipstream {

// What a prompt is made from.
struct ChatInputs {
    std::string messages;     // JSON array in OpenAI's shape
    std::string tools = "";   // JSON array of OpenAI's function tools; "" for none
    std::string options = ""; // JSON object of further template variables; "" for none
    bool add_generation_prompt = true;
    // auto; required: the answer is a call; none: the template sees the tools, but the answer is no call
    std::string tool_choice = "auto";
    bool parallel_tool_calls = true; // it may hold several
    bool has_default_tools = false;  // the template knows no tools; calls have the format of wrapper()
};

struct OutputForm;

// A prompt, and what its answer looks like.
struct ChatPlan {
    std::string prompt;
    std::string generation_prompt;             // the end of the prompt, which belongs to the answer
    std::string grammar;                       // GBNF of the calls; "" for none
    std::vector<std::string> triggers;         // regular expressions; see GrammarParams
    std::vector<std::string> words;            // the triggers unescaped, where all are plain text
    std::vector<std::string> preserved_tokens; // control tokens whose text is part of the format
    std::vector<std::string> stops;
    std::string thinking_start; // "" where there is no thinking, or where the answer begins with it
    std::vector<std::string> thinking_ends;
    bool can_think = false;
    bool can_call = false;                  // the form has a place for calls
    std::shared_ptr<const OutputForm> form; // of OutputParser
};

class ChatTemplate {
  public:
    // Parses Jinja text. Throws TemplateError.
    ChatTemplate(const std::string & source, const std::string & bos, const std::string & eos);
    ~ChatTemplate();

    // Throws TemplateError, also where the template itself refuses, and where the parameters of a tool are no JSON Schema
    // of which a grammar can be made. Const and thread-safe.
    ChatPlan apply(const ChatInputs & inputs) const;
    // What the template can do by its own analysis: "supports_tools" and the like.
    std::map<std::string, bool> capabilities() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

struct ParsedCall {
    std::string id, name, arguments; // "" for an id the model does not give; arguments may be cut off
};

struct ParsedOutput {
    bool is_match = true; // the output has the form; if not, what there is of it comes before the fault
    std::string reasoning, content;
    std::vector<ParsedCall> calls;
};

// Splits the output of one plan. Const and thread-safe.
class OutputParser {
  public:
    // `continued` is text behind the generation prompt that is taken for said.
    OutputParser(const ChatPlan & plan, const std::string & continued);

    // Of all text so far; with `is_last`, text that does not go on as the form wants it is no match. O(its length).
    ParsedOutput parse(const std::string & text, bool is_last) const;
    // What can end a run of reasoning or content: their first characters are the only ones to look out for.
    std::vector<std::string> delimiters() const;

  private:
    std::shared_ptr<const OutputForm> form_;
    std::string before_;
};

} // namespace slipstream
