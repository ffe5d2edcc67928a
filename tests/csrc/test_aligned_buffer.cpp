// Buffers are aligned, grow, and where they are large wish for huge pages.
#include "core/aligned_buffer.hpp"

#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "check.hpp"

using namespace fct;

namespace {

// Whether the mapping that holds `address` carries the wish: "hg" among its VmFlags.
bool is_wished(const void* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long begin = 0, end = 0;
    char permission = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx %c", &begin, &end, &permission) == 3)
      inside = begin <= wanted && wanted < end;
    if (!inside || !line.starts_with("VmFlags:")) continue;
    std::istringstream flags(line);
    for (std::string flag; flags >> flag;) {
      if (flag == "hg") return true;
    }
  }
  return false;
}

}  // namespace

int main() {
  AlignedBuffer<float> buffer;
  float* const few = buffer.reserve(100'000);
  CHECK(reinterpret_cast<std::uintptr_t>(few) % kCacheLine == 0 && !is_wished(few + 50'000));
  CHECK(buffer.reserve(10) == few);
  const std::size_t bytes = 8 * kHugePageBuffer;
  unsigned char* const many = reinterpret_cast<unsigned char*>(buffer.reserve(bytes / sizeof(float)));
  CHECK(reinterpret_cast<std::uintptr_t>(many) % kCacheLine == 0);
  std::memset(many, 1, bytes);  // all of it is there
  const bool has_huge_pages = std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled").good();
  CHECK(!has_huge_pages || is_wished(many + bytes / 2));
  return 0;
}
