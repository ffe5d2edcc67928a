// Who waits for whom on the ring of stages of a layer on wgmma. Templates that know nothing else, so that a test can
// follow every order (test_wgmma_ring.cpp); layer_wgmma.hpp gives them the hardware.
//
// Each stage has two mbarriers: `full` (one arrival, and the bytes of the copies) and `empty` (an arrival of every
// consumer warp). A stage is filled, read, and filled again; the parities say how often.
#pragma once

#include "cuda/simt/base.hpp"

namespace fct::cuda {

template <int kStages>
struct RingPlace {
  int stage = 0;
  int parity = 0;  // of the phase in which it is filled

  FCT_DEVICE void next() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// The producer's part of one tile. At first all stages are empty: the phase "before the first" of a fresh barrier has
// ended, so that the wait for the other parity falls through.
template <int kStages, typename Hardware>
FCT_DEVICE void produce(RingPlace<kStages>& place, int steps, Hardware& hardware) {
  for (int step = 0; step < steps; ++step, place.next()) {
    hardware.wait_empty(place.stage, place.parity ^ 1);
    hardware.fill(place.stage, step);
  }
}

// What one of two consumers does before its first tile: it lets the other go first, by half the ring, so that one
// multiplies while the other makes outputs. No stage has to be given back for that many to be filled.
template <int kStages, typename Hardware>
FCT_DEVICE void fall_behind(int steps, Hardware& hardware) {
  constexpr int kLead = kStages / 2;
  if (steps > kLead) hardware.wait_full(kLead, 0);
}

// A consumer warp's part of one tile: the products of one step are under way while those of the step before are waited
// for, and its stage given back.
template <int kStages, typename Hardware>
FCT_DEVICE void consume(RingPlace<kStages>& place, int steps, Hardware& hardware) {
  int before = 0;
  for (int step = 0; step < steps; ++step, place.next()) {
    hardware.wait_full(place.stage, place.parity);
    hardware.multiply(place.stage, step);
    if (step > 0) {
      hardware.wait_products_but_newest();
      hardware.release(before);
    }
    before = place.stage;
  }
  hardware.wait_products();
  hardware.release(before);
}

}  // namespace fct::cuda
