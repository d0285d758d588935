#include "chat_shim.h"

#include "chat.h"
#include "errors.h"
#include "json.h"
#include "log.h"

namespace slipstream {

struct ChatTemplate::Impl {
    common_chat_templates_ptr templates;
};

ChatTemplate::ChatTemplate(const std::string & source, const std::string & bos, const std::string & eos)
    : impl_(std::make_unique<Impl>()) {
    // common_log prints by itself, past our log; its levels are of no use here.
    common_log_set_verbosity_thold(-1);
    impl_->templates = guarded(
        "TemplateError", "the chat template does not parse",
        [&] {
            common_chat_template(source, bos, eos); // the call below loses the message of what this throws
            return common_chat_templates_init(nullptr, source, bos, eos);
        },
        "chat_template");
    if (!impl_->templates) {
        throw Error("TemplateError", "the chat template does not parse", "chat_template");
    }
}

ChatTemplate::~ChatTemplate() = default;

std::string ChatTemplate::render(const std::string & messages, const std::string & tools,
                                 const std::string & options, bool add_generation_prompt) const {
    const auto apply = [&] {
        common_chat_templates_inputs inputs;
        inputs.use_jinja = true;
        inputs.add_generation_prompt = add_generation_prompt;
        inputs.messages = common_chat_msgs_parse_oaicompat(common_json::parse(messages));
        if (!tools.empty()) {
            inputs.tools = common_chat_tools_parse_oaicompat(common_json::parse(tools));
        }
        if (!options.empty()) {
            common_json variables = common_json::parse(options);
            for (const auto & [key, value] : variables.items()) {
                inputs.chat_template_kwargs[key] = value.dump();
                if (key == "enable_thinking" && value.is_boolean()) {
                    inputs.enable_thinking = value.get<bool>();
                }
            }
        }
        return common_chat_templates_apply(impl_->templates.get(), inputs).prompt;
    };
    return guarded("TemplateError", "the chat template cannot render these messages", apply, "messages");
}

std::map<std::string, bool> ChatTemplate::capabilities() const {
    return guarded("TemplateError", "the chat template cannot be analysed",
                   [&] { return common_chat_templates_get_caps(impl_->templates.get()); });
}

} // namespace slipstream
