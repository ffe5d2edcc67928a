// Follows a plan over all chunks of a call. Knows pointers and steps, no device: a Launcher does what a step says, on a
// stream or, in tests, on the shim.
#pragma once

#include <cstdint>

#include "cuda/upgrade/args.hpp"
#include "cuda/upgrade/plan.hpp"

namespace fct::cuda {

template <typename Pointer>
struct RowsOf {
  Pointer data = nullptr;
  Dtype dtype = Dtype::f32;
  int64_t stride = 0;  // in elements
};

struct UpgradeRun {
  RowsOf<const unsigned char*> old;
  RowsOf<const unsigned char*> side;  // data null where h has none
  RowsOf<unsigned char*> out;
  float* uncertainty = nullptr;            // [rows] or null
  unsigned char* status = nullptr;         // [rows]
  const unsigned char* weights = nullptr;  // as pack_transform wrote them
  unsigned char* scratch = nullptr;        // plan.scratch_bytes, at a multiple of 256
};

class Launcher {
 public:
  virtual ~Launcher() = default;
  virtual void clear(unsigned char* status, int64_t rows) = 0;
  virtual void load(const LoadArgs& args, Dtype precision) = 0;
  virtual void layer(const LayerArgs& args, Dtype precision, TileName tile, bool last) = 0;
  virtual void finish(const FinishArgs& args) = 0;
  virtual void fused(const FusedArgs& args, Dtype precision, const FusedPlan& plan, int64_t blocks) = 0;
};

void run_upgrade(const UpgradePlan& plan, const UpgradeRun& run, Launcher& launcher);

}  // namespace fct::cuda
