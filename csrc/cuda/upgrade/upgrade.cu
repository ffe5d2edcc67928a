// The upgrade behind the C ABI: weights on a device, calls on a stream, scratch from the device's memory pool.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "cuda/abi.h"
#include "cuda/runtime.hpp"
#include "cuda/upgrade/launch.hpp"

struct FctCudaUpgrade {
  int device;
  fct::cuda::DeviceFacts facts;
  fct::cuda::TransformLayout layout;
  unsigned char* weights;
};

namespace fct::cuda {
namespace {

std::string shape_of(const FctCudaUpgrade& upgrade, const FctCudaUpgradeCall& call) {
  return "upgrade of " + std::to_string(call.rows) + " rows [" + std::to_string(upgrade.layout.old_dim) + " + " +
         std::to_string(upgrade.layout.side_dim) + " -> " + std::to_string(upgrade.layout.new_dim) +
         "] on CUDA device " + std::to_string(upgrade.device);
}

Dtype dtype_of(int32_t code, const char* name) {
  if (code < 0 || code > 2) throw DtypeError(std::string(name) + " has an unknown dtype");
  return static_cast<Dtype>(code);
}

constexpr int32_t kInt8 = 3;  // FctCudaTransform::precision

TransformSource source_of(const FctCudaTransform& transform) {
  const bool int8 = transform.precision == kInt8;
  TransformSource source{.old_dim = transform.old_dim,
                         .side_dim = transform.side_dim,
                         .new_dim = transform.new_dim,
                         .normalize = transform.normalize != 0,
                         .uncertainty = transform.uncertainty != 0,
                         .precision = int8 ? Precision::int8 : Precision::fp32,
                         .branches = {},
                         .trunk = {}};
  const FctCudaLayer* next = transform.layers;
  const auto take = [&next, int8](int64_t count) {
    std::vector<LayerSource> layers;
    for (int64_t i = 0; i < count; ++i, ++next) {
      layers.push_back({next->weight, next->bias, next->in_dim, next->out_dim, next->relu != 0});
      if (!int8) continue;
      layers.back().quantized = next->quantized;
      layers.back().scale = next->scale;
      layers.back().narrow = next->narrow != 0;
    }
    return layers;
  };
  for (int32_t b = 0; b < transform.branches; ++b)
    source.branches.push_back({transform.branch_reads_side[b] != 0, take(transform.branch_layers[b])});
  source.trunk = take(transform.trunk_layers);
  return source;
}

// Of what is not bytes.
Dtype precision_of(const FctCudaTransform& transform) {
  return transform.precision == kInt8 ? Dtype::f32 : dtype_of(transform.precision, "precision");
}

// Memory of a stream's order: freed when the work before it is done.
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

// Runs attempt(limit) with half the memory again and again where the device runs short of it.
template <typename Attempt>
void with_shrinking_memory(const FctCudaUpgrade& upgrade, const FctCudaUpgradeCall& call, Attempt attempt) {
  for (int64_t limit = call.scratch_limit;; limit /= 2) {
    const cudaError_t error = attempt(limit);
    if (error == cudaSuccess) return;
    cudaGetLastError();
    if (error != cudaErrorMemoryAllocation || limit < (int64_t{1} << 20)) check(error, shape_of(upgrade, call));
  }
}

// `pointer` may be read by kernels of the device.
void check_pointer(const void* pointer, const char* name, const FctCudaUpgrade& upgrade) {
  cudaPointerAttributes attributes;
  check(cudaPointerGetAttributes(&attributes, pointer), std::string("asking where ") + name + " lies");
  const bool here = attributes.type == cudaMemoryTypeDevice && attributes.device == upgrade.device;
  if (here || attributes.type == cudaMemoryTypeManaged) return;
  throw DeviceError(std::string(name) + " is not in the memory of CUDA device " + std::to_string(upgrade.device) +
                    (attributes.type == cudaMemoryTypeDevice ? " but of device " + std::to_string(attributes.device)
                                                             : std::string(" but of the host")));
}

void check_rows(const FctCudaRows& rows, const char* name, int64_t count, int64_t columns) {
  const int64_t element = size_of(dtype_of(rows.dtype, name));
  if (reinterpret_cast<std::uintptr_t>(rows.data) % static_cast<std::uintptr_t>(element) != 0)
    throw DtypeError(std::string(name) + " starts inside an element; its address must be a multiple of " +
                     std::to_string(element));
  if (count > 1 && std::abs(rows.row_stride) < columns && std::strcmp(name, "out") == 0)
    throw ShapeError("the rows of out lie on each other in memory");
}

void check_call(const FctCudaUpgrade& upgrade, const FctCudaUpgradeCall& call) {
  if (call.rows < 0) throw ShapeError("a negative number of rows");
  check_rows(call.old_rows, "old", call.rows, upgrade.layout.old_dim);
  check_rows(call.out, "out", call.rows, upgrade.layout.new_dim);
  if (upgrade.layout.side_dim > 0) {
    if (call.rows > 0 && call.side.data == nullptr) throw ShapeError("side is missing");
    check_rows(call.side, "side", call.rows, upgrade.layout.side_dim);
  }
  if (call.uncertainty != nullptr && !upgrade.layout.uncertainty)
    throw ShapeError("this transform has no uncertainty head");
}

void check_memory(const FctCudaUpgrade& upgrade, const FctCudaUpgradeCall& call) {
  check_pointer(call.old_rows.data, "old", upgrade);
  check_pointer(call.out.data, "out", upgrade);
  check_pointer(call.status, "status", upgrade);
  if (upgrade.layout.side_dim > 0) check_pointer(call.side.data, "side", upgrade);
  if (call.uncertainty != nullptr) check_pointer(call.uncertainty, "uncertainty", upgrade);
  if (call.stream == nullptr) return;
  int device = upgrade.device;
#if CUDART_VERSION >= 12080
  check(cudaStreamGetDevice(static_cast<cudaStream_t>(call.stream), &device), "asking where the stream lies");
#endif
  if (device != upgrade.device) {
    throw DeviceError("the stream belongs to CUDA device " + std::to_string(device) + ", but the transform to device " +
                      std::to_string(upgrade.device));
  }
}

UpgradeRun run_of(const FctCudaUpgrade& upgrade, const FctCudaUpgradeCall& call, unsigned char* scratch) {
  const auto rows = [](const FctCudaRows& from) {
    return RowsOf<const unsigned char*>{static_cast<const unsigned char*>(from.data), static_cast<Dtype>(from.dtype),
                                        from.row_stride};
  };
  return {.old = rows(call.old_rows),
          .side = rows(call.side),
          .out = {static_cast<unsigned char*>(call.out.data), static_cast<Dtype>(call.out.dtype), call.out.row_stride},
          .uncertainty = call.uncertainty,
          .status = call.status,
          .weights = upgrade.weights,
          .scratch = scratch};
}

void run_on_device(const FctCudaUpgrade& upgrade, FctCudaUpgradeCall& call) {
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  with_shrinking_memory(upgrade, call, [&](int64_t limit) {
    const UpgradePlan plan = plan_upgrade(upgrade.layout, upgrade.facts, call.rows, limit);
    const StreamMemory scratch(plan.scratch_bytes, stream);
    if (scratch.status() != cudaSuccess) return scratch.status();
    StreamLauncher launcher(stream);
    run_upgrade(plan, run_of(upgrade, call, scratch.data()), launcher);
    call.chunk_rows = plan.chunk_rows;
    return cudaSuccess;
  });
}

// A host array's chunk on the device: contiguous rows.
struct HostSide {
  const FctCudaRows& rows;
  int64_t columns;
  int64_t row_bytes() const { return columns * size_of(static_cast<Dtype>(rows.dtype)); }
  int64_t pitch() const { return rows.row_stride * size_of(static_cast<Dtype>(rows.dtype)); }
  unsigned char* at(int64_t row) const { return static_cast<unsigned char*>(rows.data) + row * pitch(); }
};

void copy_rows(const HostSide& host, int64_t first, int64_t rows, unsigned char* device, bool to_device,
               cudaStream_t stream) {
  const std::size_t bytes = static_cast<std::size_t>(host.row_bytes());
  const char* const what = "upgrade: copying rows over the link";
  if (host.pitch() >= host.row_bytes()) {
    const std::size_t pitch = static_cast<std::size_t>(host.pitch()), count = static_cast<std::size_t>(rows);
    check(to_device
              ? cudaMemcpy2DAsync(device, bytes, host.at(first), pitch, bytes, count, cudaMemcpyHostToDevice, stream)
              : cudaMemcpy2DAsync(host.at(first), pitch, device, bytes, bytes, count, cudaMemcpyDeviceToHost, stream),
          what);
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {  // rows that run backwards, or share memory
    unsigned char* const there = device + r * host.row_bytes();
    check(to_device ? cudaMemcpyAsync(there, host.at(first + r), bytes, cudaMemcpyHostToDevice, stream)
                    : cudaMemcpyAsync(host.at(first + r), there, bytes, cudaMemcpyDeviceToHost, stream),
          what);
  }
}

// No copy may still be on its way to the caller's arrays when an exception leaves.
class Drain {
 public:
  explicit Drain(cudaStream_t stream) : stream_(stream) {}
  Drain(const Drain&) = delete;
  Drain& operator=(const Drain&) = delete;
  ~Drain() { cudaStreamSynchronize(stream_); }

 private:
  cudaStream_t stream_;
};

// One chunk after the other: in, kernels, out. Copies and kernels do not overlap yet.
void run_on_host(const FctCudaUpgrade& upgrade, FctCudaUpgradeCall& call) {
  const TransformLayout& layout = upgrade.layout;
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  const HostSide old{call.old_rows, layout.old_dim}, side{call.side, layout.side_dim}, out{call.out, layout.new_dim};
  const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  with_shrinking_memory(upgrade, call, [&](int64_t limit) {
    // A third of the memory is kept for the chunk's own rows, which are never wider than its activations.
    const UpgradePlan whole = plan_upgrade(layout, upgrade.facts, call.rows, limit / 3 * 2);
    const int64_t chunk = whole.chunk_rows;
    const int64_t side_at = aligned(chunk * old.row_bytes());
    const int64_t out_at = side_at + aligned(layout.side_dim > 0 ? chunk * side.row_bytes() : 0);
    const int64_t uncertainty_at = out_at + aligned(chunk * out.row_bytes());
    const int64_t status_at = uncertainty_at + aligned(chunk * 4);
    const StreamMemory scratch(whole.scratch_bytes, stream), rows(status_at + aligned(chunk), stream);
    if (scratch.status() != cudaSuccess) return scratch.status();
    if (rows.status() != cudaSuccess) return rows.status();
    const Drain drain(stream);
    unsigned char* const base = rows.data();
    StreamLauncher launcher(stream);
    for (int64_t first = 0; first < call.rows; first += chunk) {
      const int64_t count = std::min(chunk, call.rows - first);
      copy_rows(old, first, count, base, true, stream);
      if (layout.side_dim > 0) copy_rows(side, first, count, base + side_at, true, stream);
      FctCudaUpgradeCall part = call;
      part.rows = count;
      part.old_rows = {base, layout.old_dim, call.old_rows.dtype, 0};
      part.side = {base + side_at, layout.side_dim, call.side.dtype, 0};
      part.out = {base + out_at, layout.new_dim, call.out.dtype, 0};
      part.uncertainty = call.uncertainty != nullptr ? reinterpret_cast<float*>(base + uncertainty_at) : nullptr;
      part.status = base + status_at;
      UpgradePlan plan = whole;
      plan.rows = count;
      run_upgrade(plan, run_of(upgrade, part, scratch.data()), launcher);
      copy_rows(out, first, count, base + out_at, false, stream);
      const char* const what = "upgrade: copying results over the link";
      if (call.uncertainty != nullptr)
        check(cudaMemcpyAsync(call.uncertainty + first, base + uncertainty_at, static_cast<std::size_t>(count) * 4,
                              cudaMemcpyDeviceToHost, stream),
              what);
      check(cudaMemcpyAsync(call.status + first, base + status_at, static_cast<std::size_t>(count),
                            cudaMemcpyDeviceToHost, stream),
            what);
    }
    check(cudaStreamSynchronize(stream), shape_of(upgrade, call));
    call.chunk_rows = chunk;
    return cudaSuccess;
  });
}

}  // namespace
}  // namespace fct::cuda

using namespace fct::cuda;

int32_t fct_cuda_upgrade_create(const FctCudaTransform* transform, int32_t device, FctCudaUpgrade** upgrade,
                                FctCudaError* error) {
  return at_boundary(error, [=] {
    const fct::TransformSource source = source_of(*transform);
    auto made = std::make_unique<FctCudaUpgrade>();
    made->device = device;
    made->layout = layout_of(source, precision_of(*transform));
    std::vector<unsigned char> block(static_cast<std::size_t>(made->layout.bytes));
    pack_transform(source, made->layout, block.data());
    made->facts = facts_of(device);
    const DeviceScope scope(device);
    const std::string what =
        "copying " + std::to_string(block.size()) + " bytes of weights to CUDA device " + std::to_string(device);
    void* memory = nullptr;
    check(cudaMalloc(&memory, block.size()), what);
    made->weights = static_cast<unsigned char*>(memory);
    const cudaError_t copied = cudaMemcpy(memory, block.data(), block.size(), cudaMemcpyHostToDevice);
    if (copied != cudaSuccess) cudaFree(memory);
    check(copied, what);
    *upgrade = made.release();
  });
}

void fct_cuda_upgrade_destroy(FctCudaUpgrade* upgrade) {
  if (upgrade == nullptr) return;
  FctCudaError ignored;
  at_boundary(&ignored, [upgrade] {
    const DeviceScope scope(upgrade->device);
    cudaFree(upgrade->weights);
  });
  delete upgrade;
}

int32_t fct_cuda_upgrade_run(const FctCudaUpgrade* upgrade, FctCudaUpgradeCall* call, FctCudaError* error) {
  return at_boundary(error, [=] {
    check_call(*upgrade, *call);
    const DeviceScope scope(upgrade->device);
    check_context(shape_of(*upgrade, *call));
    if (call->rows == 0) return;
    check_memory(*upgrade, *call);
    run_on_device(*upgrade, *call);
  });
}

int32_t fct_cuda_upgrade_run_host(const FctCudaUpgrade* upgrade, FctCudaUpgradeCall* call, FctCudaError* error) {
  return at_boundary(error, [=] {
    check_call(*upgrade, *call);
    const DeviceScope scope(upgrade->device);
    check_context(shape_of(*upgrade, *call));
    if (call->rows > 0) run_on_host(*upgrade, *call);
  });
}

int32_t fct_cuda_upgrade_plan(const FctCudaUpgrade* upgrade, int64_t rows, int64_t scratch_limit, char* text,
                              int64_t size, FctCudaError* error) {
  return at_boundary(error, [=] {
    const std::string plan = plan_upgrade(upgrade->layout, upgrade->facts, rows, scratch_limit).text();
    std::snprintf(text, static_cast<std::size_t>(size), "%s", plan.c_str());
  });
}
