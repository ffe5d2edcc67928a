// The search on a CUDA stream: its kernels, and the C ABI.
#include "cuda/device_rows.hpp"
#include "cuda/launch_kernel.hpp"
#include "cuda/stream_memory.hpp"
#include "cuda/topk/abi.h"
#include "cuda/topk/search.hpp"
#include "cuda/topk/stream_pace.hpp"

namespace fct::cuda::topk {
namespace {

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    topk_kernel(const __grid_constant__ typename Kernel::Args args) {
  extern __shared__ __align__(1024) unsigned char shared[];
  Kernel::run(args, shared);
}

// A Device for search.hpp.
class StreamDevice {
 public:
  StreamDevice(cudaStream_t stream, std::function<bool()> stop, const std::string& what)
      : stream_(stream), pace_(stream, std::move(stop), what), what_(what) {}

  template <typename Kernel>
  void launch(int64_t blocks, int64_t shared_bytes, const typename Kernel::Args& args) {
    if (blocks > kMaxBlocks) throw ShapeError(what_ + ": too many blocks for a launch");
    cuda::launch(topk_kernel<Kernel>, blocks, Kernel::kThreads, static_cast<int>(shared_bytes), args, stream_,
                 what_.c_str());
  }
  void zero(void* target, int64_t bytes) {
    check(cudaMemsetAsync(target, 0, static_cast<std::size_t>(bytes), stream_), what_);
  }
  uint32_t read(const uint32_t* source) {
    uint32_t value = 0;
    pace_.drain();
    check(cudaMemcpyAsync(&value, source, sizeof(value), cudaMemcpyDeviceToHost, stream_), what_);
    check(cudaStreamSynchronize(stream_), what_);
    return value;
  }
  void pace() { pace_.step(); }

 private:
  static constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;

  cudaStream_t stream_;
  StreamPace pace_;
  const std::string& what_;
};

std::string name_of(const FctCudaTopkCall& call) {
  return "topk of " + std::to_string(call.query_rows) + " queries over " + std::to_string(call.gallery_rows) + " x " +
         std::to_string(call.cols) + " rows, k " + std::to_string(call.k) + ", on CUDA device " +
         std::to_string(call.device);
}

bool is_aligned(const MatrixView& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.row_stride * size_of(view.dtype) % 16 == 0;
}

void check_memory(const void* pointer, const char* name, int device) {
  if (pointer != nullptr) check_on_device(pointer, name, device);  // null: an array without elements
}

struct Job {
  Shape shape;
  Call call;
  DeviceFacts device;
};

Job job_of(const FctCudaTopkCall& call) {
  if (call.metric < FCT_CUDA_COSINE || call.metric > FCT_CUDA_L2) throw ShapeError("there is no such metric");
  if (call.coarse < FCT_CUDA_FLOAT_SCORES || call.coarse > FCT_CUDA_BYTE_SCORES)
    throw ShapeError("there are no such coarse scores");
  if (call.coarse == FCT_CUDA_BYTE_SCORES && call.metric == FCT_CUDA_L2)
    throw ShapeError("int8 scores are of inner products; l2 distances need 16-bit or float32 scores");
  Job job;
  job.call = {.queries = view_of(call.queries, call.query_rows, call.cols, "queries"),
              .gallery = view_of(call.gallery, call.gallery_rows, call.cols, "gallery rows"),
              .metric = static_cast<Metric>(call.metric),
              .k = call.k,
              .first_id = call.first_id,
              .seeded = call.seeded != 0,
              .scores = call.scores,
              .ids = call.ids};
  job.shape = {.queries = call.query_rows,
               .rows = call.gallery_rows,
               .cols = call.cols,
               .k = call.k,
               .query_dtype = job.call.queries.dtype,
               .gallery_dtype = job.call.gallery.dtype,
               .gallery_aligned = is_aligned(job.call.gallery),
               .coarse = call.coarse != FCT_CUDA_FLOAT_SCORES,
               .bytes = call.coarse == FCT_CUDA_BYTE_SCORES};
  job.device = facts_of(call.device);
  return job;
}

void run(FctCudaTopkCall& call) {
  Job job = job_of(call);
  if (call.k > call.gallery_rows + (job.call.seeded ? call.k : 0))
    throw ShapeError("k is " + std::to_string(call.k) + " and the gallery has " + std::to_string(call.gallery_rows) +
                     " rows");
  check_memory(call.queries.data, "queries", call.device);
  check_memory(call.gallery.data, "gallery", call.device);
  check_memory(call.scores, "scores", call.device);
  check_memory(call.ids, "ids", call.device);
  const DeviceScope scope(call.device);
  const auto stream = static_cast<cudaStream_t>(call.stream);
  const std::string what = name_of(call);
  check_context(what);
  int64_t limit = call.scratch_limit, before = 0;
  for (;;) {
    const Plan plan = make_plan(job.shape, job.device, limit);
    if (before != 0 && plan.scratch_bytes >= before)
      throw DeviceError(what + ": out of memory; it needs " + std::to_string(before) + " bytes at least");
    const StreamMemory memory(plan.scratch_bytes, stream);
    if (memory.status() == cudaErrorMemoryAllocation) {  // with half of it, as long as that makes a smaller plan
      cudaGetLastError();
      before = plan.scratch_bytes;
      limit = before / 2;
      continue;
    }
    check(memory.status(), what);
    job.call.scratch = memory.data();
    call.scratch_bytes = plan.scratch_bytes;
    std::function<bool()> stop;
    if (call.stop != nullptr) stop = [&call] { return call.stop(call.stop_context) != 0; };
    StreamDevice device(stream, std::move(stop), what);
    call.unproved = search(device, plan, job.call).unproved;
    return;
  }
}

}  // namespace
}  // namespace fct::cuda::topk

int32_t fct_cuda_topk(FctCudaTopkCall* call, FctCudaError* error) {
  return fct::cuda::at_boundary(error, [call] { fct::cuda::topk::run(*call); });
}

int32_t fct_cuda_topk_plan(const FctCudaTopkCall* call, char* text, int64_t size, FctCudaError* error) {
  return fct::cuda::at_boundary(error, [=] {
    const fct::cuda::topk::Job job = fct::cuda::topk::job_of(*call);
    const std::string words = make_plan(job.shape, job.device, call->scratch_limit).describe();
    std::snprintf(text, static_cast<std::size_t>(size), "%s", words.c_str());
  });
}
