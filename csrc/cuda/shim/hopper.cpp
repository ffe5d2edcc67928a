#include "cuda/shim/hopper.hpp"

#include <algorithm>
#include <cstring>

#include "cuda/shim/block.hpp"

namespace fct::shim {
namespace {

constexpr int64_t kSwizzleBytes = 1024;  // the pattern repeats
constexpr int64_t kRowBytes = cuda::kBoxRowBytes;
constexpr uint32_t kPoison = 0xffc0dead;  // NaN, and an unlikely int32
constexpr int kMostArrivals = (1 << 20) - 1;

int64_t swizzled(int64_t at) { return at ^ ((at >> 7 & 7) << 4); }

cuda::TensorShape shape_of(const cuda::TensorMap& map) {
  cuda::TensorShape shape;
  std::memcpy(&shape, map.bytes, sizeof(shape));
  return shape;
}

}  // namespace

int Hopper::thread() const { return block_.running_; }
void Hopper::fail(const std::string& what) const { block_.fail(what); }

void Hopper::begin() {
  if (begun_) return;
  begun_ = true;
  image_.assign(static_cast<std::size_t>(block_.launch_.shared_bytes), 0xff);
  warps_.assign(block_.warps_.size(), {});
  threads_.assign(block_.threads_.size(), {});
  const uint32_t mode = (*block_.random_)() % 3;
  early_ = mode == 1;
  late_ = mode == 0;
}

void Hopper::end() {
  begun_ = false;
  barriers_.clear();
  named_.clear();
  loads_.clear();
  stores_.clear();
}

bool Hopper::act(bool must) {
  if (!begun_) return false;
  if (!must) pick_who_dawdles();
  std::mt19937& random = *block_.random_;
  const bool whim = !late_ && random() % 4 == 0;
  if (whim) {
    if (!stores_.empty()) store_now(take(stores_));
    // Products are made in the order of their warp.
    Warp& warp = warps_[random() % warps_.size()];
    make_products(warp, std::min<int64_t>(warp.made + 1, static_cast<int64_t>(warp.products.size())));
  }
  if (loads_.empty() || (!must && !whim)) return false;
  load_now(take(loads_));
  return true;
}

void Hopper::pick_who_dawdles() {
  constexpr uint32_t kTurns = 64;
  for (Warp& warp : warps_) {
    if (warp.turns_missed > 0) {
      --warp.turns_missed;
    } else if ((*block_.random_)() % kTurns == 0) {
      warp.turns_missed = static_cast<int>((*block_.random_)() % kTurns);
    }
  }
}

// Any of them: copies may overtake each other.
Hopper::Copy Hopper::take(std::deque<Copy>& copies) {
  const auto chosen = copies.begin() + static_cast<std::ptrdiff_t>((*block_.random_)() % copies.size());
  const Copy copy = *chosen;
  copies.erase(chosen);
  return copy;
}

void Hopper::check_left_over() const {
  if (!begun_) return;
  if (!loads_.empty()) throw Fault("the block ended with boxes still on their way");
  if (!stores_.empty()) throw Fault("the block ended with stores that were never waited for");
  int registers = 0;
  for (std::size_t w = 0; w < warps_.size(); ++w) {
    if (!warps_[w].sums.empty()) throw Fault("the block ended with sums of wgmma that were never waited for");
    if (warps_[w].products.size() != warps_[w / 4 * 4].products.size())
      throw Fault("the warps of a warpgroup issued different numbers of wgmma");
    registers += kLanes * warps_[w].registers;
  }
  if (registers > 65536) throw Fault("the warps took " + std::to_string(registers) + " registers of 65536");
}

// Barriers.

Hopper::Barrier& Hopper::known(uint64_t* barrier, const char* what) {
  const auto found = barriers_.find(barrier);
  if (found == barriers_.end()) fail(std::string(what) + " an mbarrier that was never initialised");
  return found->second;
}

void Hopper::barrier_init(uint64_t* barrier, int arrivals) {
  const int64_t at = reinterpret_cast<unsigned char*>(barrier) - block_.shared_;
  if (at < 0 || at % 8 != 0 || at + 8 > block_.launch_.shared_bytes) fail("an mbarrier at byte " + std::to_string(at));
  if (arrivals < 1 || arrivals > kMostArrivals) fail("an mbarrier of " + std::to_string(arrivals) + " arrivals");
  if (barriers_.count(barrier) != 0) fail("an mbarrier that is initialised twice");
  Barrier& made = barriers_[barrier];
  made.arrivals = made.pending = arrivals;
}

void Hopper::barrier_publish() {
  for (auto& [address, barrier] : barriers_) barrier.published = true;
}

void Hopper::check_phase(Barrier& barrier) {
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.arrivals;
  for (int waiter : barrier.waiting) block_.threads_[waiter].parked = false;
  barrier.waiting.clear();
}

void Hopper::barrier_arrive(uint64_t* address, int bytes) {
  block_.yield();
  Barrier& barrier = known(address, "an arrival at");
  if (barrier.pending == 0) fail("more arrivals at an mbarrier than its phase takes");
  barrier.bytes += bytes;
  if (barrier.bytes > kMostArrivals) fail("an mbarrier that expects more than 2^20 - 1 bytes");
  --barrier.pending;
  check_phase(barrier);
}

void Hopper::barrier_wait(uint64_t* address, int parity) {
  if (parity != 0 && parity != 1) fail("a wait for parity " + std::to_string(parity));
  Barrier& barrier = known(address, "a wait at");
  while (static_cast<int>(barrier.phase & 1) == parity) {
    barrier.waiting.push_back(thread());
    block_.park();
  }
  block_.yield();
}

void Hopper::sync_some(int name, int threads) {
  if (name < 1 || name > 15 || threads % kLanes != 0) fail("a barrier of some threads needs a name of 1 to 15");
  Named& barrier = named_[name];
  if (barrier.waiting.empty()) barrier.threads = threads;
  if (barrier.threads != threads) fail("threads disagree about how many meet at a barrier");
  barrier.waiting.push_back(thread());
  if (static_cast<int>(barrier.waiting.size()) < threads) return block_.park();
  for (int waiter : barrier.waiting) block_.threads_[waiter].parked = false;
  barrier.waiting.clear();
  block_.yield();
}

// Boxes.

void Hopper::load_box(void* shared, const cuda::TensorMap& map, int column, int row, uint64_t* barrier) {
  const Copy copy{shape_of(map), column, row, static_cast<unsigned char*>(shared) - block_.shared_, barrier};
  const int64_t bytes = copy.shape.box_rows * kRowBytes;
  if (copy.at < 0 || copy.at % kSwizzleBytes != 0 || copy.at + bytes > block_.launch_.shared_bytes)
    fail("a box of " + std::to_string(bytes) + " bytes loaded to byte " + std::to_string(copy.at) + " of " +
         std::to_string(block_.launch_.shared_bytes) + " of shared memory");
  if (!known(barrier, "a load on").published) fail("a load on an mbarrier that was not published");
  // Whoever still reads what was there reads poison.
  std::memset(block_.shared_ + copy.at, 0xff, static_cast<std::size_t>(bytes));
  std::memset(image_.data() + copy.at, 0xff, static_cast<std::size_t>(bytes));
  if (early_) return load_now(copy);
  loads_.push_back(copy);
}

void Hopper::load_now(const Copy& copy) {
  const cuda::TensorShape& shape = copy.shape;
  const int columns = shape.box_columns();
  for (int r = 0; r < shape.box_rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      const int64_t row = int64_t{copy.row} + r, column = int64_t{copy.column} + c;
      const bool inside = row >= 0 && row < shape.rows && column >= 0 && column < shape.columns;
      const int64_t at = swizzled(copy.at + r * kRowBytes + c * shape.element_bytes);
      unsigned char element[4] = {};
      const int64_t from = (row * shape.stride + column) * shape.element_bytes;
      const auto bytes = static_cast<std::size_t>(shape.element_bytes);
      if (inside) std::memcpy(element, static_cast<const unsigned char*>(shape.data) + from, bytes);
      std::memcpy(block_.shared_ + at, element, bytes);
      std::memcpy(image_.data() + at, element, bytes);
    }
  }
  Barrier& barrier = barriers_.at(copy.barrier);
  barrier.bytes -= shape.box_rows * kRowBytes;
  check_phase(barrier);
}

