#include "cuda/shim/block.hpp"

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace fct::shim {
namespace {

Block* g_current = nullptr;
// A fault inside a fiber cannot unwind into the scheduler's stack, so it is kept until the scheduler runs.
std::string g_fault;

constexpr int64_t kSharedAlignment = 1024;

}  // namespace

Block& current() { return *g_current; }

Counters launch(const Launch& launch, const Body& body) {
  if (launch.threads % 32 != 0 || launch.threads < 32 || launch.threads > 1024) throw Fault("a block has whole warps");
  std::mt19937 random(launch.seed);
  std::vector<int64_t> order(static_cast<std::size_t>(launch.blocks));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  Block block(launch, body);
  g_current = &block;
  for (int64_t index : order) block.run(index, random);
  g_current = nullptr;
  return block.counters();
}

Block::Block(const Launch& launch, const Body& body)
    : launch_(launch), body_(body), threads_(launch.threads), warps_(launch.threads / kLanes) {
  // Exactly as many bytes as were asked for, so that AddressSanitizer sees the first one past them.
  void* memory = nullptr;
  if (posix_memalign(&memory, kSharedAlignment, std::max<std::size_t>(launch.shared_bytes, 1)) != 0)
    throw std::bad_alloc();
  shared_ = static_cast<unsigned char*>(memory);
}

Block::~Block() { std::free(shared_); }

void Block::run(int64_t block_index, std::mt19937& random) {
  block_index_ = block_index;
  random_ = &random;
  at_barrier_ = 0;
  g_fault.clear();
  std::memset(shared_, 0xff, static_cast<std::size_t>(launch_.shared_bytes));  // NaN in every format
  const uint32_t mode = random() % 3;
  early_copies_ = mode == 1;
  late_copies_ = mode == 0;
  for (Warp& warp : warps_) warp.arrived = 0;
  hopper_.end();
  for (Thread& thread : threads_) {
    thread.parked = false;
    thread.groups.clear();
    thread.open.clear();
    thread.fiber.start([this] {
      try {
        body_(shared_);
      } catch (const Fault& fault) {
        g_fault = fault.what();
      }
    });
  }
  std::vector<int> ready;
  for (int live = launch_.threads; live > 0;) {
    hopper_.act(false);
    ready.clear();
    for (int t = 0; t < launch_.threads; ++t) {
      if (!threads_[t].fiber.done() && !threads_[t].parked) ready.push_back(t);
    }
    if (ready.empty() && hopper_.act(true)) continue;
    if (ready.empty()) throw Fault("deadlock: " + std::to_string(live) + " threads wait for others that never come");
    std::shuffle(ready.begin(), ready.end(), random);
    for (int t : ready) {
      if (hopper_.misses_turn(warp_of(t))) continue;
      running_ = t;
      threads_[t].fiber.resume();
      if (!g_fault.empty()) throw Fault(g_fault);
      live -= threads_[t].fiber.done();
    }
  }
  check_left_over();
}

void Block::fail(const std::string& what) const {
  throw Fault(what + " (block " + std::to_string(block_index_) + ", thread " + std::to_string(running_) + ")");
}

void Block::yield() { threads_[running_].fiber.suspend(); }

void Block::park() {
  threads_[running_].parked = true;
  yield();
}

void Block::sync_block() {
  if (++at_barrier_ < launch_.threads) return park();
  at_barrier_ = 0;
  for (Thread& thread : threads_) thread.parked = false;
  yield();
}

void Block::warp_barrier() {
  meet(warps_[warp_of(running_)], Collective::barrier, [](Warp&) {});
}

uint32_t Block::ballot(bool vote) {
  slot().value[0] = vote;
  meet(warps_[warp_of(running_)], Collective::ballot, [](Warp& warp) {
    uint32_t votes = 0;
    for (int lane = 0; lane < kLanes; ++lane) votes |= static_cast<uint32_t>(warp.slots[lane].value[0]) << lane;
    for (Slot& lane : warp.slots) std::memcpy(lane.result, &votes, 4);
  });
  uint32_t votes = 0;
  std::memcpy(&votes, slot().result, 4);
  return votes;
}

void Block::load_matrix_x4(uint32_t (&fragment)[4], const void* row) {
  check_shared(row, 16, "ldmatrix");
  slot().row = static_cast<const unsigned char*>(row);
  meet(warps_[warp_of(running_)], Collective::load_matrix, [this](Warp& warp) {
    ++counters_.ldmatrix;
    for (int matrix = 0; matrix < 4; ++matrix) {
      int hits[8] = {};  // 8 groups of 4 banks; equal rows are one access
      for (int r = 0; r < 8; ++r) {
        const unsigned char* const address = warp.slots[matrix * 8 + r].row;
        bool repeated = false;
        for (int before = 0; before < r; ++before) repeated |= warp.slots[matrix * 8 + before].row == address;
        if (!repeated) ++hits[(address - shared_) / 16 % 8];
      }
      counters_.ldmatrix_conflicts += *std::max_element(hits, hits + 8) - 1;
      for (int lane = 0; lane < kLanes; ++lane) {
        const unsigned char* const from = warp.slots[matrix * 8 + lane / 4].row + lane % 4 * 4;
        std::memcpy(&warp.slots[lane].fragment[matrix], from, 4);
      }
    }
  });
  std::memcpy(fragment, slot().fragment, 16);
}

void Block::mma_16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (*widen)(uint16_t)) {
  Slot& mine = slot();
  std::memcpy(mine.a, a, 16);
  std::memcpy(mine.c, c, 16);
  mine.b[0] = b0;
  mine.b[1] = b1;
  meet(warps_[warp_of(running_)], Collective::mma, [this, widen](Warp& warp) {
    ++counters_.mma;
    float matrix_a[16][16], matrix_w[8][16];
    const auto low = [widen](uint32_t pair) { return widen(static_cast<uint16_t>(pair & 0xffffu)); };
    const auto high = [widen](uint32_t pair) { return widen(static_cast<uint16_t>(pair >> 16)); };
    for (int lane = 0; lane < kLanes; ++lane) {
      const Slot& from = warp.slots[lane];
      const int group = lane / 4, pair = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        matrix_a[group + i % 2 * 8][pair + i / 2 * 8] = low(from.a[i]);
        matrix_a[group + i % 2 * 8][pair + i / 2 * 8 + 1] = high(from.a[i]);
      }
      for (int i = 0; i < 2; ++i) {
        matrix_w[group][pair + i * 8] = low(from.b[i]);
        matrix_w[group][pair + i * 8 + 1] = high(from.b[i]);
      }
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = 0.0f;
        for (int k = 0; k < 16; ++k) sum += matrix_a[row][k] * matrix_w[column][k];
        warp.slots[lane].c[i] += sum;
      }
    }
  });
  std::memcpy(c, slot().c, 16);
}

