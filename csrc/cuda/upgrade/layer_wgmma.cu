#include "cuda/upgrade/layer_wgmma.hpp"

#include <algorithm>

#include "cuda/launch_kernel.hpp"
#include "cuda/upgrade/launch.hpp"

namespace fct::cuda {
namespace {

template <typename Element, typename Output, typename T>
__global__ void __launch_bounds__(T::kThreads, 1) upgrade_layer_wgmma(const __grid_constant__ WgmmaArgs args) {
#if FCT_HOPPER
  extern __shared__ __align__(1024) unsigned char shared[];
  layer_wgmma<Element, Output, T>(args, shared);
#endif
}

template <typename Element, typename Output, typename T>
void launch_tile(const LayerArgs& args, cudaStream_t stream) {
  constexpr const char* kWhat = "upgrade: a layer on Hopper's tensor cores";
  int device = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), kWhat);
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), kWhat);
  const int64_t tiles = (args.rows + T::kRows - 1) / T::kRows * ((args.columns + T::kColumns - 1) / T::kColumns);
  launch_overlapping(upgrade_layer_wgmma<Element, Output, T>, std::min<int64_t>(tiles, multiprocessors), T::kThreads,
                     T::kSharedBytes, wgmma_args<Element, Output, T>(args), stream, kWhat);
}

template <typename Element, typename Output>
void launch_output(const LayerArgs& args, TileName tile, cudaStream_t stream) {
  tile == TileName::wgmma_wide ? launch_tile<Element, Output, WgmmaWideTile>(args, stream)
                               : launch_tile<Element, Output, WgmmaNarrowTile>(args, stream);
}

}  // namespace

void launch_wgmma(const LayerArgs& args, Dtype precision, TileName tile, bool last, cudaStream_t stream) {
  if (args.rows == 0) return;
  if (args.scale != nullptr) {
    return args.narrow != 0 ? launch_output<uint8_t, uint8_t>(args, tile, stream)
                            : launch_output<uint8_t, float>(args, tile, stream);
  }
  if (precision == Dtype::f16) {
    return last ? launch_output<Half, float>(args, tile, stream) : launch_output<Half, Half>(args, tile, stream);
  }
  return last ? launch_output<Bfloat, float>(args, tile, stream) : launch_output<Bfloat, Bfloat>(args, tile, stream);
}

}  // namespace fct::cuda
