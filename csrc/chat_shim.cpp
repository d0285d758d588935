#include "chat_shim.h"

#include <algorithm>
#include <set>

#include "chat-auto-parser.h"
#include "chat-peg-parser.h"
#include "chat.h"
#include "errors.h"
#include "json-schema-to-grammar.h"
#include "json.h"
#include "log.h"

namespace slipstream {

namespace {

// The format of calls for templates that know no tools, the one LM Studio documents for them.
constexpr const char * CALL_START = "[TOOL_REQUEST]";
constexpr const char * CALL_END = "[END_TOOL_REQUEST]";

std::string escape_regex(const std::string & text) {
    std::string escaped;
    for (const char c : text) {
        if (std::string("\\^$.|?*+()[]{}").find(c) != std::string::npos) {
            escaped += '\\';
        }
        escaped += c;
    }
    return escaped;
}

void set_triggers(const common_chat_params & params, ChatPlan & plan) {
    for (const auto & trigger : params.grammar_triggers) {
        const bool is_word = trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_WORD;
        plan.triggers.push_back(is_word ? escape_regex(trigger.value) : trigger.value);
        if (is_word) {
            plan.words.push_back(trigger.value);
        }
    }
    if (plan.words.size() < plan.triggers.size()) {
        plan.words.clear();
    }
}

// Ids of the parsers below `id`, down to rules, that are of type "until".
void collect_untils(const common_json & parsers, size_t id, std::set<size_t> & found) {
    const common_json & parser = parsers.at(id);
    const std::string type = parser.at("type");
    if (type == "until") {
        found.insert(id);
    } else if (type != "rule" && type != "ref") {
        if (parser.contains("child")) {
            collect_untils(parsers, parser.at("child").get<size_t>(), found);
        }
        if (parser.contains("children")) {
            for (const auto & child : parser.at("children")) {
                collect_untils(parsers, child.get<size_t>(), found);
            }
        }
    }
}

// Takes free text out of a grammar that asks for a call: a model that may talk first need never come to it.
std::string without_content(const std::string & grammar, const std::string & parser) {
    const common_json arena = common_json::parse(parser);
    const common_json & parsers = arena.at("parsers");
    std::set<size_t> untils;
    for (size_t id = 0; id < parsers.size(); id++) {
        if (parsers.at(id).at("type") == "tag" && parsers.at(id).at("tag") == "content") {
            collect_untils(parsers, parsers.at(id).at("child").get<size_t>(), untils);
        }
    }
    std::string made = grammar;
    for (const size_t id : untils) {
        const std::string head = "until-" + std::to_string(id) + " ::= ";
        size_t start = made.rfind(head, 0) == 0 ? 0 : made.find("\n" + head);
        if (start == std::string::npos) {
            continue;
        }
        start = made.find("::= ", start) + 4;
        made.replace(start, made.find('\n', start) - start, "\"\"");
    }
    return made;
}

// Some of llama.cpp's forms take several calls whatever is asked for.
std::string with_one_call(std::string grammar) {
    const std::string head = "\ntool-calls ::= ";
    const size_t start = grammar.find(head);
    if (start != std::string::npos) {
        const size_t end = std::min(grammar.find('\n', start + 1), grammar.size());
        if (grammar.compare(end - 2, 2, ")+") == 0) {
            grammar.erase(end - 1, 1);
        }
    }
    return grammar;
}

} // namespace

struct OutputForm {
    common_chat_format format = COMMON_CHAT_FORMAT_CONTENT_ONLY;
    common_peg_arena arena;
    std::string saved; // the arena as JSON
    std::string generation_prompt;
};

struct ChatTemplate::Impl {
    common_chat_templates_ptr templates;
    common_chat_templates_ptr without_eos;     // null where the analysis of both finds the same
    std::unique_ptr<common_chat_template> own; // as `templates`, for its analysis
};

namespace {

// What the analysis of a template makes of a chat with a tool.
std::pair<std::string, std::string> probe(const common_chat_templates_ptr & templates) {
    common_chat_templates_inputs inputs;
    common_chat_msg message;
    message.role = "user";
    message.content = "Hello";
    inputs.messages = {message};
    inputs.tools = {{"probe", "", R"({"type":"object","properties":{"a":{"type":"string"}}})"}};
    const common_chat_params params = common_chat_templates_apply(templates.get(), inputs);
    return {params.generation_prompt, params.parser};
}

// Some templates put the end token where the analysis takes it for a part of a call, which models never say.
common_chat_templates_ptr better_without_eos(const common_chat_templates_ptr & templates,
                                             const std::string & source, const std::string & bos) {
    try {
        common_chat_templates_ptr without = common_chat_templates_init(nullptr, source, bos, "");
        return probe(without) == probe(templates) ? nullptr : std::move(without);
    } catch (const std::exception &) {
        return nullptr; // it refuses the probe
    }
}

} // namespace

ChatTemplate::ChatTemplate(const std::string & source, const std::string & bos, const std::string & eos)
    : impl_(std::make_unique<Impl>()) {
    // common_log prints by itself, past our log; its levels are of no use here.
    common_log_set_verbosity_thold(-1);
    impl_->templates = guarded(
        "TemplateError", "the chat template does not parse",
        [&] {
            // Made first: the call below loses the message of what this throws.
            impl_->own = std::make_unique<common_chat_template>(source, bos, eos);
            return common_chat_templates_init(nullptr, source, bos, eos);
        },
        "chat_template");
    if (!impl_->templates) {
        throw Error("TemplateError", "the chat template does not parse", "chat_template");
    }
    if (!eos.empty()) {
        impl_->without_eos = better_without_eos(impl_->templates, source, bos);
    }
}

ChatTemplate::~ChatTemplate() = default;

namespace {

common_chat_templates_inputs to_common(const ChatInputs & given) {
    common_chat_templates_inputs inputs;
    inputs.use_jinja = true;
    inputs.add_generation_prompt = given.add_generation_prompt;
    inputs.messages = common_chat_msgs_parse_oaicompat(common_json::parse(given.messages));
    inputs.tool_choice = common_chat_tool_choice_parse_oaicompat(given.tool_choice);
    inputs.parallel_tool_calls = given.parallel_tool_calls;
    inputs.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK; // whose name stands for any
    if (!given.tools.empty() && !given.has_default_tools) {
        inputs.tools = common_chat_tools_parse_oaicompat(common_json::parse(given.tools));
    }
    if (!given.options.empty()) {
        common_json variables = common_json::parse(given.options);
        for (const auto & [key, value] : variables.items()) {
            inputs.chat_template_kwargs[key] = value.dump();
            if (key == "enable_thinking" && value.is_boolean()) {
                inputs.enable_thinking = value.get<bool>();
            }
        }
    }
    return inputs;
}

// Replaces the parser of a template that knows no tools by one for calls between our own marks.
void add_default_tools(const common_chat_template & source, const ChatInputs & given,
                       common_chat_params & params) {
    const bool must_call = given.tool_choice == "required";
    autoparser::autoparser analysis;
    analysis.analyze_template(source);
    autoparser::generation_params inputs;
    inputs.tools = common_json::parse(given.tools);
    inputs.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
    const common_peg_arena arena = build_chat_peg_parser([&](common_chat_peg_builder & p) {
        autoparser::parser_build_context context(p, inputs);
        context.extracting_reasoning = analysis.reasoning.mode != autoparser::reasoning_mode::NONE;
        const auto reasoning = analysis.reasoning.build_parser(context);
        const auto call =
            p.standard_json_tools(CALL_START, CALL_END, inputs.tools, false, true, "name", "arguments");
        const auto calls =
            given.parallel_tool_calls
                ? p.trigger_rule("tool-calls", call + p.zero_or_more(p.space() + call) + p.space())
                : p.trigger_rule("tool-calls", call + p.space());
        const auto answer =
            p.optional(p.content(p.until(CALL_START))) + (must_call ? calls : p.optional(calls));
        const std::string start = analysis.reasoning.start;
        return p.prefix(params.generation_prompt, start) << (reasoning + answer + p.end());
    });
    params.format = COMMON_CHAT_FORMAT_PEG_NATIVE;
    params.parser = arena.save();
    params.grammar_lazy = !must_call;
    params.grammar = build_grammar(
        [&](const common_grammar_builder & builder) { arena.build_grammar(builder, params.grammar_lazy); });
    params.grammar_triggers = {{COMMON_GRAMMAR_TRIGGER_TYPE_WORD, CALL_START}};
}

} // namespace

ChatPlan ChatTemplate::apply(const ChatInputs & inputs) const {
    common_chat_params params = guarded(
        "TemplateError", "the chat template cannot render these messages",
        [&] {
            const common_chat_templates_inputs given = to_common(inputs);
            common_chat_params made = common_chat_templates_apply(impl_->templates.get(), given);
            if (impl_->without_eos) {
                std::string prompt = std::move(made.prompt);
                made = common_chat_templates_apply(impl_->without_eos.get(), given);
                made.prompt = std::move(prompt);
            }
            return made;
        },
        "messages");
    ChatPlan plan;
    guarded(
        "TemplateError", "the form of the output cannot be worked out from the chat template",
        [&] {
            if (inputs.has_default_tools) {
                add_default_tools(*impl_->own, inputs, params);
            }
            if (!params.grammar.empty()) {
                plan.grammar =
                    params.grammar_lazy ? params.grammar : without_content(params.grammar, params.parser);
                if (!inputs.parallel_tool_calls) {
                    plan.grammar = with_one_call(std::move(plan.grammar));
                }
                if (params.grammar_lazy) {
                    set_triggers(params, plan);
                }
            }
            auto form = std::make_shared<OutputForm>();
            form->format = params.format;
            form->generation_prompt = params.generation_prompt;
            form->saved = params.parser;
            if (!params.parser.empty()) {
                form->arena.load(params.parser);
            }
            plan.can_call = params.parser.find("\"tool-name\"") != std::string::npos;
            plan.form = form;
        },
        "tools");
    plan.prompt = std::move(params.prompt);
    plan.generation_prompt = std::move(params.generation_prompt);
    plan.preserved_tokens = std::move(params.preserved_tokens);
    plan.stops = std::move(params.additional_stops);
    plan.can_think = params.supports_thinking && !params.thinking_end_tags.empty();
    if (plan.can_think) {
        plan.thinking_start = std::move(params.thinking_start_tag);
        plan.thinking_ends = std::move(params.thinking_end_tags);
    }
    return plan;
}

std::map<std::string, bool> ChatTemplate::capabilities() const {
    return guarded("TemplateError", "the chat template cannot be analysed",
                   [&] { return common_chat_templates_get_caps(impl_->templates.get()); });
}

OutputParser::OutputParser(const ChatPlan & plan, const std::string & continued)
    : form_(plan.form), before_(plan.form->generation_prompt + continued) {}

ParsedOutput OutputParser::parse(const std::string & text, bool is_last) const {
    common_chat_parser_params params;
    params.format = form_->format;
    params.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
    ParsedOutput parsed;
    common_chat_msg message;
    try {
        message = common_chat_peg_parse(form_->arena, before_ + text, !is_last, params);
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception &) {
        parsed.is_match = false;
        return parsed;
    }
    parsed.reasoning = std::move(message.reasoning_content);
    parsed.content = std::move(message.content);
    for (common_chat_tool_call & call : message.tool_calls) {
        parsed.calls.push_back({std::move(call.id), std::move(call.name), std::move(call.arguments)});
    }
    return parsed;
}

std::vector<std::string> OutputParser::delimiters() const {
    return guarded("TemplateError", "the form of the output cannot be read", [&] {
        std::set<std::string> found;
        if (!form_->saved.empty()) {
            const common_json arena = common_json::parse(form_->saved);
            for (const auto & parser : arena.at("parsers")) {
                if (parser.at("type") == "until") {
                    for (const auto & delimiter : parser.at("delimiters")) {
                        found.insert(delimiter.get<std::string>());
                    }
                }
            }
        }
        return std::vector<std::string>(found.begin(), found.end());
    });
}

} // namespace slipstream
