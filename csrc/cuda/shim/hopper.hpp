// What Hopper adds to a block: mbarriers, boxes copied by the copy engine, wgmma, registers moved between warps.
//
// Everything asynchronous happens at a moment that the seed picks: at once, at a later turn of any thread, or as late
// as the waits allow. Copies and products see shared memory through the async proxy, a second image of it that ordinary
// stores reach only by fence_async_proxy() (of any thread: a fence that is missing shows, one in the wrong thread may
// not). Sums of wgmma are poison from its issue until they were waited for. Everything wrong is a Fault.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "cuda/tensor_map.hpp"

namespace fct::shim {

class Block;

class Hopper {
 public:
  explicit Hopper(Block& block) : block_(block) {}

  // Called by the scheduler.
  void end();  // of a block, or before the first
  // Lets some of what is under way happen, at a whim; true where anything did. `must` asks for it.
  bool act(bool must);
  // Whether a warp misses its turn: now and then one falls far behind the others, as a device lets it.
  bool misses_turn(int warp) const { return begun_ && warps_[warp].turns_missed > 0; }
  void check_left_over() const;

  // Called from the fibers.
  void begin();  // before anything else; once a block has an effect
  void barrier_init(uint64_t* barrier, int arrivals);
  void barrier_publish();
  void barrier_arrive(uint64_t* barrier, int bytes);
  void barrier_wait(uint64_t* barrier, int parity);
  void sync_some(int name, int threads);
  void load_box(void* shared, const cuda::TensorMap& map, int column, int row, uint64_t* barrier);
  void store_box(const cuda::TensorMap& map, int column, int row, const void* shared);
  void store_commit();
  void store_wait(std::size_t pending);
  void fence_async_proxy();
  void set_registers(int registers, bool more);
  uint32_t address_of(const void* shared) const;
  void wgmma_fence();
  void wgmma_commit();
  void wgmma_wait(std::size_t pending);
  // `sums` of this thread, which stay where they are until waited for. Bytes where `widen` is null.
  void wgmma(void* sums, int count, uint64_t a, uint64_t b, bool keep, float (*widen)(uint16_t));

 private:
  static constexpr int kLanes = 32;

  struct Barrier {
    int arrivals = 0, pending = 0;
    int64_t bytes = 0;  // announced and not copied yet; below 0 where copies were first
    uint32_t phase = 0;
    bool published = false;
    std::vector<int> waiting;
  };
  struct Named {
    int threads = 0;
    std::vector<int> waiting;
  };
  // A box between memories.
  struct Copy {
    cuda::TensorShape shape;
    int column, row;
    int64_t at;                   // of shared memory
    uint64_t* barrier = nullptr;  // of a load
    int64_t group = 0;            // of a store, counted by its thread
    int thread = 0;
  };
  // A warp's sums of one place, while any product is under way.
  struct Sums {
    std::array<unsigned char*, kLanes> registers{};
    std::array<bool, kLanes> restored{};
    int count = 0;
    bool integer = false;
    int64_t last = 0;              // the newest product's number
    std::vector<uint32_t> values;  // [lane][count]
  };
  struct Product {
    unsigned char* key;  // of its Sums
    uint64_t a, b;
    bool keep;
    float (*widen)(uint16_t);
  };
  struct Warp {
    std::map<unsigned char*, Sums> sums;  // by lane 0's registers
    std::vector<Product> products;        // all since the start
    int64_t made = 0;                     // of them
    int registers = 0;                    // of a thread
    int turns_missed = 0;                 // from now on
    std::vector<unsigned char*> lanes;    // where each lane of the wgmma that is being issued has its sums
  };
  struct Thread {
    bool fenced = false;
    std::vector<int64_t> groups;  // of products: their numbers at each commit
    int64_t stores = 0;           // groups of stores
  };

  int thread() const;
  void pick_who_dawdles();
  Copy take(std::deque<Copy>& copies);
  Barrier& known(uint64_t* barrier, const char* what);
  void check_phase(Barrier& barrier);
  void load_now(const Copy& copy);
  void store_now(const Copy& copy);
  void make_products(Warp& warp, int64_t end);
  void multiply(Warp& warp, int warp_number, const Product& product);
  void restore(Warp& warp, int lane, int64_t waited);
  void check_same_products(int warp_number);
  int64_t operand_at(uint64_t descriptor, int rows) const;
  const unsigned char* operand(int64_t start, int row, int byte) const;
  [[noreturn]] void fail(const std::string& what) const;

  Block& block_;
  std::map<uint64_t*, Barrier> barriers_;
  std::map<int, Named> named_;
  std::deque<Copy> loads_, stores_;
  std::vector<unsigned char> image_;  // shared memory as the async proxy sees it
  std::vector<Warp> warps_;
  std::vector<Thread> threads_;
  bool begun_ = false, early_ = false, late_ = false;
};

}  // namespace fct::shim
