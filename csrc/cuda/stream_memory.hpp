// Device memory in a stream's order, from the device's pool: free again when the work queued before is done.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace fct::cuda {

class StreamMemory {
 public:
  StreamMemory(int64_t bytes, cudaStream_t stream) : stream_(stream) {
    status_ = cudaMallocAsync(&data_, static_cast<std::size_t>(std::max<int64_t>(bytes, 1)), stream);
  }
  StreamMemory(const StreamMemory&) = delete;
  StreamMemory& operator=(const StreamMemory&) = delete;
  ~StreamMemory() {
    if (status_ == cudaSuccess) cudaFreeAsync(data_, stream_);
  }
  cudaError_t status() const { return status_; }
  unsigned char* data() const { return static_cast<unsigned char*>(data_); }

 private:
  cudaStream_t stream_;
  cudaError_t status_;
  void* data_ = nullptr;
};

}  // namespace fct::cuda
