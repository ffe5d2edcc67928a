// A growing buffer aligned to a cache line; contents are not kept when it grows.
#pragma once

#include <cstddef>
#include <new>

namespace fct {

constexpr std::size_t kCacheLine = 64;

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