void Hopper::store_box(const cuda::TensorMap& map, int column, int row, const void* shared) {
  const Copy copy{.shape = shape_of(map),
                  .column = column,
                  .row = row,
                  .at = static_cast<const unsigned char*>(shared) - block_.shared_,
                  .group = threads_[thread()].stores,
                  .thread = thread()};
  if (copy.at < 0 || copy.at % kSwizzleBytes != 0 ||
      copy.at + copy.shape.box_rows * kRowBytes > block_.launch_.shared_bytes)
    fail("a box stored from byte " + std::to_string(copy.at) + " of shared memory");
  if (early_) return store_now(copy);
  stores_.push_back(copy);
}

void Hopper::store_now(const Copy& copy) {
  const cuda::TensorShape& shape = copy.shape;
  for (int r = 0; r < shape.box_rows; ++r) {
    for (int c = 0; c < shape.box_columns(); ++c) {
      const int64_t row = int64_t{copy.row} + r, column = int64_t{copy.column} + c;
      if (row < 0 || row >= shape.rows || column < 0 || column >= shape.columns) continue;
      const int64_t at = swizzled(copy.at + r * kRowBytes + c * shape.element_bytes);
      unsigned char* const to = static_cast<unsigned char*>(const_cast<void*>(shape.data)) +
                                (row * shape.stride + column) * shape.element_bytes;
      std::memcpy(to, image_.data() + at, static_cast<std::size_t>(shape.element_bytes));
    }
  }
}

