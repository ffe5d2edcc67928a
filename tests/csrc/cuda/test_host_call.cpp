// The library's C ABI for the upgrade, whole but for its kernels, on a runtime without a GPU (fake_runtime): calls on
// host arrays and on the device, memory that runs short, Ctrl-C, faults of the device, and what is left behind
// afterwards.
#include <utility>

// In this order: the fake runtime stands before the toolkit's, which need not be there.
#include "fake_runtime/cuda_runtime.h"

#include "check.hpp"
#include "core/half.hpp"
#include "cuda/runtime.cu"
#include "cuda/topk/stream_pace.hpp"
#include "cuda/upgrade/device_call.cu"
#include "cuda/upgrade/host_call.cu"
#include "cuda/upgrade/host_stream.cu"
#include "cuda/upgrade/upgrade.cu"

namespace fct::cuda {
namespace {

float read(const void* rows, int64_t at, Dtype dtype) {
  if (dtype == Dtype::f32) return static_cast<const float*>(rows)[at];
  const uint16_t bits = static_cast<const uint16_t*>(rows)[at];
  return dtype == Dtype::f16 ? float_from_half(bits) : float_from_bfloat(bits);
}

void write(void* rows, int64_t at, Dtype dtype, float x) {
  if (dtype == Dtype::f32) {
    static_cast<float*>(rows)[at] = x;
  } else {
    static_cast<uint16_t*>(rows)[at] = dtype == Dtype::f16 ? half_from_float(x) : bfloat_from_float(x);
  }
}

int launches = 0;

}  // namespace

// The kernels, plainly: queued on the fake stream.
void StreamLauncher::clear(unsigned char* status, int64_t rows) {
  fake::runtime().queue(stream_, [=] { std::memset(status, 0, static_cast<std::size_t>(rows)); });
}

void StreamLauncher::load(const LoadArgs& args, Dtype precision) {
  ++launches;
  fake::runtime().queue(stream_, [=] {
    for (int64_t r = 0; r < args.rows; ++r) {
      for (int64_t c = 0; c < args.target_stride; ++c) {
        if (c >= args.columns && c % 8 != 0 && c >= (args.columns + 7) / 8 * 8) break;
        const Dtype source = static_cast<Dtype>(args.source_dtype);
        const float x = c < args.columns ? read(args.source, r * args.source_stride + c, source) : 0.0f;
        if (!std::isfinite(x)) args.status[r] = kRowNonfiniteInput;
        if (c < args.columns) write(args.target, r * args.target_stride + c, precision, x);
      }
    }
  });
}

void StreamLauncher::layer(const LayerArgs& args, Dtype precision, TileName, bool last) {
  fake::runtime().queue(stream_, [=] {
    const Dtype out = last ? Dtype::f32 : precision;
    for (int64_t r = 0; r < args.rows; ++r) {
      for (int64_t o = 0; o < args.columns; ++o) {
        double sum = args.bias[o];
        for (int64_t k = 0; k < args.depth; ++k) {
          const float w = read(args.weight, o * args.depth + k, precision);
          if (w != 0.0f) sum += static_cast<double>(w) * read(args.x, r * args.x_stride + k, precision);
        }
        write(args.y, r * args.y_stride + o, out, args.relu && sum < 0 ? 0.0f : static_cast<float>(sum));
      }
    }
  });
}

// Every row by itself, in memory laid out as the kernel's.
void StreamLauncher::fused(const FusedArgs& args, Dtype precision, const FusedPlan&, int64_t) {
  ++launches;
  fake::runtime().queue(stream_, [=] {
    std::vector<unsigned char> row(static_cast<std::size_t>(args.row_bytes));
    for (int64_t r = 0; r < args.finish.rows; ++r) {
      std::fill(row.begin(), row.end(), 0);
      args.finish.status[r] = kRowOk;
      for (int s = 0; s < args.step_count; ++s) {
        const FusedStep& step = args.steps[s];
        if (step.kind != FusedStep::Kind::layer) {
          const FusedInput& input = step.kind == FusedStep::Kind::load_old ? args.old : args.side;
          for (int64_t c = 0; c < input.columns; ++c) {
            const float x = read(input.data, r * input.stride + c, static_cast<Dtype>(input.dtype));
            if (!std::isfinite(x)) args.finish.status[r] = kRowNonfiniteInput;
            write(row.data() + step.y_at, c, precision, x);
          }
          continue;
        }
        std::vector<float> y(static_cast<std::size_t>(step.columns));
        for (int64_t o = 0; o < step.columns; ++o) {
          double sum = read(args.weights + step.bias_at, o, Dtype::f32);
          for (int64_t k = 0; k < step.depth; ++k) {
            const double w = read(args.weights + step.weight_at, o * step.depth + k, precision);
            if (w != 0.0) sum += w * read(row.data() + step.x_at, k, precision);
          }
          y[static_cast<std::size_t>(o)] = step.relu && sum < 0 ? 0.0f : static_cast<float>(sum);
        }
        for (int64_t o = 0; o < step.columns; ++o)
          write(row.data() + step.y_at, o, step.last ? Dtype::f32 : precision, y[static_cast<std::size_t>(o)]);
      }
      for (int64_t c = 0; c < args.finish.columns; ++c) {
        const float x = args.finish.status[r] == kRowOk ? read(row.data(), c, Dtype::f32) : 0.0f;
        write(args.finish.out, r * args.finish.out_stride + c, static_cast<Dtype>(args.finish.out_dtype), x);
      }
    }
  });
}

void StreamLauncher::finish(const FinishArgs& args) {
  fake::runtime().queue(stream_, [=] {
    for (int64_t r = 0; r < args.rows; ++r) {
      for (int64_t c = 0; c < args.columns; ++c) {
        const float x = args.status[r] == kRowOk ? args.x[r * args.x_stride + c] : 0.0f;
        write(args.out, r * args.out_stride + c, static_cast<Dtype>(args.out_dtype), x);
      }
    }
  });
}

namespace {

constexpr std::size_t kNoLimit = std::size_t{1} << 40;
constexpr int64_t kOld = 6, kSide = 3, kNew = 5, kRows = 5000;

// A plain linear map of (old, side), so that every answer is a short sum.
struct Setting {
  explicit Setting(Dtype precision = Dtype::f32) {
    fct::testing::fill_normal(weight, kNew * (kOld + kSide), 3);
    fct::testing::fill_normal(old, kRows * kOld, 1);
    fct::testing::fill_normal(side, kRows * kSide, 2);
    for (float& w : weight) w = rounded(w, precision);
    const FctCudaLayer layer{weight, bias, kOld + kSide, kNew, 0, 0, nullptr, nullptr};
    const int32_t reads_side[] = {0, 1}, layers[] = {0, 0};
    const FctCudaTransform transform{kOld, kSide,      kNew,   0, 0,     static_cast<int32_t>(precision),
                                     2,    reads_side, layers, 1, &layer};
    CHECK(fct_cuda_upgrade_create(&transform, 0, &upgrade, &error) == FCT_CUDA_OK);
    call.old_rows = {old, kOld, 0, 0};
    call.side = {side, kSide, 0, 0};
    call.out = {out, kNew, 0, 0};
    call.status = status;
    call.rows = kRows;
    call.scratch_limit = 400 << 10;
    call.threads = 1;
    clear();
  }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;
  ~Setting() {
    fct_cuda_upgrade_destroy(upgrade);
    fake::Runtime& runtime = fake::runtime();
    runtime.drain(runtime.standard);
    CHECK(runtime.memory.empty() && runtime.streams.empty() && runtime.events.empty());
  }
  static float rounded(float x, Dtype dtype) {
    float held;
    write(&held, 0, dtype, x);
    return read(&held, 0, dtype);
  }
  void clear() {
    std::memset(out, 0xff, sizeof(out));
    std::memset(status, 0xee, sizeof(status));
    call.chunk_rows = call.planned_chunk_rows = 0;
  }
  int32_t run_host() { return fct_cuda_upgrade_run_host(upgrade, &call, &error); }
  void check_rows(Dtype precision) const {
    for (int64_t r = 0; r < kRows; ++r) {
      CHECK(status[r] == kRowOk);
      for (int64_t o = 0; o < kNew; ++o) {
        double sum = 0;
        const float* const w = weight + o * (kOld + kSide);
        for (int64_t k = 0; k < kOld; ++k) sum += static_cast<double>(w[k]) * rounded(old[r * kOld + k], precision);
        for (int64_t k = 0; k < kSide; ++k)
          sum += static_cast<double>(w[kOld + k]) * rounded(side[r * kSide + k], precision);
        CHECK(std::fabs(out[r * kNew + o] - sum) < 1e-5);
      }
    }
  }

