#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>

#include "bind.h"
#include "chat_shim.h"

namespace slipstream {

using namespace nb::literals;

void bind_chat(nb::module_ & m) {
    nb::class_<ChatTemplate>(m, "ChatTemplate",
                             "A Jinja chat template in llama.cpp's own engine. Safe from any thread.")
        .def(nb::init<const std::string &, const std::string &, const std::string &>(),
             nb::call_guard<nb::gil_scoped_release>(), "source"_a, "bos"_a, "eos"_a,
             "Parse template text.\n\nRaises:\n    TemplateError: it does not parse.")
        .def(
            "render",
            [](const ChatTemplate & self, const std::string & messages, const std::string & tools,
               const std::string & options, bool add_generation_prompt) {
                std::string prompt;
                {
                    nb::gil_scoped_release release;
                    prompt = self.render(messages, tools, options, add_generation_prompt);
                }
                return to_text(prompt); // templates can cut characters in two
            },
            "messages"_a, "tools"_a, "options"_a, "add_generation_prompt"_a,
            "Render messages (a JSON array in OpenAI's shape) with tools (likewise, or \"\") and options (a JSON object of further\n"
            "variables, or \"\") into prompt text.\n\nRaises:\n    TemplateError: the template refuses them.")
        .def("capabilities", &ChatTemplate::capabilities, "What the template can do, by name.");
}

} // namespace slipstream