void Hopper::store_commit() { ++threads_[thread()].stores; }

void Hopper::store_wait(std::size_t pending) {
  const int64_t end = threads_[thread()].stores - static_cast<int64_t>(pending);
  for (auto copy = stores_.begin(); copy != stores_.end();) {
    if (copy->thread != thread() || copy->group >= end) {
      ++copy;
      continue;
    }
    store_now(*copy);
    copy = stores_.erase(copy);
  }
}

void Hopper::fence_async_proxy() { std::memcpy(image_.data(), block_.shared_, image_.size()); }

void Hopper::set_registers(int registers, bool more) {
  const int entry = 65536 / block_.launch_.threads / 8 * 8;
  if (more != (registers > entry)) fail("setmaxnreg in the wrong direction from " + std::to_string(entry));
  warps_[thread() / kLanes].registers = registers;
}

// wgmma. A warp makes its 16 rows; the four of a warpgroup must ask for the same.

uint32_t Hopper::address_of(const void* shared) const {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(shared) - block_.shared_);
}

void Hopper::wgmma_fence() { threads_[thread()].fenced = true; }

void Hopper::wgmma(void* sums, int count, uint64_t a, uint64_t b, bool keep, float (*widen)(uint16_t)) {
  const int number = thread() / kLanes;
  if (number / 4 * 4 + 4 > static_cast<int>(warps_.size())) fail("wgmma needs whole warpgroups");
  if (count % 4 != 0 || count < 4 || count > 128) fail("wgmma of " + std::to_string(count) + " sums a thread");
  if (!threads_[thread()].fenced) fail("wgmma without a fence since the sums were last free to be touched");
  Warp& warp = warps_[number];
  warp.lanes.resize(kLanes);
  warp.lanes[thread() % kLanes] = static_cast<unsigned char*>(sums);
  block_.meet(block_.warps_[number], Collective::wgmma, [&, number](Block::Warp&) {
    operand_at(a, 64);
    operand_at(b, count * 2);
    const Product product{warp.lanes[0], a, b, keep, widen};
    const auto [found, fresh] = warp.sums.try_emplace(product.key);
    Sums& held = found->second;
    const std::size_t bytes = static_cast<std::size_t>(count) * 4;
    if (fresh) {
      held.count = count;
      held.integer = widen == nullptr;
      held.values.resize(static_cast<std::size_t>(kLanes * count));
    }
    if (held.count != count || held.integer != (widen == nullptr)) fail("wgmma of two shapes on the same sums");
    const std::vector<uint32_t> poison(static_cast<std::size_t>(count), kPoison);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (fresh) {
        held.registers[lane] = warp.lanes[lane];
        std::memcpy(&held.values[static_cast<std::size_t>(lane * count)], warp.lanes[lane], bytes);
        std::memcpy(warp.lanes[lane], poison.data(), bytes);
      }
      if (held.registers[lane] != warp.lanes[lane] || held.restored[lane] ||
          std::memcmp(warp.lanes[lane], poison.data(), bytes) != 0)
        fail("sums of wgmma were touched while it was under way");
    }
    warp.products.push_back(product);
    held.last = static_cast<int64_t>(warp.products.size());
    check_same_products(number);
    if (early_) make_products(warp, held.last);
  });
}

void Hopper::check_same_products(int number) {
  const std::size_t newest = warps_[number].products.size() - 1;
  const Product& mine = warps_[number].products[newest];
  for (int w = number / 4 * 4; w < number / 4 * 4 + 4; ++w) {
    if (warps_[w].products.size() <= newest) continue;
    const Product& other = warps_[w].products[newest];
    if (mine.a != other.a || mine.b != other.b || mine.keep != other.keep)
      fail("the warps of a warpgroup issued different wgmma");
  }
}

void Hopper::wgmma_commit() {
  Thread& mine = threads_[thread()];
  mine.groups.push_back(static_cast<int64_t>(warps_[thread() / kLanes].products.size()));
}

void Hopper::wgmma_wait(std::size_t pending) {
  Thread& mine = threads_[thread()];
  if (mine.groups.size() <= pending) return;
  const int64_t end = mine.groups[mine.groups.size() - 1 - pending];
  mine.groups.erase(mine.groups.begin(), mine.groups.end() - static_cast<std::ptrdiff_t>(pending));
  Warp& warp = warps_[thread() / kLanes];
  make_products(warp, end);
  restore(warp, thread() % kLanes, end);
}

