// The few words that the C++ tests need: CHECK, CHECK_THROWS, guarded memory, random numbers and rows.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

#define CHECK_THROWS(expression, Exception)                                               \
  do {                                                                                    \
    bool thrown = false;                                                                  \
    try {                                                                                 \
      expression;                                                                         \
    } catch (const Exception&) {                                                          \
      thrown = true;                                                                      \
    }                                                                                     \
    if (!thrown) {                                                                        \
      std::fprintf(stderr, "%s:%d: %s did not throw\n", __FILE__, __LINE__, #expression); \
      std::exit(1);                                                                       \
    }                                                                                     \
  } while (false)

namespace fct::testing {

// `count` elements that end exactly before an unreadable page: a read or write past the end is a crash, not luck.
template <typename T>
class Guarded {
 public:
  explicit Guarded(int64_t count) : size_(count) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    mapped_ = (bytes + page - 1) / page * page + page;
    base_ =
        static_cast<unsigned char*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(base_ != MAP_FAILED);
    CHECK(mprotect(base_ + mapped_ - page, page, PROT_NONE) == 0);
    data_ = reinterpret_cast<T*>(base_ + mapped_ - page - bytes);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, mapped_); }

  T* data() const { return data_; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  int64_t size_;
  unsigned char* base_;
  std::size_t mapped_;
  T* data_;
};

inline void fill_normal(float* target, int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < count; ++i) target[i] = normal(generator);
}

}  // namespace fct::testing
