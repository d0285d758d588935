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
            "render", &ChatTemplate::render, nb::call_guard<nb::gil_scoped_release>(), "messages"_a,
            "tools"_a, "options"_a, "add_generation_prompt"_a,
            "Render messages (a JSON array in OpenAI's shape) with tools (likewise, or \"\") and options (a JSON object of further\n"
            "variables, or \"\") into prompt text.\n\nRaises:\n    TemplateError: the template refuses them.")
        .def("capabilities", &ChatTemplate::capabilities, "What the template can do, by name.");
}

} // namespace slipstream