// Gives a lane the sums whose last product it has waited for.
void Hopper::restore(Warp& warp, int lane, int64_t waited) {
  for (auto entry = warp.sums.begin(); entry != warp.sums.end();) {
    Sums& held = entry->second;
    if (held.last <= waited && !held.restored[lane]) {
      std::memcpy(held.registers[lane], &held.values[static_cast<std::size_t>(lane * held.count)],
                  static_cast<std::size_t>(held.count) * 4);
      held.restored[lane] = true;
      threads_[thread()].fenced = false;
    }
    const bool free = std::all_of(held.restored.begin(), held.restored.end(), [](bool done) { return done; });
    entry = free ? warp.sums.erase(entry) : std::next(entry);
  }
}

void Hopper::make_products(Warp& warp, int64_t end) {
  const int number = static_cast<int>(&warp - warps_.data());
  for (; warp.made < end; ++warp.made) multiply(warp, number, warp.products[static_cast<std::size_t>(warp.made)]);
}

// Where an operand begins. Its rows are 128 bytes, swizzled.
int64_t Hopper::operand_at(uint64_t descriptor, int rows) const {
  const int64_t start = static_cast<int64_t>(descriptor & 0x3fff) << 4;
  const int64_t stride = static_cast<int64_t>(descriptor >> 32 & 0x3fff) << 4;
  const int swizzle = static_cast<int>(descriptor >> 62), offset = static_cast<int>(descriptor >> 49 & 7);
  if (swizzle != 1 || offset != 0) fail("a descriptor of wgmma with a swizzle other than 128 bytes");
  if (stride != kSwizzleBytes)
    fail("a descriptor of wgmma whose groups of rows are " + std::to_string(stride) + " bytes apart");
  if (start % kSwizzleBytes > 96) fail("an operand of wgmma that begins inside a group of rows");
  if (start / kSwizzleBytes * kSwizzleBytes + rows * kRowBytes > block_.launch_.shared_bytes)
    fail("an operand of wgmma that ends past shared memory");
  return start;
}

const unsigned char* Hopper::operand(int64_t start, int row, int byte) const {
  return image_.data() + swizzled(start + row * kRowBytes + byte);
}

void Hopper::multiply(Warp& warp, int number, const Product& product) {
  ++block_.counters_.wgmma;
  Sums& held = warp.sums.at(product.key);
  const int columns = held.count * 2, first = number % 4 * 16;
  const int64_t a_at = operand_at(product.a, 64), b_at = operand_at(product.b, columns);
  // Lane l holds rows l / 4 and 8 on, columns 2 (l % 4) and the next of every 8.
  const auto value = [&held](int row, int column) -> uint32_t& {
    const int lane = row % 8 * 4 + column % 8 / 2;
    return held.values[static_cast<std::size_t>(lane * held.count + column / 8 * 4 + row / 8 * 2 + column % 2)];
  };
  if (held.integer) {
    int32_t a[16][32];
    for (int r = 0; r < 16; ++r) {
      for (int k = 0; k < 32; ++k) a[r][k] = *operand(a_at, first + r, k);
    }
    for (int n = 0; n < columns; ++n) {
      int32_t b[32];
      for (int k = 0; k < 32; ++k) b[k] = static_cast<int8_t>(*operand(b_at, n, k));
      for (int r = 0; r < 16; ++r) {
        int32_t sum = 0;
        for (int k = 0; k < 32; ++k) sum += a[r][k] * b[k];
        uint32_t& target = value(r, n);
        target = (product.keep ? target : 0u) + static_cast<uint32_t>(sum);
      }
    }
    return;
  }
  const auto element = [&](int64_t at, int row, int k) {
    uint16_t bits;
    std::memcpy(&bits, operand(at, row, 2 * k), 2);
    return product.widen(bits);
  };
  float a[16][16];
  for (int r = 0; r < 16; ++r) {
    for (int k = 0; k < 16; ++k) a[r][k] = element(a_at, first + r, k);
  }
  for (int n = 0; n < columns; ++n) {
    float b[16];
    for (int k = 0; k < 16; ++k) b[k] = element(b_at, n, k);
    for (int r = 0; r < 16; ++r) {
      float sum = 0.0f;
      for (int k = 0; k < 16; ++k) sum += a[r][k] * b[k];
      uint32_t& target = value(r, n);
      if (product.keep) sum += __builtin_bit_cast(float, target);
      target = __builtin_bit_cast(uint32_t, sum);
    }
  }
}

}  // namespace fct::shim

namespace fct::cuda {

TensorMap tensor_map(const TensorShape& shape) {
  check_tensor(shape);
  TensorMap map{};
  static_assert(sizeof(shape) <= sizeof(map.bytes));
  std::memcpy(map.bytes, &shape, sizeof(shape));
  return map;
}

}  // namespace fct::cuda
