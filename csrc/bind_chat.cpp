#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "chat_shim.h"

namespace slipstream {

using namespace nb::literals;

void bind_chat(nb::module_ & m) {
    nb::class_<ChatPlan>(m, "ChatPlan", "A prompt, and what its answer looks like. Immutable.")
        .def_prop_ro(
            "prompt",
            [](const ChatPlan & p) { return to_text(p.prompt); }, // templates can cut characters in two
            "Its text.")
        .def_prop_ro(
            "generation_prompt", [](const ChatPlan & p) { return to_text(p.generation_prompt); },
            "The end of the prompt, which belongs to the answer.")
        .def_ro("grammar", &ChatPlan::grammar, "GBNF of the calls, \"\" for none.")
        .def_ro("triggers", &ChatPlan::triggers,
                "Regular expressions; with any, the grammar holds only behind a match.")
        .def_ro("words", &ChatPlan::words, "The triggers unescaped, where all are plain text.")
        .def_ro("preserved_tokens", &ChatPlan::preserved_tokens,
                "Control tokens whose text is part of the format.")
        .def_ro("stops", &ChatPlan::stops, "Strings that end the answer.")
        .def_ro("thinking_start", &ChatPlan::thinking_start, "What thinking begins with.")
        .def_ro("thinking_ends", &ChatPlan::thinking_ends, "What can end it.")
        .def_ro("can_think", &ChatPlan::can_think, "Whether the template has a place for thinking.")
        .def_ro("can_call", &ChatPlan::can_call, "Whether the answer can hold calls of the tools.");

    nb::class_<ChatTemplate>(m, "ChatTemplate",
                             "A Jinja chat template in llama.cpp's own engine. Safe from any thread.")
        .def(nb::init<const std::string &, const std::string &, const std::string &>(),
             nb::call_guard<nb::gil_scoped_release>(), "source"_a, "bos"_a, "eos"_a,
             "Parse template text.\n\nRaises:\n    TemplateError: it does not parse.")
        .def(
            "apply",
            [](const ChatTemplate & self, std::string messages, std::string tools, std::string options,
               bool add_generation_prompt, std::string tool_choice, bool parallel_tool_calls,
               bool has_default_tools) {
                return self.apply({std::move(messages), std::move(tools), std::move(options),
                                   add_generation_prompt, std::move(tool_choice), parallel_tool_calls,
                                   has_default_tools});
            },
            nb::call_guard<nb::gil_scoped_release>(), "messages"_a, "tools"_a = "", "options"_a = "",
            nb::kw_only(), "add_generation_prompt"_a = true, "tool_choice"_a = "auto",
            "parallel_tool_calls"_a = true, "has_default_tools"_a = false,
            "Render messages (a JSON array in OpenAI's shape) with tools (likewise, or \"\") and options (a JSON object of further\n"
            "variables, or \"\"). The tool_choice is auto; required, so that the answer is a call; or none, so that the template sees\n"
            "the tools, but the answer is no call. With has_default_tools calls come between\n"
            "[TOOL_REQUEST] and [END_TOOL_REQUEST], and the template hears nothing of the tools.\n\n"
            "Raises:\n"
            "    TemplateError: the template refuses them, or the parameters of a tool are no JSON Schema it can use.")
        .def("capabilities", &ChatTemplate::capabilities, "What the template can do, by name.");

    nb::class_<OutputParser>(m, "OutputParser", "Splits the output of one plan. Safe from any thread.")
        .def(nb::init<const ChatPlan &, const std::string &>(), "plan"_a, "continued"_a = "",
             "`continued` is text behind the generation prompt that is taken for said.")
        .def(
            "parse",
            [](const OutputParser & self, const std::string & text, bool is_last) {
                ParsedOutput parsed;
                {
                    nb::gil_scoped_release release;
                    parsed = self.parse(text, is_last);
                }
                nb::list calls;
                for (const ParsedCall & call : parsed.calls) {
                    calls.append(
                        nb::make_tuple(to_text(call.id), to_text(call.name), to_text(call.arguments)));
                }
                return nb::make_tuple(parsed.is_match, to_text(parsed.reasoning), to_text(parsed.content),
                                      calls);
            },
            "text"_a, "is_last"_a = false,
            nb::sig(
                "def parse(self, text: str, is_last: bool = False) -> tuple[bool, str, str, list[tuple[str, str, str]]]"),
            "Split all text so far; with is_last, text that does not go on as the form wants it is no match.\n\n"
            "Returns:\n"
            "    Whether the text has the form, its reasoning, its content, and (id, name, arguments) of its calls.")
        .def(
            "delimiters", &OutputParser::delimiters,
            "What can end a run of reasoning or content: only their first characters are to be looked out for.");
}

} // namespace slipstream
