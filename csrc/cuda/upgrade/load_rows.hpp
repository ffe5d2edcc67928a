// The caller's rows into scratch: cast to the compute type, padded with zeros, NaN and Inf found. The one kernel that
// meets foreign alignments and strides; all others read whole aligned chunks.
#pragma once

#include "core/matrix.hpp"
#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/args.hpp"
#include "cuda/upgrade/tile.hpp"

namespace fct::cuda {

constexpr int kLoadThreads = 256;
constexpr float kNaN = __builtin_nanf("");

// One thread a chunk of the target.
inline int64_t load_blocks(const LoadArgs& args, int element_bytes) {
  const int64_t chunks = (static_cast<int64_t>(args.columns) * element_bytes + kChunkBytes - 1) / kChunkBytes;
  return (args.rows * chunks + kLoadThreads - 1) / kLoadThreads;
}

// A caller's value in the compute type; `finite` becomes false where it is not.
template <typename Element>
FCT_DEVICE Element loaded(float x, bool& finite) {
  finite &= is_finite(x);
  Element y = narrowed<Element>(x);
  // Too large for the compute type: NaN rather than Inf, since nothing on the way hides a NaN, but ReLU hides -Inf.
  if (!is_finite(y)) narrow(kNaN, y);
  return y;
}

template <typename Source, typename Element>
FCT_DEVICE void load_chunk(const LoadArgs& args, int64_t row, int first) {
  constexpr int kElements = kChunkBytes / static_cast<int>(sizeof(Element));
  const Source* const source = static_cast<const Source*>(args.source) + row * args.source_stride + first;
  union {
    Chunk chunk;
    Element values[kElements];
  } target;
  bool finite = true;
  FCT_UNROLL
  for (int i = 0; i < kElements; ++i) {
    target.values[i] = loaded<Element>(first + i < args.columns ? widen(source[i]) : 0.0f, finite);
  }
  *reinterpret_cast<Chunk*>(static_cast<Element*>(args.target) + row * args.target_stride + first) = target.chunk;
  if (!finite) args.status[row] = kRowNonfiniteInput;
}

template <typename Element>
FCT_DEVICE void load_rows(const LoadArgs& args) {
  constexpr int kElements = kChunkBytes / static_cast<int>(sizeof(Element));
  const int64_t chunks = (args.columns + kElements - 1) / kElements;
  const int64_t index = block_index() * kLoadThreads + thread_index();
  if (index >= args.rows * chunks) return;
  const int64_t row = index / chunks;
  const int first = static_cast<int>(index % chunks) * kElements;
  switch (static_cast<Dtype>(args.source_dtype)) {
    case Dtype::f32:
      return load_chunk<float, Element>(args, row, first);
    case Dtype::f16:
      return load_chunk<Half, Element>(args, row, first);
    case Dtype::bf16:
      return load_chunk<Bfloat, Element>(args, row, first);
  }
}

}  // namespace fct::cuda
