// A block of CUDA threads on one CPU thread: each thread a fiber, run in an order that a seed picks.
//
// What it shows: wrong indices and fragment maps, missing barriers and waits, divergent collectives, deadlocks, reads
// of unwritten shared memory (it starts as NaN), unaligned or out-of-bounds accesses (with AddressSanitizer), bank
// conflicts of ldmatrix. What it cannot show: the memory model of a real device, speed. Anything wrong throws Fault out
// of launch().
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/shim/fiber.hpp"
#include "cuda/shim/hopper.hpp"

namespace fct::shim {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Collective { none, barrier, shuffle, shuffle_xor, ballot, load_matrix, mma, mma_bytes, wgmma };

struct Launch {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
  uint32_t seed;
};

struct Counters {
  int64_t ldmatrix = 0;            // warp instructions
  int64_t ldmatrix_conflicts = 0;  // extra passes over shared memory that they took
  int64_t mma = 0;                 // warp instructions
  int64_t wgmma = 0;               // the same, each a quarter of a warpgroup's
};

using Body = std::function<void(unsigned char* shared)>;

// Runs body(shared) once a thread of every block, blocks one after the other in an order that the seed picks.
Counters launch(const Launch& launch, const Body& body);

class Block {
 public:
  Block(const Launch& launch, const Body& body);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  void run(int64_t block_index, std::mt19937& random);
  const Counters& counters() const { return counters_; }

  // Called from the fibers.
  int thread_index() const { return running_; }
  int threads() const { return launch_.threads; }
  int64_t block_index() const { return block_index_; }
  int64_t block_count() const { return launch_.blocks; }
  Hopper& hopper() {
    hopper_.begin();
    return hopper_;
  }
  void yield();
  void sync_block();
  void warp_barrier();
  uint32_t ballot(bool vote);
  void load_matrix_x4(uint32_t (&fragment)[4], const void* row);
  void mma_16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (*widen)(uint16_t));
  void mma_16832(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool signed_a);
  void copy_async(void* shared, const void* source, int bytes);
  void copy_async_commit();
  void copy_async_wait(std::size_t pending);

  template <typename T>
  T exchange(Collective kind, T value, int from) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    if (from < 0 || from >= kLanes) fail("a shuffle reads lane " + std::to_string(from));
    Warp& warp = warps_[warp_of(running_)];
    Slot& mine = slot();
    std::memcpy(mine.value, &value, sizeof(T));
    mine.from = from;
    meet(warp, kind, [](Warp& all) {
      for (Slot& lane : all.slots) std::memcpy(lane.result, all.slots[lane.from].value, 8);
    });
    T result;
    std::memcpy(&result, slot().result, sizeof(T));
    return result;
  }

 private:
  friend class Hopper;
  static constexpr int kLanes = 32;

  // A lane's inputs and outputs of a collective. A lane reads its result before it can join the next one, so one set is
  // enough.
  struct Slot {
    unsigned char value[8]{};
    unsigned char result[8]{};
    int from = 0;
    const unsigned char* row = nullptr;
    uint32_t a[4]{}, b[2]{}, fragment[4]{};
    float c[4]{};
    int32_t sums[4]{};
  };
  struct Warp {
    int arrived = 0;
    Collective kind = Collective::none;
    std::array<Slot, kLanes> slots;
  };
  struct Copy {
    unsigned char* target;
    const void* source;
    int bytes;
  };
  struct Thread {
    Fiber fiber;
    bool parked = false;
    std::deque<std::vector<Copy>> groups;  // committed, oldest first
    std::vector<Copy> open;                // since the last commit
  };

  static int warp_of(int thread) { return thread / kLanes; }
  Slot& slot() { return warps_[warp_of(running_)].slots[running_ % kLanes]; }
  [[noreturn]] void fail(const std::string& what) const;
  void park();
  void make(const Copy& copy) const;
  void check_shared(const void* address, int64_t bytes, const char* what) const;
  void check_left_over() const;

  // The last lane to arrive does the work of all and wakes the others.
  template <typename Work>
  void meet(Warp& warp, Collective kind, Work work) {
    if (warp.arrived == 0) warp.kind = kind;
    if (warp.kind != kind) fail("lanes of one warp are at different collectives");
    if (++warp.arrived < kLanes) return park();
    warp.arrived = 0;
    work(warp);
    const int first = warp_of(running_) * kLanes;
    for (int lane = 0; lane < kLanes; ++lane) threads_[first + lane].parked = false;
    yield();  // whoever is late must not be the first to go on
  }

  const Launch launch_;
  const Body& body_;
  Counters counters_;
  unsigned char* shared_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::mt19937* random_ = nullptr;
  int64_t block_index_ = 0;
  int running_ = 0;
  int at_barrier_ = 0;
  bool early_copies_ = false;
  bool late_copies_ = false;
  Hopper hopper_{*this};
};

// The block whose fiber is running.
Block& current();

}  // namespace fct::shim
