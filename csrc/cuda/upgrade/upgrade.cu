// The upgrade behind the C ABI: weights on a device, and calls.
#include "cuda/upgrade/upgrade.hpp"

#include <cstring>

namespace fct::cuda {
namespace {

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

void check_rows(const FctCudaRows& rows, const char* name, int64_t count, int64_t columns) {
  const int64_t element = size_of(dtype_of(rows.dtype, name));
  if (reinterpret_cast<std::uintptr_t>(rows.data) % static_cast<std::uintptr_t>(element) != 0)
    throw DtypeError(std::string(name) + " starts inside an element; its address must be a multiple of " +
                     std::to_string(element));
  if (count > 1 && std::abs(rows.row_stride) < columns && std::strcmp(name, "out") == 0)
    throw ShapeError("the rows of out lie on each other in memory");
}

}  // namespace

std::string shape_of(const FctCudaUpgrade& upgrade, const FctCudaUpgradeCall& call) {
  return "upgrade of " + std::to_string(call.rows) + " rows [" + std::to_string(upgrade.layout.old_dim) + " + " +
         std::to_string(upgrade.layout.side_dim) + " -> " + std::to_string(upgrade.layout.new_dim) +
         "] on CUDA device " + std::to_string(upgrade.device);
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
    cudaError_t copied = cudaMemcpy(memory, block.data(), block.size(), cudaMemcpyHostToDevice);
    // From pageable memory it may return before the bytes are there, and streams of calls do not wait for this one.
    if (copied == cudaSuccess) copied = cudaStreamSynchronize(nullptr);
    if (copied != cudaSuccess) cudaFree(memory);
    check(copied, what);
    *upgrade = made.release();
  });
}

void fct_cuda_upgrade_destroy(FctCudaUpgrade* upgrade) {
  std::unique_ptr<FctCudaUpgrade> owned(upgrade);
  if (upgrade == nullptr) return;
  FctCudaError ignored;
  at_boundary(&ignored, [&owned] {
    const DeviceScope scope(owned->device);
    cudaFree(owned->weights);
    owned.reset();
  });
}

int32_t fct_cuda_upgrade_run(const FctCudaUpgrade* upgrade, FctCudaUpgradeCall* call, FctCudaError* error) {
  return at_boundary(error, [=] {
    check_call(*upgrade, *call);
    const DeviceScope scope(upgrade->device);
    check_context(shape_of(*upgrade, *call));
    if (call->rows == 0) return;
    run_on_device(*upgrade, *call);
  });
}

int32_t fct_cuda_upgrade_run_host(FctCudaUpgrade* upgrade, FctCudaUpgradeCall* call, FctCudaError* error) {
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

int32_t fct_cuda_upgrade_family(const FctCudaUpgrade* upgrade, int64_t rows, char* text, int64_t size,
                                FctCudaError* error) {
  return at_boundary(error, [=] {
    constexpr int64_t kAnyLimit = int64_t{1} << 40;  // memory does not decide the kernels
    const UpgradePlan plan = plan_upgrade(upgrade->layout, upgrade->facts, rows, kAnyLimit, rows);
    std::snprintf(text, static_cast<std::size_t>(size), "%s", plan.family().c_str());
  });
}
