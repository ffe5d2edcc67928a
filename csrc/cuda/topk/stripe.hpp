// What the kernels that score and select in one pass share: the order in which a stripe's tiles are visited, and a
// thread's part in its warp's selection.
#pragma once

#include "cuda/topk/bound.hpp"
#include "cuda/topk/candidate_list.hpp"

namespace fct::cuda::topk {

// The stride of the visiting order: about 0.62 of `tiles`, and prime to it.
FCT_DEVICE int64_t visiting_stride(int64_t tiles) {
  for (int64_t stride = tiles * 618 / 1000 + 1; stride < tiles; ++stride) {
    int64_t a = tiles;
    int64_t b = stride;
    while (b != 0) {
      const int64_t rest = a % b;
      a = b;
      b = rest;
    }
    if (a == 1) return stride;
  }
  return 1;
}

// The tiles of one stripe in visiting order.
struct StripeWalk {
  int64_t tiles;
  int64_t stride;
  int64_t at;
  int64_t stripe;
  int64_t stripes;
  int64_t tile_rows;

  FCT_DEVICE static StripeWalk of(int64_t rows, int64_t tile_rows, int64_t stripe, int64_t stripes) {
    const int64_t all_tiles = (rows + tile_rows - 1) / tile_rows;
    const int64_t tiles = stripe < all_tiles ? (all_tiles - stripe - 1) / stripes + 1 : 0;
    return {tiles, visiting_stride(tiles), 0, stripe, stripes, tile_rows};
  }
  FCT_DEVICE int64_t first_row() const { return (stripe + at * stripes) * tile_rows; }
  FCT_DEVICE void next() {
    at += stride;
    if (at >= tiles) at -= tiles;
  }
};

// Where a warp's queries, 8 kQueries of them, have their lists and buffers.
struct SelectionPlace {
  const QueryFacts* query_facts;
  int64_t first_query;  // of the warp
  int64_t queries;
  Key* lists;  // [queries, stripes, kept]
  int64_t stripe;
  int64_t stripes;
  int32_t kept;
  Key* buffers;  // in shared memory, of the warp's first query

  FCT_DEVICE Key* list(int64_t query) const { return lists + (query * stripes + stripe) * kept; }
};

// A thread's share of its warp's selection: query q of kQueries is the warp's query 8 q + lane / 4, held by the four
// lanes of a quad alike.
template <int kQueries>
struct Selection {
  Key worst[kQueries];        // the list's last key: what a new one must beat
  float threshold[kQueries];  // no score below can pass
  float factor[kQueries];
  float floor[kQueries];
  int count[kQueries];  // keys in the buffer

  FCT_DEVICE void raise(int q, Key key) {
    worst[q] = key;
    const float score = score_of(key);
    threshold[q] = fmaxf(floor[q], score);  // of a NaN and a number the number; with both NaN everything passes
  }

  FCT_DEVICE void begin(const SelectionPlace& place) {
    FCT_UNROLL
    for (int q = 0; q < kQueries; ++q) {
      const int64_t query = place.first_query + 8 * q + lane_index() / 4;
      const bool inside = query < place.queries;
      count[q] = 0;
      factor[q] = inside ? place.query_facts[query].factor : 0.0f;
      // Where there is no query nothing enters, and next to nothing is looked at.
      floor[q] = inside ? place.query_facts[query].floor : float_from_bits(0x7f800000u);
      raise(q, inside ? place.list(query)[place.kept - 1] : ~kNoKey);
    }
  }

  // Appends the keys of query q that lanes bring and that beat its list; all lanes of the warp together.
  FCT_DEVICE void offer(const SelectionPlace& place, int q, Key key, bool exists) {
    const bool enters = exists && key > worst[q];
    const uint32_t quad = ballot(enters) >> (lane_index() & ~3) & 0xfu;
    if (enters) {
      const int at = count[q] + count_bits(quad & ((1u << lane_index() % 4) - 1u));
      place.buffers[(8 * q + lane_index() / 4) * kBufferKeys + at] = key;
    }
    count[q] += count_bits(quad);
    merge(place, q, count[q] > kBufferKeys - 4);  // the quad may bring four more
  }

  // Merges the buffers of query q of every quad whose lanes say so.
  FCT_DEVICE void merge(const SelectionPlace& place, int q, bool wanted) {
    uint32_t quads = ballot(wanted);
    while (quads != 0) {
      const int lane = lowest_bit(quads);
      quads &= ~(0xfu << (lane & ~3));
      const int in_warp = 8 * q + lane / 4;
      const Key last = merge_buffer(place.list(place.first_query + in_warp), place.kept,
                                    place.buffers + in_warp * kBufferKeys, shuffle(count[q], lane));
      if (lane_index() / 4 == lane / 4) {
        count[q] = 0;
        raise(q, last);
      }
    }
  }

  FCT_DEVICE void end(const SelectionPlace& place) {
    FCT_UNROLL
    for (int q = 0; q < kQueries; ++q) merge(place, q, count[q] > 0);
  }
};

}  // namespace fct::cuda::topk
