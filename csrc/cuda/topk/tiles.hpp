// The numbers that plans and kernels must agree on: tiles, threads, shared memory, and the records that lie in scratch.
// Plain C++, for the host as well.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FCT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FCT_HOST_DEVICE inline
#endif

namespace fct::cuda::topk {

using Key = uint64_t;  // order.hpp

// What coarse scoring knows of a gallery row and of a query; see bound.hpp.
struct RowFacts {
  float factor;
  float offset;
};
struct QueryFacts {
  double slope;
  double constant;
  float factor;
  float floor;  // no row with U below can reach the result: what an earlier piece of the gallery has found
  uint32_t provable;
};

// Shared rows of operands are padded by 16 bytes: their pitch is then an odd number of 16-byte units, so the eight rows
// that one ldmatrix phase reads lie in different banks, and no swizzle is needed.
constexpr int kOperandBytes = 2;
constexpr int kChunkElements = 8;  // of 16 bytes
FCT_HOST_DEVICE constexpr int pitch_of(int cols) { return cols * kOperandBytes + 16; }

// A warp's tile on the tensor cores.
constexpr int kWarpQueries = 32;
constexpr int kWarpRows = 64;

constexpr int kBufferKeys = 32;  // new keys of a query that wait for a merge, one a lane

constexpr int kRowThreads = 256;
constexpr int kSeedThreads = 256;

struct ScoreExactTile {
  static constexpr int kThreads = 256;
  static constexpr int kQueries = 64;
  static constexpr int kRows = 128;
  static constexpr int kDepth = 8;
  static constexpr int kQueryPitch = kQueries + 4;  // so that a warp's transposing stores go to 32 different banks
  static constexpr int kRowPitch = kRows + 4;
  static constexpr int kSharedBytes = kDepth * (kQueryPitch + kRowPitch) * static_cast<int>(sizeof(float));
};

struct ScoreHalfTile {
  static constexpr int kThreads = 256;
  static constexpr int kQueries = 128;
  static constexpr int kRows = 128;
  static constexpr int kDepth = 32;
  static constexpr int kStages = 3;
  static constexpr int kPitch = pitch_of(kDepth);
  static constexpr int kStageBytes = (kQueries + kRows) * kPitch;
  static constexpr int kSharedBytes = kStages * kStageBytes;
};

struct FusedTile {
  static constexpr int kThreads = 128;
  static constexpr int kQueries = 128;
  static constexpr int kRows = kWarpRows;
  static constexpr int kDepth = 64;
  static constexpr int kStages = 3;
  static constexpr int kPitch = pitch_of(kDepth);
  static constexpr int kStageBytes = kRows * kPitch;
  static constexpr int kFactBytes = kRows * static_cast<int>(sizeof(RowFacts));
  static constexpr int kBufferBytes = kQueries * kBufferKeys * static_cast<int>(sizeof(Key));

  FCT_HOST_DEVICE static constexpr int64_t padded_depth(int64_t cols) { return (cols + kDepth - 1) / kDepth * kDepth; }
  // Buffers, stages, facts of the tiles under way, queries.
  static constexpr int64_t shared_bytes(int64_t cols) {
    return kBufferBytes + kStages * (kStageBytes + kFactBytes) + kQueries * (padded_depth(cols) * kOperandBytes + 16);
  }
};

// The fused kernel of sm_90a. Operands lie in slabs of 64 columns, rows of 128 bytes, as wgmma reads them. Queries stay
// in shared memory where they fit it; else they are `streamed`, slab by slab beside the rows, of which a tile then has
// twice as many.
template <bool kStreamed>
struct FusedWgmmaTile {
  static constexpr int kConsumers = 2;  // warpgroups, each with half of the queries; one more loads
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kQueries = 64 * kConsumers;
  static constexpr int kRows = kStreamed ? 256 : 128;
  static constexpr int kSlabCols = 64;
  static constexpr int kQuerySlabBytes = kQueries * 128;
  static constexpr int kRowSlabBytes = kRows * 128;
  static constexpr int kStageBytes = kRowSlabBytes + (kStreamed ? kQuerySlabBytes : 0);
  static constexpr int kLeastStages = 3;
  static constexpr int kMostStages = 8;
  static constexpr int kFactStages = kStreamed ? 2 : 4;
  static constexpr int kFactBytes = kRows * static_cast<int>(sizeof(RowFacts));
  static constexpr int kFactRows = 16;  // rows whose facts are a box's row of 128 bytes
  static constexpr int kBufferBytes = kQueries * kBufferKeys * static_cast<int>(sizeof(Key));
  static constexpr int kBarriers = 2 * kMostStages + kFactStages + kConsumers + 1;
  static constexpr int64_t kSharedBytes = 227 << 10;  // of compute capability 9.0

  FCT_HOST_DEVICE static constexpr int slabs(int64_t cols) {
    return static_cast<int>((cols + kSlabCols - 1) / kSlabCols);
  }
  FCT_HOST_DEVICE static constexpr int64_t query_bytes(int64_t cols) {
    return kStreamed ? 0 : slabs(cols) * kQuerySlabBytes;
  }
  // Queries, stages, facts of the tiles under way, buffers, barriers.
  FCT_HOST_DEVICE static constexpr int64_t shared_bytes(int64_t cols, int stages) {
    return query_bytes(cols) + stages * kStageBytes + kFactStages * kFactBytes + kBufferBytes + kBarriers * 8;
  }
  // 0 where rows are too wide.
  FCT_HOST_DEVICE static constexpr int stages(int64_t cols) {
    for (int count = kMostStages; count >= kLeastStages; --count) {
      if (shared_bytes(cols, count) <= kSharedBytes) return count;
    }
    return 0;
  }
};

// Whether queries of so many columns are too wide to stay.
FCT_HOST_DEVICE constexpr bool streams_queries(int64_t cols) { return FusedWgmmaTile<false>::stages(cols) == 0; }

struct SelectBlock {
  static constexpr int kThreads = 256;
  static constexpr int kDigitBits = 11;
  static constexpr int kBuckets = 1 << kDigitBits;
  static constexpr int kGathered = 4096;  // new keys that are looked through in shared memory

  // Gathered keys, carried keys, histogram, six words.
  static constexpr int64_t shared_bytes(int kept) {
    return (kGathered + kept) * static_cast<int64_t>(sizeof(Key)) + (kBuckets + 6) * 4;
  }
};

struct FinishBlock {
  static constexpr int kThreads = 256;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kStagePitch = 33;  // off the banks: lanes fill rows and read columns
  static constexpr int kStageBytes = kWarps * 32 * kStagePitch * static_cast<int>(sizeof(float));

  static constexpr int64_t shared_bytes(int sorted) { return sorted * static_cast<int64_t>(sizeof(Key)) + kStageBytes; }
};

}  // namespace fct::cuda::topk
