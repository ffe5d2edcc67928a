// Tiles of layers on wgmma, and what their kernels are given. Host and device.
#pragma once

#include "cuda/tensor_map.hpp"
#include "cuda/upgrade/args.hpp"
#include "cuda/upgrade/tile.hpp"

namespace fct::cuda {

// 128 rows, 64 to a consumer warpgroup, and Columns outputs; a stage holds 128 bytes of depth of both operands.
template <int Columns, int Stages>
struct WgmmaTile {
  static constexpr int kConsumers = 2;
  static constexpr int kConsumerRows = 64;
  static constexpr int kRows = kConsumers * kConsumerRows;
  static constexpr int kColumns = Columns;
  static constexpr int kStages = Stages;
  static constexpr int kThreads = (1 + kConsumers) * 128;
  static constexpr int kStageBytes = (kRows + Columns) * kStepBytes;
  // Outputs leave through two slices of 128 bytes a row, in turn.
  static constexpr int kSlices = 2;
  static constexpr int kSliceBytes = kConsumerRows * kBoxRowBytes;
  static constexpr int kSlicesAt = Stages * kStageBytes;
  static constexpr int kBarriersAt = kSlicesAt + kConsumers * kSlices * kSliceBytes;
  static constexpr int kSharedBytes = kBarriersAt + 2 * Stages * 8;
};

using WgmmaWideTile = WgmmaTile<256, 4>;
using WgmmaNarrowTile = WgmmaTile<128, 6>;

// Fewer rows are left to the other tiles: their families are what online requests use.
constexpr int64_t kWgmmaRows = 16384;
constexpr int kWgmmaCompute = 90;  // and no other: the code is for sm_90a

template <typename T>
constexpr TileFacts wgmma_facts(TileName name, const char* text, double rate) {
  return {name, text, T::kRows, T::kColumns, T::kStages, T::kThreads, T::kSharedBytes, rate, false};
}
constexpr std::array<TileFacts, 2> kWgmmaTiles = {
    wgmma_facts<WgmmaWideTile>(TileName::wgmma_wide, "wgmma wide", 1.0),
    wgmma_facts<WgmmaNarrowTile>(TileName::wgmma_narrow, "wgmma narrow", 0.85)};
constexpr bool is_wgmma(TileName tile) { return tile == TileName::wgmma_wide || tile == TileName::wgmma_narrow; }

struct WgmmaArgs {
  TensorMap x;
  TensorMap weight;
  TensorMap y;
  LayerArgs layer;
};

// layer.rows is not 0.
template <typename Element, typename Output, typename T>
WgmmaArgs wgmma_args(const LayerArgs& layer) {
  constexpr int32_t kElement = sizeof(Element), kOutput = sizeof(Output);
  return {.x = tensor_map({layer.x, layer.rows, layer.depth, layer.x_stride, kElement, T::kRows}),
          .weight = tensor_map({layer.weight, layer.columns, layer.depth, layer.depth, kElement, T::kColumns}),
          .y = tensor_map({layer.y, layer.rows, layer.columns, layer.y_stride, kOutput, T::kConsumerRows}),
          .layer = layer};
}

}  // namespace fct::cuda
