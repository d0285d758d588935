#include "huge_pages.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <fstream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "ggml-backend.h"
#include "kernels/seam.h"

// llama.cpp's own list of a model's tensors, which its public header does not declare.
const std::vector<std::pair<std::string, ggml_tensor *>> &
llama_internal_get_tensor_map(const llama_model * model);

namespace slipstream {

HugePages::HugePages(std::shared_ptr<llama_model> model, std::shared_ptr<HugeMemory> memory)
    : model_(std::move(model)), memory_(std::move(memory)), done_(promise_.get_future()), thread_([this] {
          try {
              run();
          } catch (const std::exception &) { // out of memory: what is not copied is read as it is
          }
          model_.reset();
          promise_.set_value();
      }) {}

HugePages::~HugePages() {
    stop_.store(true);
    thread_.join();
}

#ifdef __linux__

namespace {

constexpr size_t kPage = size_t{2} << 20;
constexpr size_t kPiece =
    size_t{64} << 20; // copied at once: few enough that a kernel's limit of mappings is far

struct Range {
    uintptr_t begin, end;
};

bool is_mapped(const ggml_tensor * tensor) {
    return tensor->buffer != nullptr &&
           std::strcmp(ggml_backend_buffer_name(tensor->buffer), "CPU_Mapped") == 0;
}

// Whether embeddings are multiplied with, too: the file has no output of its own, and they were not copied to be it.
bool are_output(const llama_model * model) {
    int n_outputs = 0, n_embeddings = 0;
    for (const auto & [name, tensor] : llama_internal_get_tensor_map(model)) {
        n_outputs += name == "output.weight";
        n_embeddings += name == "token_embd.weight";
    }
    return n_outputs == 0 && n_embeddings == 1;
}

bool contains(const std::string & name, const char * part) {
    return name.find(part) != std::string::npos;
}

// Whether products with a tensor are those that read a copy, see slipstream_use_packed. Embeddings are looked up.
bool is_multiplied(const llama_model * model, const std::string & name, const ggml_tensor * tensor) {
    if (contains(name, "token_embd") || contains(name, "embed_tokens")) {
        return name == "token_embd.weight" && are_output(model);
    }
    return tensor->ne[2] == 1 || contains(name, "_exps");
}

// The weights our kernels arrange, if those are most of what is mapped.
std::vector<ggml_tensor *> packable(const llama_model * model) {
    std::vector<ggml_tensor *> found;
    size_t n_mapped = 0, n_packed = 0;
    for (const auto & [name, tensor] : llama_internal_get_tensor_map(model)) {
        if (!is_mapped(tensor)) {
            continue;
        }
        n_mapped += ggml_nbytes(tensor);
        const size_t size = slipstream_packed_size(tensor);
        if (size > 0 && is_multiplied(model, name, tensor)) {
            n_packed += size;
            found.push_back(tensor);
        }
    }
    return 2 * n_packed > n_mapped ? found : std::vector<ggml_tensor *>();
}

// The system may have the pages back that lie wholly within a tensor; they can be read again.
void give_back(const ggml_tensor * tensor) {
    constexpr uintptr_t kSmallPage = 4096;
    const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor->data);
    const uintptr_t first = (begin + kSmallPage - 1) / kSmallPage * kSmallPage;
    const uintptr_t last = (begin + ggml_nbytes(tensor)) / kSmallPage * kSmallPage;
    if (first < last) {
        madvise(reinterpret_cast<void *>(first), last - first, MADV_DONTNEED);
    }
}

// The whole huge pages of what is mapped from the file.
std::vector<Range> mapped_ranges(const llama_model * model) {
    std::set<ggml_backend_buffer_t> buffers;
    for (const auto & [name, tensor] : llama_internal_get_tensor_map(model)) {
        if (is_mapped(tensor)) {
            buffers.insert(tensor->buffer);
        }
    }
    std::vector<Range> ranges;
    for (ggml_backend_buffer_t buffer : buffers) {
        const uintptr_t base = reinterpret_cast<uintptr_t>(ggml_backend_buffer_get_base(buffer));
        const Range range{(base + kPage - 1) / kPage * kPage,
                          (base + ggml_backend_buffer_get_size(buffer)) / kPage * kPage};
        if (range.begin < range.end) {
            ranges.push_back(range);
        }
    }
    return ranges;
}

// A number of a file of lines "NAME NUMBER", times `unit`; `missing` if there is none.
uint64_t number_in(const std::string & path, const std::string & wanted, uint64_t unit, uint64_t missing) {
    std::ifstream file(path);
    std::string name;
    for (uint64_t number; file >> name;) {
        if (name == wanted && file >> number) {
            return number * unit;
        }
        file.clear();
        file.ignore(1 << 12, '\n');
    }
    return missing;
}

uint64_t number_of(const std::string & path, uint64_t missing) {
    std::ifstream file(path);
    uint64_t number;
    return file >> number ? number : missing;
}

// What may be allocated without others having to give something up; the limit of a container counts, too.
uint64_t free_bytes() {
    uint64_t found = number_in("/proc/meminfo", "MemAvailable:", 1024, 0);
    std::ifstream groups("/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {
        if (line.rfind("0::", 0) == 0) {
            for (const std::string & folder :
                 {"/sys/fs/cgroup" + line.substr(3), std::string("/sys/fs/cgroup")}) {
                const uint64_t most = number_of(folder + "/memory.max", UINT64_MAX);
                if (most != UINT64_MAX) {
                    const uint64_t used = number_of(folder + "/memory.current", 0) -
                                          number_in(folder + "/memory.stat", "inactive_file", 1, 0);
                    found = std::min(found, most > used ? most - used : 0);
                }
            }
        }
    }
    return found;
}

bool are_available() {
    std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
    std::string modes;
    return std::getline(file, modes) && modes.find("[never]") == std::string::npos;
}

// Whether `bytes` at an address are now a copy in huge pages. Readers see the one or the other: the kernel replaces a
// mapping under a lock that page faults wait for.
bool replace(uintptr_t address, size_t bytes) {
    HugeMemory memory;
    char * copy = memory.allocate(bytes);
    if (copy == nullptr) {
        return false;
    }
    std::memcpy(copy, reinterpret_cast<const void *>(address), bytes);
    if (mprotect(copy, bytes, PROT_READ) != 0 || mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                                                        reinterpret_cast<void *>(address)) == MAP_FAILED) {
        return false;
    }
    memory.forget();
    return true;
}

