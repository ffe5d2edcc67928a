// The steps of a plan on the fiber shim.
#pragma once

#include "cuda/shim/block.hpp"
#include "cuda/upgrade/run.hpp"

namespace fct::cuda::testing {

class ShimLauncher : public Launcher {
 public:
  explicit ShimLauncher(uint32_t seed) : seed_(seed) {}
  void clear(unsigned char* status, int64_t rows) override;
  void load(const LoadArgs& args, Dtype precision) override;
  void layer(const LayerArgs& args, Dtype precision, TileName tile, bool last) override;
  void finish(const FinishArgs& args) override;
  void fused(const FusedArgs& args, Dtype precision, const FusedPlan& plan, int64_t blocks) override;

 private:
  void go(int64_t blocks, int threads, int64_t shared_bytes, const shim::Body& body);
  template <typename Element, typename Output>
  void mma(const LayerArgs& args, TileName tile);
  template <typename Element, typename Output, typename T>
  void mma_tile(const LayerArgs& args);
  template <typename Element, typename Output, typename T>
  void wgmma_tile(const LayerArgs& args);
  template <typename T>
  void ffma(const LayerArgs& args);

  uint32_t seed_;
};

}  // namespace fct::cuda::testing
