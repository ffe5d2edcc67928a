#include "shim_launcher.hpp"

#include <algorithm>
#include <cstring>

#include "check.hpp"
#include "cuda/upgrade/finish_rows.hpp"
#include "cuda/upgrade/fused.hpp"
#include "cuda/upgrade/layer_ffma.hpp"
#include "cuda/upgrade/layer_mma.hpp"
#include "cuda/upgrade/layer_wgmma.hpp"
#include "cuda/upgrade/load_rows.hpp"

namespace fct::cuda::testing {
namespace {

template <typename T>
int64_t blocks(const LayerArgs& args) {
  return (args.rows + T::kRows - 1) / T::kRows * ((args.columns + T::kColumns - 1) / T::kColumns) * args.splits;
}

}  // namespace

void ShimLauncher::go(int64_t blocks, int threads, int64_t shared_bytes, const shim::Body& body) {
  const shim::Counters counters =
      shim::launch({.blocks = blocks, .threads = threads, .shared_bytes = shared_bytes, .seed = seed_++}, body);
  CHECK(counters.ldmatrix_conflicts == 0);
}

template <typename Element, typename Output, typename T>
void ShimLauncher::mma_tile(const LayerArgs& args) {
  go(blocks<T>(args), T::kThreads, T::template kSharedBytes<Output>,
     [&](unsigned char* shared) { layer_mma<Element, Output, T>(args, shared); });
}

template <typename Element, typename Output, typename T>
void ShimLauncher::wgmma_tile(const LayerArgs& args) {
  const WgmmaArgs with_maps = wgmma_args<Element, Output, T>(args);
  go(std::min<int64_t>(blocks<T>(args), 3), T::kThreads, T::kSharedBytes,
     [&](unsigned char* shared) { layer_wgmma<Element, Output, T>(with_maps, shared); });
}

template <typename T>
void ShimLauncher::ffma(const LayerArgs& args) {
  go(blocks<T>(args), T::kThreads, T::template kSharedBytes<float>,
     [&](unsigned char* shared) { layer_ffma<T>(args, shared); });
}

template <typename Element, typename Output>
void ShimLauncher::mma(const LayerArgs& args, TileName tile) {
  if (tile == TileName::wide) mma_tile<Element, Output, WideTile>(args);
  if (tile == TileName::square) mma_tile<Element, Output, SquareTile>(args);
  if (tile == TileName::narrow) mma_tile<Element, Output, NarrowTile>(args);
  if (tile == TileName::small) mma_tile<Element, Output, SmallTile>(args);
  if (tile == TileName::wgmma_wide) wgmma_tile<Element, Output, WgmmaWideTile>(args);
  if (tile == TileName::wgmma_narrow) wgmma_tile<Element, Output, WgmmaNarrowTile>(args);
}

void ShimLauncher::clear(unsigned char* status, int64_t rows) {
  std::memset(status, 0, static_cast<std::size_t>(rows));
}

void ShimLauncher::load(const LoadArgs& args, Dtype precision) {
  const int64_t blocks = load_blocks(args, static_cast<int>(size_of(precision)));
  go(blocks, kLoadThreads, 0, [&](unsigned char*) {
    if (precision == Dtype::f32) load_rows<float>(args);
    if (precision == Dtype::f16) load_rows<Half>(args);
    if (precision == Dtype::bf16) load_rows<Bfloat>(args);
  });
}

void ShimLauncher::layer(const LayerArgs& args, Dtype precision, TileName tile, bool last) {
  if (precision == Dtype::f32) {
    if (tile == TileName::square) ffma<Fp32SquareTile>(args);
    if (tile == TileName::narrow) ffma<Fp32NarrowTile>(args);
    if (tile == TileName::small) ffma<Fp32SmallTile>(args);
  } else if (precision == Dtype::f16) {
    last ? mma<Half, float>(args, tile) : mma<Half, Half>(args, tile);
  } else {
    last ? mma<Bfloat, float>(args, tile) : mma<Bfloat, Bfloat>(args, tile);
  }
}

void ShimLauncher::finish(const FinishArgs& args) {
  go((args.rows + kFinishRows - 1) / kFinishRows, kFinishThreads, 0, [&](unsigned char*) { finish_rows(args); });
}

void ShimLauncher::fused(const FusedArgs& args, Dtype precision, const FusedPlan& plan, int64_t blocks) {
  go(blocks, plan.threads(), plan.shared_bytes, [&](unsigned char* shared) {
    if (precision == Dtype::f16) {
      plan.deep ? cuda::fused<Half, kDeepDepth>(args, shared) : cuda::fused<Half, kShallowDepth>(args, shared);
    } else {
      plan.deep ? cuda::fused<Bfloat, kDeepDepth>(args, shared) : cuda::fused<Bfloat, kShallowDepth>(args, shared);
    }
  });
}

}  // namespace fct::cuda::testing