void Block::mma_16832(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool signed_a) {
  Slot& mine = slot();
  std::memcpy(mine.a, a, 16);
  std::memcpy(mine.sums, c, 16);
  mine.b[0] = b0;
  mine.b[1] = b1;
  meet(warps_[warp_of(running_)], Collective::mma_bytes, [this, signed_a](Warp& warp) {
    ++counters_.mma;
    int32_t matrix_a[16][32], matrix_w[8][32];
    for (int lane = 0; lane < kLanes; ++lane) {
      const Slot& from = warp.slots[lane];
      const int group = lane / 4, quad = lane % 4 * 4;
      for (int i = 0; i < 4; ++i) {
        for (int byte = 0; byte < 4; ++byte) {
          const uint8_t bits = static_cast<uint8_t>(from.a[i] >> 8 * byte);
          matrix_a[group + i % 2 * 8][quad + i / 2 * 16 + byte] = signed_a ? static_cast<int8_t>(bits) : bits;
          if (i < 2) matrix_w[group][quad + i * 16 + byte] = static_cast<int8_t>(from.b[i] >> 8 * byte);
        }
      }
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        int32_t sum = 0;
        for (int k = 0; k < 32; ++k) sum += matrix_a[row][k] * matrix_w[column][k];
        warp.slots[lane].sums[i] += sum;
      }
    }
  });
  std::memcpy(c, slot().sums, 16);
}

void Block::copy_async(void* shared, const void* source, int bytes) {
  check_shared(shared, 16, "cp.async");
  if (reinterpret_cast<std::uintptr_t>(source) % 16 != 0) fail("cp.async reads an address that is no multiple of 16");
  if (bytes < 0 || bytes > 16) fail("cp.async reads " + std::to_string(bytes) + " bytes");
  const Copy copy{static_cast<unsigned char*>(shared), source, bytes};
  const bool now = early_copies_ || (!late_copies_ && (*random_)() % 2 == 0);
  if (now) {
    make(copy);
  } else {
    threads_[running_].open.push_back(copy);
  }
}

void Block::copy_async_commit() {
  Thread& thread = threads_[running_];
  thread.groups.push_back(std::move(thread.open));
  thread.open.clear();
}

void Block::copy_async_wait(std::size_t pending) {
  Thread& thread = threads_[running_];
  for (; thread.groups.size() > pending; thread.groups.pop_front()) {
    for (const Copy& copy : thread.groups.front()) make(copy);
  }
}

void Block::make(const Copy& copy) const {
  std::memcpy(copy.target, copy.source, static_cast<std::size_t>(copy.bytes));
  std::memset(copy.target + copy.bytes, 0, static_cast<std::size_t>(16 - copy.bytes));
}

void Block::check_shared(const void* address, int64_t bytes, const char* what) const {
  const auto offset = reinterpret_cast<std::intptr_t>(address) - reinterpret_cast<std::intptr_t>(shared_);
  if (offset < 0 || offset + bytes > launch_.shared_bytes || offset % 16 != 0)
    fail(std::string(what) + " at byte " + std::to_string(offset) + " of " + std::to_string(launch_.shared_bytes) +
         " of shared memory");
}

void Block::check_left_over() const {
  for (const Thread& thread : threads_) {
    bool open = !thread.open.empty();
    for (const std::vector<Copy>& group : thread.groups) open |= !group.empty();
    if (open) throw Fault("the block ended with copies that were never waited for");
  }
  hopper_.check_left_over();
}

}  // namespace fct::shim
