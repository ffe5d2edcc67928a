#include "cuda/upgrade/launch.hpp"

#include "cuda/launch_kernel.hpp"
#include "cuda/upgrade/finish_rows.hpp"
#include "cuda/upgrade/layer_ffma.hpp"
#include "cuda/upgrade/layer_mma.hpp"
#include "cuda/upgrade/layer_ordered.hpp"
#include "cuda/upgrade/load_rows.hpp"
#include "cuda/upgrade/wgmma_tile.hpp"

namespace fct::cuda {
namespace {

template <typename Element>
__global__ void __launch_bounds__(kLoadThreads) upgrade_load(const __grid_constant__ LoadArgs args) {
  load_rows<Element>(args);
}

template <typename Element, typename Output, typename T>
__global__ void __launch_bounds__(T::kThreads) upgrade_layer_mma(const __grid_constant__ LayerArgs args) {
  extern __shared__ __align__(1024) unsigned char shared[];
  layer_mma<Element, Output, T>(args, shared);
}

template <typename T>
__global__ void __launch_bounds__(T::kThreads) upgrade_layer_ffma(const __grid_constant__ LayerArgs args) {
  extern __shared__ __align__(1024) unsigned char shared[];
  layer_ffma<T>(args, shared);
}

template <typename Output, typename T>
__global__ void __launch_bounds__(T::kThreads) upgrade_layer_imma(const __grid_constant__ LayerArgs args) {
  extern __shared__ __align__(1024) unsigned char shared[];
  layer_mma<uint8_t, Output, T>(args, shared);
}

template <typename Output, typename T>
__global__ void __launch_bounds__(T::kThreads) upgrade_layer_ordered(const __grid_constant__ LayerArgs args) {
  extern __shared__ __align__(1024) unsigned char shared[];
  layer_ordered<Output, T>(args, shared);
}

__global__ void __launch_bounds__(kFinishThreads, kFinishBlocks)
    upgrade_finish(const __grid_constant__ FinishArgs args) {
  finish_rows(args);
}

template <typename T>
int64_t blocks(const LayerArgs& args) {
  return (args.rows + T::kRows - 1) / T::kRows * ((args.columns + T::kColumns - 1) / T::kColumns) * args.splits;
}

template <typename Element, typename Output, typename T>
void launch_mma(const LayerArgs& args, cudaStream_t stream) {
  launch(upgrade_layer_mma<Element, Output, T>, blocks<T>(args), T::kThreads, T::template kSharedBytes<Output>, args,
         stream, "upgrade: a layer on tensor cores");
}

template <typename T>
void launch_ffma(const LayerArgs& args, cudaStream_t stream) {
  launch(upgrade_layer_ffma<T>, blocks<T>(args), T::kThreads, T::template kSharedBytes<float>, args, stream,
         "upgrade: a layer in float32");
}

template <typename Element, typename Output>
void launch_mma(const LayerArgs& args, TileName tile, cudaStream_t stream) {
  switch (tile) {
    case TileName::wide:
      return launch_mma<Element, Output, WideTile>(args, stream);
    case TileName::square:
      return launch_mma<Element, Output, SquareTile>(args, stream);
    case TileName::narrow:
      return launch_mma<Element, Output, NarrowTile>(args, stream);
    case TileName::small:
      return launch_mma<Element, Output, SmallTile>(args, stream);
    default:
      throw ShapeError("mma.sync has no such tile");
  }
}

void launch_ffma(const LayerArgs& args, TileName tile, cudaStream_t stream) {
  switch (tile) {
    case TileName::square:
      return launch_ffma<Fp32SquareTile>(args, stream);
    case TileName::narrow:
      return launch_ffma<Fp32NarrowTile>(args, stream);
    case TileName::small:
      return launch_ffma<Fp32SmallTile>(args, stream);
    default:
      throw ShapeError("float32 has no such tile");
  }
}

template <typename Output, typename T>
void launch_imma(const LayerArgs& args, cudaStream_t stream) {
  launch(upgrade_layer_imma<Output, T>, blocks<T>(args), T::kThreads, T::template kSharedBytes<Output>, args, stream,
         "upgrade: a layer of bytes on tensor cores");
}

template <typename Output, typename T>
void launch_ordered(const LayerArgs& args, cudaStream_t stream) {
  launch(upgrade_layer_ordered<Output, T>, blocks<T>(args), T::kThreads, T::template kSharedBytes<Output>, args, stream,
         "upgrade: a layer in float32 before bytes");
}

// A layer of int8.
template <typename Output>
void launch_int8(const LayerArgs& args, TileName tile, cudaStream_t stream) {
  const bool bytes = args.scale != nullptr;
  switch (tile) {
    case TileName::wide:
      if (!bytes) throw ShapeError("float32 has no wide tile");
      return launch_imma<Output, WideTile>(args, stream);
    case TileName::square:
      return bytes ? launch_imma<Output, SquareTile>(args, stream)
                   : launch_ordered<Output, Fp32SquareTile>(args, stream);
    case TileName::narrow:
      return bytes ? launch_imma<Output, NarrowTile>(args, stream)
                   : launch_ordered<Output, Fp32NarrowTile>(args, stream);
    case TileName::small:
      return bytes ? launch_imma<Output, SmallTile>(args, stream) : launch_ordered<Output, Fp32SmallTile>(args, stream);
    default:
      throw ShapeError("int8 has no such tile");
  }
}

}  // namespace

void StreamLauncher::clear(unsigned char* status, int64_t rows) {
  check(cudaMemsetAsync(status, kRowOk, static_cast<std::size_t>(rows), stream_), "upgrade: clearing the status");
}

void StreamLauncher::load(const LoadArgs& args, Dtype precision) {
  const int64_t count = load_blocks(args, static_cast<int>(size_of(precision)));
  const auto kernel = precision == Dtype::f32   ? upgrade_load<float>
                      : precision == Dtype::f16 ? upgrade_load<Half>
                                                : upgrade_load<Bfloat>;
  launch(kernel, count, kLoadThreads, 0, args, stream_, "upgrade: reading the rows");
}

void StreamLauncher::layer(const LayerArgs& args, Dtype precision, TileName tile, bool last) {
  if (is_wgmma(tile)) return launch_wgmma(args, precision, tile, last, stream_);
  if (args.scale != nullptr || args.cuts != nullptr) {
    return args.narrow != 0 ? launch_int8<uint8_t>(args, tile, stream_) : launch_int8<float>(args, tile, stream_);
  }
  if (precision == Dtype::f32) return launch_ffma(args, tile, stream_);
  if (precision == Dtype::f16) {
    return last ? launch_mma<Half, float>(args, tile, stream_) : launch_mma<Half, Half>(args, tile, stream_);
  }
  return last ? launch_mma<Bfloat, float>(args, tile, stream_) : launch_mma<Bfloat, Bfloat>(args, tile, stream_);
}

void StreamLauncher::finish(const FinishArgs& args) {
  launch(upgrade_finish, (args.rows + kFinishRows - 1) / kFinishRows, kFinishThreads, 0, args, stream_,
         "upgrade: norms");
}

}  // namespace fct::cuda
