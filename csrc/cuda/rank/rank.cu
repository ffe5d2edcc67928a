// Full-ranking evaluation on a CUDA stream: its kernels, and the C ABI.
#include "cuda/device_rows.hpp"
#include "cuda/launch_kernel.hpp"
#include "cuda/rank/abi.h"
#include "cuda/rank/run.hpp"
#include "cuda/stream_memory.hpp"

namespace fct::cuda::rank {
namespace {

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks) rank_kernel(const typename Kernel::Args args) {
  extern __shared__ __align__(16) unsigned char shared[];
  Kernel::run(args, shared);
}

// A Device for run.hpp.
class StreamDevice {
 public:
  StreamDevice(const FctCudaRankCall& call, const std::string& what)
      : call_(call), stream_(static_cast<cudaStream_t>(call.stream)), what_(what) {}

  template <typename Kernel>
  void launch(int64_t blocks, int64_t shared_bytes, const typename Kernel::Args& args) {
    if (blocks > kMaxBlocks) throw ShapeError(what_ + ": too many blocks for a launch");
    cuda::launch(rank_kernel<Kernel>, blocks, Kernel::kThreads, static_cast<int>(shared_bytes), args, stream_,
                 what_.c_str());
  }
  void zero(void* target, int64_t bytes) {
    check(cudaMemsetAsync(target, 0, static_cast<std::size_t>(bytes), stream_), what_);
  }
  void upload(void* target, const void* source, int64_t bytes) {
    check(cudaMemcpyAsync(target, source, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, stream_), what_);
    pause();  // a source in pinned memory may be read late
  }
  void download(void* target, const void* source, int64_t bytes) {
    check(cudaMemcpyAsync(target, source, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost, stream_), what_);
    pause();
  }
  void pause() {
    check(cudaStreamSynchronize(stream_), what_);
    if (call_.stop != nullptr && call_.stop(call_.stop_context) != 0) throw Interrupted();
  }

 private:
  static constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;

  const FctCudaRankCall& call_;
  cudaStream_t stream_;
  const std::string& what_;
};

void run(FctCudaRankCall& call) {
  if (call.metric < FCT_CUDA_COSINE || call.metric > FCT_CUDA_L2) throw ShapeError("there is no such metric");
  const std::string what = "ranking of " + std::to_string(call.gallery_rows) + " x " + std::to_string(call.cols) +
                           " rows for " + std::to_string(call.query_rows) + " queries on CUDA device " +
                           std::to_string(call.device);
  const DeviceFacts facts = facts_of(call.device);
  const DeviceScope scope(call.device);
  check_context(what);
  Call job{
      .queries = view_of(call.queries, call.query_rows, call.cols, "queries"),
      .gallery = view_of(call.gallery, call.gallery_rows, call.cols, "gallery rows"),
      .metric = static_cast<Metric>(call.metric),
      .positives = {.query_classes = call.query_classes,
                    .class_starts = call.class_starts,
                    .class_rows = call.class_rows,
                    .exclude_self = call.exclude_self != 0},
      .result = {
          .first_rank = call.first_rank, .average_precision = call.average_precision, .positives = call.positives}};
  if (job.queries.data != nullptr) check_on_device(job.queries.data, "queries", call.device);
  if (job.gallery.data != nullptr) check_on_device(job.gallery.data, "gallery", call.device);
  const Shape shape{.queries = call.query_rows,
                    .rows = call.gallery_rows,
                    .cols = call.cols,
                    .metric = job.metric,
                    .gallery_dtype = job.gallery.dtype};
  int64_t limit = call.scratch_limit;
  for (;;) {
    const Plan plan = make_plan(shape, job.positives, facts, limit);
    const StreamMemory memory(plan.scratch_bytes, static_cast<cudaStream_t>(call.stream));
    if (memory.status() == cudaErrorMemoryAllocation && plan.scratch_bytes > limit) {
      cudaGetLastError();
      throw DeviceError(what + ": out of memory; it needs " + std::to_string(plan.scratch_bytes) + " bytes at least");
    }
    if (memory.status() == cudaErrorMemoryAllocation) {  // again with half of it
      cudaGetLastError();
      limit = plan.scratch_bytes / 2;
      continue;
    }
    check(memory.status(), what);
    job.scratch = memory.data();
    call.scratch_bytes = plan.scratch_bytes;
    StreamDevice device(call, what);
    rank(device, plan, job);
    return;
  }
}

}  // namespace
}  // namespace fct::cuda::rank

int32_t fct_cuda_rank(FctCudaRankCall* call, FctCudaError* error) {
  return fct::cuda::at_boundary(error, [call] { fct::cuda::rank::run(*call); });
}
