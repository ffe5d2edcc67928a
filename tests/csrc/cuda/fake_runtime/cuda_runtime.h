// A CUDA runtime without a GPU, for the library's host code: "device" memory is memory of the host, streams are lists
// of work that is done as late as somebody must wait for it, or at random moments before. Memory can run short, events
// can report faults, and what was made and not given back is counted. Only what the library calls; one device, one
// thread.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <vector>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorECCUncorrectable = 214,
  cudaErrorInvalidDevice = 101,
  cudaErrorHardwareStackError = 714,
  cudaErrorIllegalInstruction = 715,
  cudaErrorMisalignedAddress = 716,
  cudaErrorInvalidAddressSpace = 717,
  cudaErrorInvalidPc = 718,
  cudaErrorLaunchFailure = 719,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchTimeout = 702,
  cudaErrorAssert = 710,
  cudaErrorNotReady = 600,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
};
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0;
#define CUDART_VERSION 13000

struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
struct cudaDeviceProp {
  char name[256];
  std::size_t totalGlobalMem;
};

namespace fake {

struct Stream {
  std::deque<std::pair<std::function<void()>, std::function<bool()>>> work;  // what, and whether it may start
  int64_t given = 0, done = 0;
};
struct Event {
  Stream* stream = nullptr;
  int64_t count = 0;
  bool is_done() const { return stream == nullptr || stream->done >= count; }
};

struct Runtime {
  std::mt19937 generator{1};
  std::set<Stream*> streams;
  std::set<Event*> events;
  std::map<const unsigned char*, std::pair<std::size_t, cudaMemoryType>> memory;  // start -> bytes
  std::size_t device_bytes = 0, most_device_bytes = 0;
  std::size_t device_limit = std::size_t{1} << 40, pinned_limit = std::size_t{1} << 40;
  cudaError_t last = cudaSuccess;
  cudaError_t fault = cudaSuccess;  // what the next question after an event answers
  int pageable_copies = 0;
  bool stuck = false;                     // the device does nothing
  std::vector<const void*> host_sides{};  // of all copies
  Stream standard;

  bool step(Stream& stream) {
    if (stuck || stream.work.empty() || !stream.work.front().second()) return false;
    stream.work.front().first();
    stream.work.pop_front();
    ++stream.done;
    return true;
  }
  void dawdle() {
    while (!stuck && generator() % 3 != 0) {
      for (Stream* stream : streams) {
        if (generator() % 2 == 0) step(*stream);
      }
    }
  }
  void drain(Stream& stream) {
    while (!stream.work.empty()) {
      for (Stream* other : streams) step(*other);
      step(standard);
    }
  }
  void queue(Stream* stream, std::function<void()> go, std::function<bool()> may = [] { return true; }) {
    Stream& target = stream == nullptr ? standard : *stream;
    target.work.push_back({std::move(go), std::move(may)});
    ++target.given;
    dawdle();
  }
  cudaError_t allocate(void** pointer, std::size_t bytes, cudaMemoryType type) {
    if (type == cudaMemoryTypeDevice ? device_bytes + bytes > device_limit : bytes > pinned_limit)
      return last = cudaErrorMemoryAllocation;
    *pointer = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(*pointer, 0xff, bytes);
    memory[static_cast<unsigned char*>(*pointer)] = {bytes, type};
    if (type == cudaMemoryTypeDevice) device_bytes += bytes;
    most_device_bytes = device_bytes > most_device_bytes ? device_bytes : most_device_bytes;
    return cudaSuccess;
  }
  cudaError_t release(void* pointer) {
    const auto found = memory.find(static_cast<unsigned char*>(pointer));
    if (found == memory.end()) std::abort();
    if (found->second.second == cudaMemoryTypeDevice) device_bytes -= found->second.first;
    memory.erase(found);
    std::free(pointer);
    return cudaSuccess;
  }
  // The memory that holds a byte, or memory.end().
  auto holder(const void* pointer) {
    const auto* const byte = static_cast<const unsigned char*>(pointer);
    auto after = memory.upper_bound(byte);
    if (after == memory.begin()) return memory.end();
    --after;
    return byte < after->first + after->second.first ? after : memory.end();
  }
};

inline Runtime& runtime() {
  static Runtime the;
  return the;
}

}  // namespace fake

using cudaStream_t = fake::Stream*;
using cudaEvent_t = fake::Event*;

inline cudaError_t cudaGetLastError() { return std::exchange(fake::runtime().last, cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "a fault";
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  const int values[] = {9, 0, 4, 227 * 1024};
  return *value = values[which], cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) { return *properties = {}, cudaSuccess; }

inline cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  return fake::runtime().allocate(pointer, bytes, cudaMemoryTypeDevice);
}
inline cudaError_t cudaFree(void* pointer) { return fake::runtime().release(pointer); }
inline cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned) {
  return fake::runtime().allocate(pointer, bytes, cudaMemoryTypeHost);
}
inline cudaError_t cudaFreeHost(void* pointer) { return fake::runtime().release(pointer); }
// What the stream has freed before serves again.
inline cudaError_t cudaMallocAsync(void** pointer, std::size_t bytes, cudaStream_t stream) {
  fake::runtime().drain(stream == nullptr ? fake::runtime().standard : *stream);
  return cudaMalloc(pointer, bytes);
}
inline cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  fake::runtime().queue(stream, [pointer] { cudaFree(pointer); });
  return cudaSuccess;
}
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const auto found = fake::runtime().holder(pointer);
  const bool known = found != fake::runtime().memory.end();
  *attributes = {known ? found->second.second : cudaMemoryTypeUnregistered, 0};
  return cudaSuccess;
}

inline cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                                     std::size_t bytes, std::size_t rows, cudaMemcpyKind kind, cudaStream_t stream) {
  fake::Runtime& runtime = fake::runtime();
  const bool in = kind == cudaMemcpyHostToDevice;
  const auto device = runtime.holder(in ? to : from), host = runtime.holder(in ? from : to);
  if (device == runtime.memory.end() || device->second.second != cudaMemoryTypeDevice) std::abort();
  if (host == runtime.memory.end()) ++runtime.pageable_copies;
  runtime.host_sides.push_back(in ? from : to);
  if (to_pitch < bytes || from_pitch < bytes) std::abort();
  runtime.queue(stream, [=] {
    for (std::size_t r = 0; r < rows; ++r)
      std::memcpy(static_cast<char*>(to) + r * to_pitch, static_cast<const char*>(from) + r * from_pitch, bytes);
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  fake::runtime().streams.insert(*stream = new fake::Stream);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  fake::runtime().drain(stream == nullptr ? fake::runtime().standard : *stream);
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  cudaStreamSynchronize(stream);
  fake::runtime().streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamGetDevice(cudaStream_t, int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  fake::runtime().events.insert(*event = new fake::Event);
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  fake::runtime().events.erase(event);
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *event = {stream, stream->given};
  return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  fake::runtime().queue(stream, [] {}, [now = *event] { return now.is_done(); });
  return cudaSuccess;
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) {
  fake::Runtime& runtime = fake::runtime();
  if (runtime.fault != cudaSuccess) return runtime.last = runtime.fault;
  runtime.dawdle();
  return event->is_done() ? cudaSuccess : runtime.last = cudaErrorNotReady;
}
