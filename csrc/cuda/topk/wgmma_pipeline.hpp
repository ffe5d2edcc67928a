// Who waits for whom in the fused search on wgmma. Templates that know nothing else, so that a test can follow every
// order (test_topk_wgmma_pipeline.cpp); fused_wgmma_body.hpp gives them the hardware.
//
// Two rings go from the loader to the consumers: slabs of gallery rows through stages, which are free as soon as they
// are multiplied, and the facts of whole tiles, which come with a tile's first slab and are needed until it is selected
// from. Each place has a barrier `empty`, on which every consumer warp arrives, and each stage a barrier `full`. The
// consumers take turns in issuing the products of a tile, so that one selects while the other's products run. Not where
// the stages hold less than a tile: the first could not issue its last slabs before the second had given back the first
// ones.
#pragma once

#include "cuda/simt/base.hpp"

namespace fct::cuda::topk {

struct WgmmaRings {
  int stages;
  int fact_stages;
  int slabs;  // of a tile

  FCT_DEVICE bool take_turns() const { return slabs <= stages; }
};

// A place in a ring, and the parity of the phase in which it is filled there.
struct PlaceInRing {
  int place = 0;
  int parity = 0;

  FCT_DEVICE void next(int size) {
    if (++place < size) return;
    place = 0;
    parity ^= 1;
  }
};

// At first all places are empty: the phase "before the first" of a fresh barrier has ended, so that the wait for the
// other parity falls through.
template <typename Hardware>
FCT_DEVICE void load_stripe(const WgmmaRings& rings, int64_t tiles, Hardware& hardware) {
  PlaceInRing stage;
  PlaceInRing facts;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    hardware.wait_facts_empty(facts.place, facts.parity ^ 1);
    for (int slab = 0; slab < rings.slabs; ++slab) {
      hardware.wait_empty(stage.place, stage.parity ^ 1);
      hardware.fill(stage.place, slab, facts.place);
      stage.next(rings.stages);
    }
    facts.next(rings.fact_stages);
  }
}

// A warp's part. The products of one slab are under way while those of the slab before are waited for, and its stage
// given back; the other consumer may issue as soon as this one has.
template <typename Hardware>
FCT_DEVICE void consume_stripe(const WgmmaRings& rings, int64_t tiles, int consumer, Hardware& hardware) {
  PlaceInRing stage;
  PlaceInRing facts;
  int turn = consumer == 0 ? 1 : 0;  // the first consumer begins: its turn's phase "before the first" has ended
  for (int64_t tile = 0; tile < tiles; ++tile) {
    if (rings.take_turns()) hardware.wait_turn(turn);
    turn ^= 1;
    int before = 0;
    for (int slab = 0; slab < rings.slabs; ++slab) {
      hardware.wait_full(stage.place, stage.parity);
      hardware.multiply(stage.place, slab);
      if (slab > 0) {
        hardware.wait_products_but_newest();
        hardware.release(before);
      }
      before = stage.place;
      stage.next(rings.stages);
    }
    if (rings.take_turns()) hardware.pass_turn();
    hardware.wait_products();
    hardware.release(before);
    hardware.select(facts.place);
    hardware.release_facts(facts.place);
    facts.next(rings.fact_stages);
  }
}

}  // namespace fct::cuda::topk
