// Which tile a layer gets, and among how many blocks its depth is cut. Host only, a pure function.
#pragma once

#include <cstdint>

#include "cuda/device.hpp"
#include "cuda/upgrade/layout.hpp"
#include "cuda/upgrade/tile.hpp"

namespace fct::cuda {

struct TileChoice {
  TileFacts tile;
  int32_t splits = 1;
  int64_t parts = 0;  // of each output, which splits leave in scratch
};

// The least time by a model of waves of blocks. Throws DeviceError where no tile fits the device.
TileChoice choose_tile(Dtype precision, int64_t rows, const LayerLayout& layer, const DeviceFacts& device,
                       bool may_split);

}  // namespace fct::cuda
