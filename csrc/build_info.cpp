#include "build_info.h"

#include <cstring>

#include "ggml-backend.h"
#include "kernels/seam.h"

namespace slipstream {

BuildInfo build_info() {
    BuildInfo info;
    info.version = SLIPSTREAM_VERSION;
    info.llama_commit = SLIPSTREAM_LLAMA_COMMIT;
    info.llama_version = SLIPSTREAM_LLAMA_VERSION;
    info.ggml_version = SLIPSTREAM_GGML_VERSION;
    info.backend = SLIPSTREAM_BACKEND;
    info.flags = SLIPSTREAM_FLAGS;
    info.compiler = SLIPSTREAM_COMPILER;
    if (const char * isa = slipstream_kernels_isa()) {
        for (int type = 0; type < GGML_TYPE_COUNT; type++) {
            if (slipstream_kernels_serve(static_cast<ggml_type>(type))) {
                info.kernels.emplace_back(ggml_type_name(static_cast<ggml_type>(type)), isa);
            }
        }
    }
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        info.devices.emplace_back(ggml_backend_dev_name(device), ggml_backend_dev_description(device));
        if (ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_CPU) {
            continue;
        }
        auto get_features = reinterpret_cast<ggml_backend_get_features_t>(ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(device), "ggml_backend_get_features"));
        if (get_features == nullptr) {
            continue;
        }
        for (ggml_backend_feature * feature = get_features(ggml_backend_dev_backend_reg(device));
             feature->name; feature++) {
            if (std::strcmp(feature->value, "0") != 0) {
                info.cpu_features.emplace_back(feature->name);
            }
        }
    }
    return info;
}

} // namespace slipstream