  float weight[kNew * (kOld + kSide)], bias[kNew] = {};
  float old[kRows * kOld], side[kRows * kSide], out[kRows * kNew];
  unsigned char status[kRows];
  FctCudaUpgrade* upgrade = nullptr;
  FctCudaUpgradeCall call{};
  FctCudaError error{};
};

void check_host_calls() {
  for (Dtype precision : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    const auto setting = std::make_unique<Setting>(precision);
    fake::Runtime& runtime = fake::runtime();
    runtime.most_device_bytes = runtime.pageable_copies = 0;
    for (uint32_t seed = 1; seed <= 10; ++seed) {  // from the second call on, in a workspace that was used before
      runtime.generator.seed(seed);
      setting->clear();
      CHECK(setting->run_host() == FCT_CUDA_OK);
      setting->check_rows(precision);
    }
    CHECK(setting->call.chunk_rows > 0 && setting->call.chunk_rows < kRows / 2);  // slots are used again
    CHECK(setting->call.chunk_rows == setting->call.planned_chunk_rows);
    CHECK(runtime.pageable_copies == 0);  // the link sees pinned memory alone
    CHECK(runtime.most_device_bytes <= static_cast<std::size_t>(setting->call.scratch_limit) + 4096);
    CHECK(runtime.streams.size() == kLanes && runtime.events.size() == kLanes * kHostSlots);  // kept for the next call
  }
}

void check_device_calls() {
  const auto setting = std::make_unique<Setting>();
  const auto there = [](const void* rows, std::size_t bytes) {
    void* memory = nullptr;
    CHECK(cudaMalloc(&memory, bytes) == cudaSuccess);
    std::memcpy(memory, rows, bytes);
    return memory;
  };
  FctCudaUpgradeCall call = setting->call;
  call.old_rows.data = there(setting->old, sizeof(setting->old));
  call.side.data = there(setting->side, sizeof(setting->side));
  call.out.data = there(setting->out, sizeof(setting->out));
  call.status = static_cast<unsigned char*>(there(setting->status, sizeof(setting->status)));
  cudaStream_t stream;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  call.stream = stream;
  CHECK(fct_cuda_upgrade_run(setting->upgrade, &call, &setting->error) == FCT_CUDA_OK);
  cudaStreamSynchronize(stream);
  std::memcpy(setting->out, call.out.data, sizeof(setting->out));
  std::memcpy(setting->status, call.status, sizeof(setting->status));
  setting->check_rows(Dtype::f32);
  // Arrays on the wrong side, both ways.
  FctCudaUpgradeCall mixed = call;
  mixed.side = setting->call.side;
  CHECK(fct_cuda_upgrade_run(setting->upgrade, &mixed, &setting->error) == FCT_CUDA_DEVICE);
  CHECK(std::strcmp(setting->error.message, "side is not in the memory of CUDA device 0 but of the host") == 0);
  CHECK(fct_cuda_upgrade_run_host(setting->upgrade, &mixed, &setting->error) == FCT_CUDA_DEVICE);
  CHECK(std::strstr(setting->error.message, "old is in the memory of CUDA device 0, but this call is on host arrays"));
  for (void* memory : {call.old_rows.data, call.side.data, call.out.data, static_cast<void*>(call.status)})
    cudaFree(memory);
  cudaStreamDestroy(stream);
}

// Pinned rows of the caller are read and written where they lie.
void check_pinned() {
  const auto setting = std::make_unique<Setting>();
  fake::runtime().host_sides.clear();
  void *old = nullptr, *out = nullptr;
  cudaHostAlloc(&old, sizeof(setting->old), 0);
  cudaHostAlloc(&out, sizeof(setting->out), 0);
  std::memcpy(old, setting->old, sizeof(setting->old));
  setting->call.old_rows.data = old;
  setting->call.out.data = out;
  CHECK(setting->run_host() == FCT_CUDA_OK);
  std::memcpy(setting->out, out, sizeof(setting->out));
  setting->check_rows(Dtype::f32);
  int64_t in_place = 0;
  for (const void* side : fake::runtime().host_sides) {
    for (const auto& [first, bytes] : {std::pair{old, sizeof(setting->old)}, {out, sizeof(setting->out)}})
      in_place += side >= first && side < static_cast<const char*>(first) + bytes;
  }
  const int64_t chunks = (kRows + setting->call.chunk_rows - 1) / setting->call.chunk_rows;
  CHECK(in_place == 2 * chunks);  // old in and out out; side and status are staged
  cudaFreeHost(old);
  cudaFreeHost(out);
}

void check_short_memory() {
  fake::Runtime& runtime = fake::runtime();
  const auto setting = std::make_unique<Setting>();
  setting->call.scratch_limit = int64_t{64} << 20;
  CHECK(setting->run_host() == FCT_CUDA_OK);
  CHECK(setting->call.chunk_rows == kRows && setting->call.planned_chunk_rows == kRows);
  setting->clear();
  runtime.drain(runtime.standard);
  runtime.device_limit = runtime.device_bytes + (600 << 10);
  CHECK(setting->run_host() == FCT_CUDA_OK);
  setting->check_rows(Dtype::f32);
  CHECK(setting->call.planned_chunk_rows == kRows && setting->call.chunk_rows < kRows);
  runtime.device_limit = kNoLimit;
}

void check_no_memory() {
  fake::Runtime& runtime = fake::runtime();
  for (std::size_t* limit : {&runtime.device_limit, &runtime.pinned_limit}) {
    const auto setting = std::make_unique<Setting>();
    *limit = runtime.device_bytes + 1000;
    CHECK(setting->run_host() == FCT_CUDA_DEVICE);
    CHECK(setting->error.cuda_error == cudaErrorMemoryAllocation);
    CHECK(std::strcmp(setting->error.message, "upgrade of 5000 rows [6 + 3 -> 5] on CUDA device 0: out of memory") ==
          0);
    *limit = kNoLimit;
    CHECK(setting->run_host() == FCT_CUDA_OK);  // and the next call works
    setting->check_rows(Dtype::f32);
  }
}

// Ctrl-C: the call ends, nothing is on its way to the caller's arrays any more, and the next call works.
void check_stop() {
  for (int after : {0, 1, 3, 7}) {
    const auto setting = std::make_unique<Setting>();
    int left = after;
    setting->call.stop = [](void* context) -> int32_t { return (*static_cast<int*>(context))-- <= 0; };
    setting->call.stop_context = &left;
    CHECK(setting->run_host() == FCT_CUDA_STOPPED);
    for (fake::Stream* stream : fake::runtime().streams) CHECK(stream->work.empty());
    setting->call.stop = nullptr;
    setting->clear();
    CHECK(setting->run_host() == FCT_CUDA_OK);
    setting->check_rows(Dtype::f32);
  }
}

// A device that hangs is waited for, but not for longer than the caller wants.
void check_stop_while_waiting() {
  const auto setting = std::make_unique<Setting>();
  fake::runtime().stuck = true;
  int asked = 0;
  setting->call.stop = [](void* context) -> int32_t {
    if (++*static_cast<int*>(context) < 200) return 0;
    fake::runtime().stuck = false;
    return 1;
  };
  setting->call.stop_context = &asked;
  CHECK(setting->run_host() == FCT_CUDA_STOPPED);
  CHECK(asked == 200);
}

void check_faults() {
  const auto setting = std::make_unique<Setting>();
  fake::runtime().fault = cudaErrorIllegalAddress;
  CHECK(setting->run_host() == FCT_CUDA_DEVICE);
  CHECK(std::strcmp(
            setting->error.message,
            "upgrade of 5000 rows [6 + 3 -> 5] on CUDA device 0: a fault; this process can no longer use CUDA, so "
            "restart it (the CPU kernels still work: device='cpu')") == 0);
  fake::runtime().fault = cudaSuccess;
  fake::runtime().last = cudaErrorLaunchFailure;  // of somebody else's work
  CHECK(setting->run_host() == FCT_CUDA_DEVICE);
  CHECK(std::strstr(setting->error.message, "an earlier fault came before the upgrade of 5000 rows"));
  setting->call.rows = -1;
  CHECK(setting->run_host() == FCT_CUDA_SHAPE);
  setting->call.rows = 0;
  CHECK(setting->run_host() == FCT_CUDA_OK);
}

// A search's host: a few pieces ahead of the device and no more, and away as soon as the caller wants to stop.
void check_search_pace() {
  const std::string what = "a search";
  cudaStream_t stream = nullptr;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  const std::size_t events = fake::runtime().events.size();
  cudaGetLastError();  // of the tests before
  int done = 0, asked = 0, limit = 1 << 30;
  const auto stop = [&] { return ++asked > limit; };
  {
    topk::StreamPace pace(stream, stop, what);
    for (int piece = 0; piece < 50; ++piece) {
      pace.step();
      CHECK(piece - done <= 4);
      CHECK(fake::runtime().last == cudaSuccess);
      fake::runtime().queue(stream, [&done] { ++done; });
    }
    pace.drain();
    CHECK(done == 50);
    fake::runtime().stuck = true;
    limit = asked + 100;
    int steps = 0;
    bool stopped = false;
    try {
      for (; steps < 50; ++steps) {
        pace.step();
        fake::runtime().queue(stream, [] {});
      }
    } catch (const Interrupted&) {
      stopped = true;
    }
    fake::runtime().stuck = false;
    CHECK(stopped && steps == 5 && asked == limit + 1);
  }
  CHECK(fake::runtime().events.size() == events);
  topk::StreamPace idle(stream, {}, what);  // nobody to ask: never waits
  fake::runtime().stuck = true;
  for (int piece = 0; piece < 50; ++piece) idle.step();
  idle.drain();
  fake::runtime().stuck = false;
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

void check_family() {
  const auto setting = std::make_unique<Setting>(Dtype::f16);
  char text[64];
  for (int64_t rows : {1, 100000}) {
    CHECK(fct_cuda_upgrade_family(setting->upgrade, rows, text, sizeof(text), &setting->error) == FCT_CUDA_OK);
    const UpgradePlan plan = plan_upgrade(setting->upgrade->layout, setting->upgrade->facts, rows, 1 << 30, rows);
    CHECK(plan.family() == text);
  }
}

}  // namespace
}  // namespace fct::cuda

int main() {
  fct::cuda::check_host_calls();
  fct::cuda::check_device_calls();
  fct::cuda::check_pinned();
  fct::cuda::check_short_memory();
  fct::cuda::check_no_memory();
  fct::cuda::check_stop();
  fct::cuda::check_stop_while_waiting();
  fct::cuda::check_search_pace();
  fct::cuda::check_faults();
  fct::cuda::check_family();
  return 0;
}