// Half of what is free is left to others.
bool is_free(uint64_t bytes) {
    return 2 * bytes <= free_bytes();
}

} // namespace

char * HugeMemory::allocate(size_t bytes) {
    bytes = (bytes + kPage - 1) / kPage * kPage;
    void * reserved =
        mmap(nullptr, bytes + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (reserved == MAP_FAILED) {
        return nullptr;
    }
    // Whole huge pages of it, and no more.
    char * start = static_cast<char *>(reserved);
    const size_t before = (kPage - reinterpret_cast<uintptr_t>(start) % kPage) % kPage;
    if (before > 0) {
        munmap(start, before);
    }
    munmap(start + before + bytes, kPage - before);
    begin_ = start + before;
    n_bytes_ = bytes;
    return madvise(begin_, n_bytes_, MADV_HUGEPAGE) == 0 ? begin_ : nullptr;
}

HugeMemory::~HugeMemory() {
    if (begin_ != nullptr) {
        munmap(begin_, n_bytes_);
    }
}

void HugePages::pack(const std::vector<ggml_tensor *> & tensors) {
    size_t needed = 0;
    for (const ggml_tensor * tensor : tensors) {
        needed += slipstream_packed_size(tensor);
    }
    char * at = is_free(needed) ? memory_->allocate(needed) : nullptr;
    if (at == nullptr) {
        return;
    }
    for (ggml_tensor * tensor : tensors) {
        const size_t bytes = slipstream_packed_size(tensor);
        if (!is_free(bytes)) { // others have taken it meanwhile
            return;
        }
        const int64_t n_pieces = static_cast<int64_t>((bytes + kPiece - 1) / kPiece);
        for (int64_t i = 0; i < n_pieces; i++) {
            if (stop_.load()) {
                return;
            }
            slipstream_pack(tensor, at, i, n_pieces);
        }
        slipstream_use_packed(tensor, at);
        give_back(tensor);
        at += bytes;
        n_bytes_.fetch_add(bytes, std::memory_order_relaxed);
    }
}

void HugePages::move() {
    const std::vector<Range> ranges = mapped_ranges(model_.get());
    uint64_t needed = 0;
    for (const Range & range : ranges) {
        needed += range.end - range.begin;
    }
    if (!is_free(needed)) {
        return;
    }
    for (const Range & range : ranges) {
        for (uintptr_t at = range.begin; at < range.end; at += kPiece) {
            const size_t bytes = std::min<size_t>(kPiece, range.end - at);
            if (stop_.load() || !replace(at, bytes)) {
                return;
            }
            n_bytes_.fetch_add(bytes, std::memory_order_relaxed);
        }
    }
}

void HugePages::run() {
    if (!are_available()) {
        return;
    }
    const std::vector<ggml_tensor *> tensors = packable(model_.get());
    if (tensors.empty()) {
        move();
    } else {
        pack(tensors);
    }
}

#else

HugeMemory::~HugeMemory() {}
char * HugeMemory::allocate(size_t) {
    return nullptr;
}
void HugePages::run() {}

#endif

} // namespace slipstream
