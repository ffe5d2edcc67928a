// A growing buffer aligned to a cache line; contents are not kept when it grows.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <cstddef>
#include <cstdint>
#include <new>

namespace fct {

constexpr std::size_t kCacheLine = 64;

// Buffers of so many bytes wish for huge pages, as numpy's do, which hold packed weights and prepared galleries.
constexpr std::size_t kHugePageBuffer = std::size_t{4} << 20;

// The whole pages of [data, data + bytes). Where the system has no huge pages, or wants none, nothing happens.
inline void wish_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const std::uintptr_t page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = (reinterpret_cast<std::uintptr_t>(data) + page - 1) / page * page;
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

template <typename T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  AlignedBuffer(AlignedBuffer&& other) noexcept : data_(other.data_), size_(other.size_) {
    other.data_ = nullptr;
    other.size_ = 0;
  }
  ~AlignedBuffer() { release(); }

  // At least `count` elements, uninitialised. Throws std::bad_alloc.
  T* reserve(std::size_t count) {
    if (count > size_) {
      release();
      data_ = static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{kCacheLine}));
      size_ = count;
      if (count * sizeof(T) >= kHugePageBuffer) wish_for_huge_pages(data_, count * sizeof(T));
    }
    return data_;
  }

  T* data() const { return data_; }

 private:
  void release() {
    ::operator delete(data_, std::align_val_t{kCacheLine});
    data_ = nullptr;
    size_ = 0;
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace fct
