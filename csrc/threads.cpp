// How many threads to use: one per physical core this process may run on.
#include <fstream>
#include <set>
#include <string>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

#include "context.h"

namespace slipstream {

int32_t default_threads() {
#ifdef __linux__
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
        // CPUs that list the same siblings are hyper-threads of one core.
        std::set<std::string> cores;
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (!CPU_ISSET(cpu, &allowed)) {
                continue;
            }
            std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                               "/topology/thread_siblings_list");
            std::string siblings;
            if (!std::getline(file, siblings)) {
                siblings = std::to_string(cpu);
            }
            cores.insert(siblings);
        }
        if (!cores.empty()) {
            return int32_t(cores.size());
        }
    }
#endif
    const unsigned n = std::thread::hardware_concurrency();
    return n == 0 ? 1 : int32_t(n);
}

} // namespace slipstream
