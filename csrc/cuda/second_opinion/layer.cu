// CUTLASS 4.2's persistent, warp-specialised kernel (TMA, wgmma) at a tile of 128 x 256 x 64, as its builder makes it.
#include "cuda/second_opinion/layer.h"

#include <cutlass/cutlass.h>
#include <cutlass/epilogue/thread/activation.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include <limits>
#include <string>

#include "cuda/runtime.hpp"

namespace fct::cuda::second_opinion {
namespace {

constexpr int64_t kAligned = 8;  // elements of 16 bytes, which TMA asks for

template <typename Element>
struct Layer {
  using Arch = cutlass::arch::Sm90;
  using Tensor = cutlass::arch::OpClassTensorOp;
  using Row = cutlass::layout::RowMajor;
  using Column = cutlass::layout::ColumnMajor;
  using Tile = cute::Shape<cute::_128, cute::_256, cute::_64>;
  using Cluster = cute::Shape<cute::_2, cute::_1, cute::_1>;
  // max(x, lower bound): ReLU with 0, nothing with -Inf, so that one kernel serves both.
  using Fusion =
      cutlass::epilogue::fusion::LinCombPerColBiasEltAct<cutlass::epilogue::thread::LowerBound, Element, float, float>;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      Arch, Tensor, Tile, Cluster, cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, Row, kAligned,
      Element, Row, kAligned, cutlass::epilogue::TmaWarpSpecializedCooperative, Fusion>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      Arch, Tensor, Element, Row, kAligned, Element, Column, kAligned, float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
      cutlass::gemm::KernelTmaWarpSpecializedCooperative>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
};

void check(cutlass::Status status, const std::string& what) {
  if (status != cutlass::Status::kSuccess) throw DeviceError(what + ": CUTLASS says " + cutlassGetStatusString(status));
}

template <typename Element>
void run(const FctSecondLayer& layer, const std::string& what) {
  using Gemm = typename Layer<Element>::Gemm;
  const auto stream = static_cast<cudaStream_t>(layer.stream);
  typename Gemm::Arguments args{};
  args.mode = cutlass::gemm::GemmUniversalMode::kGemm;
  args.problem_shape = {static_cast<int>(layer.rows), layer.out_dim, layer.in_dim, 1};
  args.mainloop.ptr_A = static_cast<const Element*>(layer.x);
  args.mainloop.dA = {layer.x_stride, cute::_1{}, 0};
  args.mainloop.ptr_B = static_cast<const Element*>(layer.weight);
  args.mainloop.dB = {layer.in_dim, cute::_1{}, 0};
  args.epilogue.ptr_D = static_cast<Element*>(layer.y);
  args.epilogue.dD = {layer.y_stride, cute::_1{}, 0};
  args.epilogue.thread.alpha = 1.0f;
  args.epilogue.thread.beta = 0.0f;
  args.epilogue.thread.bias_ptr = static_cast<const float*>(layer.bias);
  args.epilogue.thread.activation = {layer.relu ? 0.0f : -std::numeric_limits<float>::infinity()};
  args.hw_info.device_id = layer.device;
  args.hw_info.sm_count = cutlass::KernelHardwareInfo::query_device_multiprocessor_count(layer.device);
  Gemm gemm;
  check(Gemm::can_implement(args), what);
  if (Gemm::get_workspace_size(args) != 0) throw DeviceError(what + ": CUTLASS asks for memory, which this has not");
  check(gemm.initialize(args, nullptr, stream), what);
  check(gemm.run(stream), what);
}

void run(const FctSecondLayer& layer) {
  const std::string what = "CUTLASS layer of " + std::to_string(layer.rows) + " rows [" + std::to_string(layer.in_dim) +
                           " -> " + std::to_string(layer.out_dim) + "]";
  if (layer.rows < 1 || layer.rows > std::numeric_limits<int>::max()) throw ShapeError(what + ": too few or many rows");
  for (int64_t count : {int64_t{layer.in_dim}, int64_t{layer.out_dim}, layer.x_stride, layer.y_stride}) {
    if (count < kAligned || count % kAligned != 0)
      throw ShapeError(what + ": dims and strides must be multiples of 8 elements");
  }
  if (layer.dtype == 1) return run<cutlass::half_t>(layer, what);
  if (layer.dtype == 2) return run<cutlass::bfloat16_t>(layer, what);
  throw DtypeError(what + ": only float16 and bfloat16");
}

}  // namespace
}  // namespace fct::cuda::second_opinion

int32_t fct_second_opinion_layer(const FctSecondLayer* layer, FctCudaError* error) {
  return fct::cuda::at_boundary(error, [layer] { fct::cuda::second_opinion::run(*layer); });
}
