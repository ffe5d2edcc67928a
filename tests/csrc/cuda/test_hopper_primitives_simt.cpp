// The primitives of Hopper on the shim: products and boxes against plain loops, and that the shim sees each mistake
// that a kernel on them can make.
#include <cstring>
#include <string>

#include "check.hpp"
#include "cuda/simt/hopper.hpp"

using namespace fct::cuda;
using fct::shim::Fault;
using fct::shim::launch;

namespace {

template <typename T>
struct Matrix {
  Matrix(int64_t row_count, int64_t column_count, uint32_t seed) : rows(row_count), columns(column_count) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    data.resize(static_cast<std::size_t>(rows * columns));
    for (T& x : data) {
      if constexpr (sizeof(T) == 1) {
        x = static_cast<T>(random());
      } else {
        x = narrowed<T>(normal(random));
      }
    }
  }
  double at(int64_t r, int64_t c) const {
    const T x = data[static_cast<std::size_t>(r * columns + c)];
    if constexpr (sizeof(T) == 1) {
      return x;
    } else {
      return widen(x);
    }
  }
  TensorMap map(int box_rows) const {
    return tensor_map({data.data(), rows, columns, columns, static_cast<int>(sizeof(T)), box_rows});
  }
  int64_t rows, columns;
  std::vector<T> data;
};

template <typename A, typename B>
double product(const Matrix<A>& a, const Matrix<B>& b, int64_t r, int64_t n) {
  double sum = 0;
  for (int64_t k = 0; k < a.columns; ++k) sum += a.at(r, k) * b.at(n, k);
  return sum;
}

template <typename Element>
struct Types {
  using Weight = Element;
  using Sum = float;
};
template <>
struct Types<uint8_t> {
  using Weight = int8_t;
  using Sum = int32_t;
};

// What a kernel can get wrong.
enum class Mistake {
  none,
  producer_waits_for_parity_0,  // of stages that are free from the start
  wrong_full_parity,
  no_full_wait,
  no_empty_wait,
  swapped_stage,
  too_few_bytes,
  no_publish,
  no_fence,
  no_commit,
  no_wait,
  release_before_wait,
  first_warp_releases,  // for its warpgroup, whose other warps may still read
  wrong_descriptor_stride,
  no_swizzle,
  wrong_depth,
  wrong_columns,
  one_warp_less,
  no_store_fence,
  no_store_barrier,
  no_store_wait
};

constexpr int kStages = 2, kStepBytes = 128;

// y = a b^T: a producer warp, two consumer warpgroups of 64 rows each, a ring of stages, results stored as boxes. One
// block walks the tiles of 128 rows; each has all columns.
template <typename Element, int kColumns>
class Ring {
 public:
  using Weight = typename Types<Element>::Weight;
  using Sum = typename Types<Element>::Sum;
  static constexpr int kStageBytes = (128 + kColumns) * kStepBytes;
  static constexpr int kOutBytes = 64 * kStepBytes;  // of a warpgroup: 32 sums of 64 rows
  static constexpr int kBarriersAt = kStages * kStageBytes + 2 * kOutBytes;
  static constexpr int kSharedBytes = kBarriersAt + 2 * kStages * 8;
  static constexpr int kThreads = 3 * kWarpgroupThreads;
  static constexpr int kStepElements = kStepBytes / static_cast<int>(sizeof(Element));

  Ring(int64_t rows, int64_t depth, Mistake mistake)
      : a_(rows, depth, 1), b_(kColumns, depth, 2), mistake_(mistake), y_(static_cast<std::size_t>(rows * kColumns)) {}

  // What is wrong with the result.
  std::string run(uint32_t seed) {
    std::memset(y_.data(), 0xff, y_.size() * 4);
    const TensorMap a = a_.map(128), b = b_.map(kColumns);
    const TensorMap y = tensor_map({y_.data(), a_.rows, kColumns, kColumns, 4, 64});
    try {
      launch({.blocks = 1, .threads = kThreads, .shared_bytes = kSharedBytes, .seed = seed},
             [&](unsigned char* shared) { body(shared, a, b, y); });
    } catch (const Fault& fault) {
      return fault.what();
    }
    for (int64_t r = 0; r < a_.rows; ++r) {
      for (int64_t n = 0; n < kColumns; ++n) {
        const double got = static_cast<double>(y_[static_cast<std::size_t>(r * kColumns + n)]);
        const double bound = sizeof(Element) == 1 ? 0 : 1e-4;
        if (!(std::fabs(got - product(a_, b_, r, n)) <= bound)) return "wrong result";
      }
    }
    return "";
  }

 private:
  bool is(Mistake mistake) const { return mistake == mistake_; }
  int steps() const { return static_cast<int>((a_.columns + kStepElements - 1) / kStepElements); }
  int tiles() const { return static_cast<int>((a_.rows + 127) / 128); }

  void body(unsigned char* shared, const TensorMap& a, const TensorMap& b, const TensorMap& y) const {
    Mbarrier* const full = reinterpret_cast<Mbarrier*>(shared + kBarriersAt);
    Mbarrier* const empty = full + kStages;
    if (thread_index() == 0) {
      for (int s = 0; s < kStages; ++s) {
        mbarrier_init(full + s, 1);
        mbarrier_init(empty + s, is(Mistake::first_warp_releases) ? 2 : 8);
      }
      if (!is(Mistake::no_publish)) mbarrier_publish();
    }
    sync_block();
    const int warpgroup = warp_index() / 4;
    if (warpgroup == 0) {
      give_registers<40>();
      if (thread_index() == 0) produce(shared, full, empty, a, b);
    } else {
      take_registers<232>();
      consume(shared, full, empty, y, warpgroup - 1);
    }
  }

  void produce(unsigned char* shared, Mbarrier* full, Mbarrier* empty, const TensorMap& a, const TensorMap& b) const {
    int count = 0;
    for (int tile = 0; tile < tiles(); ++tile) {
      for (int step = 0; step < steps(); ++step, ++count) {
        const int stage = count % kStages;
        const int parity = count / kStages & 1;
        if (!is(Mistake::no_empty_wait))
          mbarrier_wait(empty + stage, is(Mistake::producer_waits_for_parity_0) ? parity : parity ^ 1);
        mbarrier_arrive_expect(full + stage, is(Mistake::too_few_bytes) ? kStageBytes - 128 : kStageBytes);
        unsigned char* const target = shared + stage * kStageBytes;
        tensor_load(target, a, step * kStepElements, tile * 128, full + stage);
        tensor_load(target + 128 * kStepBytes, b, step * kStepElements, 0, full + stage);
      }
    }
  }

  void consume(unsigned char* shared, Mbarrier* full, Mbarrier* empty, const TensorMap& y, int consumer) const {
    unsigned char* const out = shared + kStages * kStageBytes + consumer * kOutBytes;
    const int thread = thread_index() % kWarpgroupThreads;
    int count = 0;
    for (int tile = 0; tile < tiles(); ++tile) {
      Sum sums[kColumns / 2];
      for (int step = 0; step < steps(); ++step, ++count) {
        const int stage = count % kStages;
        const int parity = count / kStages & 1;
        if (!is(Mistake::no_full_wait))
          mbarrier_wait(full + stage, is(Mistake::wrong_full_parity) ? parity ^ 1 : parity);
        const unsigned char* const from =
            shared + (is(Mistake::swapped_stage) ? (stage + 1) % kStages : stage) * kStageBytes;
        const bool releases = is(Mistake::first_warp_releases) ? thread == 0 : lane_index() == 0;
        if (is(Mistake::release_before_wait) && releases) mbarrier_arrive(empty + stage);
        multiply(sums, from, consumer, step > 0);
        if (!is(Mistake::release_before_wait) && releases) mbarrier_arrive(empty + stage);
      }
      store(sums, out, y, tile * 128 + consumer * 64, consumer);
    }
    if (thread == 0 && !is(Mistake::no_store_wait)) tensor_store_wait_all();
  }

  void multiply(Sum (&sums)[kColumns / 2], const unsigned char* stage, int consumer, bool keep) const {
    if (is(Mistake::one_warp_less) && warp_index() == 5) return;
    uint64_t a = wgmma_descriptor(stage + consumer * 64 * kStepBytes);
    uint64_t b = wgmma_descriptor(stage + 128 * kStepBytes);
    if (is(Mistake::wrong_descriptor_stride)) b ^= uint64_t{192} << 32;  // 128 instead of 64
    if (is(Mistake::no_swizzle)) b &= ~(uint64_t{3} << 62);
    if (!is(Mistake::no_fence)) wgmma_fence(sums);
    for (int i = 0; i < 4; ++i) {
      const int bytes = is(Mistake::wrong_depth) ? 32 * (i ^ 1) : 32 * i;
      wgmma(Element{}, sums, wgmma_advance(a, 32 * i), wgmma_advance(b, bytes), keep || i > 0);
    }
    if (!is(Mistake::no_commit)) wgmma_commit();
    if (!is(Mistake::no_wait)) wgmma_wait<0>(sums);
  }

  // In slices of 32 columns.
  void store(Sum (&sums)[kColumns / 2], unsigned char* out, const TensorMap& y, int row, int consumer) const {
    const int thread = thread_index() % kWarpgroupThreads;
    for (int slice = 0; slice < kColumns / 32; ++slice) {
      if (thread == 0 && !is(Mistake::no_store_wait)) tensor_store_wait_read<0>();
      sync_some(1 + consumer, kWarpgroupThreads);
      for (int i = slice * 16; i < slice * 16 + 16; ++i) {
        const int r = wgmma_row(i);
        const int c = (is(Mistake::wrong_columns) ? wgmma_column(i) ^ 2 : wgmma_column(i)) - slice * 32;
        std::memcpy(out + r * kStepBytes + (c / 4 ^ r % 8) * 16 + c % 4 * 4, &sums[i], 4);
      }
      if (!is(Mistake::no_store_fence)) fence_async_proxy();
      if (!is(Mistake::no_store_barrier)) sync_some(1 + consumer, kWarpgroupThreads);
      if (thread != 0) continue;
      tensor_store(y, slice * 32, row, out);
      tensor_store_commit();
    }
  }

  const Matrix<Element> a_;
  const Matrix<Weight> b_;
  const Mistake mistake_;
  std::vector<Sum> y_;
};

template <typename Element, int kColumns>
void check_ring(int64_t rows, int64_t depth) {
  Ring<Element, kColumns> ring(rows, depth, Mistake::none);
  for (uint32_t seed = 0; seed < 3; ++seed) {
    const std::string wrong = ring.run(seed);
    if (!wrong.empty()) std::fprintf(stderr, "%d columns, seed %u: %s\n", kColumns, seed, wrong.c_str());
    CHECK(wrong.empty());
  }
}

// In how many of 9 runs a mistake is found, and what the last that was found said.
struct Found {
  int runs = 0;
  std::string what;
};
Found found(Mistake mistake) {
  Found result;
  Ring<Half, 32> ring(200, 304, mistake);
  for (uint32_t seed = 0; seed < 9; ++seed) {
    const std::string wrong = ring.run(seed);
    if (wrong.empty()) continue;
    ++result.runs;
    result.what = wrong;
  }
  return result;
}

void check_mistake(Mistake mistake, int least, const char* says) {
  const Found result = found(mistake);
  if (result.runs < least || result.what.find(says) == std::string::npos) {
    std::fprintf(stderr, "mistake %d: found in %d of 9 runs, last: %s\n", static_cast<int>(mistake), result.runs,
                 result.what.c_str());
    std::exit(1);
  }
}

void check_what_the_shim_sees() {
  CHECK(found(Mistake::none).runs == 0);
  check_mistake(Mistake::producer_waits_for_parity_0, 9, "deadlock");
  check_mistake(Mistake::wrong_full_parity, 9, "");
  check_mistake(Mistake::no_full_wait, 7, "");
  check_mistake(Mistake::no_empty_wait, 7, "");
  check_mistake(Mistake::swapped_stage, 9, "");
  check_mistake(Mistake::too_few_bytes, 9, "deadlock");
  check_mistake(Mistake::no_publish, 9, "not published");
  check_mistake(Mistake::no_fence, 9, "wgmma without a fence");
  check_mistake(Mistake::no_commit, 9, "");
  check_mistake(Mistake::no_wait, 9, "");
  check_mistake(Mistake::release_before_wait, 3, "wrong result");
  check_mistake(Mistake::first_warp_releases, 6, "");
  check_mistake(Mistake::wrong_descriptor_stride, 9, "groups of rows are 2048 bytes apart");
  check_mistake(Mistake::no_swizzle, 9, "swizzle other than 128 bytes");
  check_mistake(Mistake::wrong_depth, 9, "wrong result");
  check_mistake(Mistake::wrong_columns, 9, "wrong result");
  check_mistake(Mistake::one_warp_less, 9, "different");
  check_mistake(Mistake::no_store_fence, 9, "wrong result");
  check_mistake(Mistake::no_store_barrier, 3, "wrong result");
  check_mistake(Mistake::no_store_wait, 6, "");
}

std::string fault_of(int64_t shared_bytes, const fct::shim::Body& body) {
  try {
    launch({.blocks = 1, .threads = 128, .shared_bytes = shared_bytes, .seed = 1}, body);
  } catch (const Fault& fault) {
    return fault.what();
  }
  return "";
}

void check_refusals() {
  const auto says = [](const std::string& fault, const char* start) {
    if (fault.rfind(start, 0) != 0) std::fprintf(stderr, "said: %s\n", fault.c_str());
    return fault.rfind(start, 0) == 0;
  };
  const Matrix<Half> matrix(64, 64, 1);
  const TensorMap map = matrix.map(64);
  const auto first = [](auto work) {
    return [work](unsigned char* shared) {
      if (thread_index() == 0) work(shared, reinterpret_cast<Mbarrier*>(shared + 8192));
    };
  };
  CHECK(says(fault_of(8200, first([](unsigned char*, Mbarrier* barrier) { mbarrier_arrive(barrier); })),
             "an arrival at an mbarrier that was never initialised"));
  CHECK(says(fault_of(8200, first([](unsigned char*, Mbarrier* barrier) {
                        mbarrier_init(barrier, 1);
                        mbarrier_wait(barrier, 0);
                      })),
             "deadlock: 1 threads"));
  CHECK(says(fault_of(8200, first([&](unsigned char* shared, Mbarrier* barrier) {
                        mbarrier_init(barrier, 1);
                        mbarrier_publish();
                        tensor_load(shared + 512, map, 0, 0, barrier);
                      })),
             "a box of 8192 bytes loaded to byte 512"));
  CHECK(says(fault_of(8200, first([&](unsigned char*, Mbarrier* barrier) {
                        mbarrier_init(barrier, 1);
                        mbarrier_arrive_expect(barrier, 8);
                        mbarrier_arrive(barrier);
                      })),
             "more arrivals at an mbarrier"));
  CHECK(says(fault_of(0, [](unsigned char*) { sync_some(1, thread_index() < 32 ? 64 : 128); }), "threads disagree"));
  CHECK(says(fault_of(0, [](unsigned char*) { give_registers<240>(); }), ""));
  CHECK(says(fault_of(0, [](unsigned char*) { take_registers<240>(); }), "setmaxnreg in the wrong direction"));
  // An operand that ends past shared memory, and sums that were touched.
  CHECK(says(fault_of(16384,
                      [](unsigned char* shared) {
                        float sums[64];
                        wgmma_fence(sums);
                        wgmma(Half{}, sums, wgmma_descriptor(shared), wgmma_descriptor(shared + 8192), false);
                      }),
             "an operand of wgmma that ends past shared memory"));
  CHECK(says(fault_of(16384,
                      [](unsigned char* shared) {
                        float sums[32];
                        const uint64_t operand = wgmma_descriptor(shared);
                        wgmma_fence(sums);
                        wgmma(Half{}, sums, operand, operand, false);
                        sums[lane_index()] = 0;
                        wgmma(Half{}, sums, operand, operand, true);
                      }),
             "sums of wgmma were touched while it was under way"));
  for (const TensorShape& shape :
       {TensorShape{matrix.data.data() + 1, 8, 8, 8, 2, 8}, TensorShape{matrix.data.data(), 0, 8, 8, 2, 8},
        TensorShape{matrix.data.data(), 8, 8, 9, 2, 8}, TensorShape{matrix.data.data(), 8, 8, 8, 2, 264},
        TensorShape{matrix.data.data(), 8, 8, 8, 8, 8}}) {
    CHECK_THROWS(tensor_map(shape), fct::ShapeError);
  }
}

// A box that hangs over every edge: zeros inside, nothing written outside.
void check_edges() {
  std::vector<float> source(10 * 12), target(10 * 12, -1.0f);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<float>(i) + 1;
  const TensorMap from = tensor_map({source.data(), 10, 11, 12, 4, 16});
  const TensorMap to = tensor_map({target.data(), 10, 11, 12, 4, 16});
  for (uint32_t seed = 0; seed < 6; ++seed) {
    std::fill(target.begin(), target.end(), -1.0f);
    launch({.blocks = 1, .threads = 32, .shared_bytes = 2056, .seed = seed}, [&](unsigned char* shared) {
      Mbarrier* const barrier = reinterpret_cast<Mbarrier*>(shared + 2048);
      if (thread_index() != 0) return;
      mbarrier_init(barrier, 1);
      mbarrier_publish();
      mbarrier_arrive_expect(barrier, 2048);
      tensor_load(shared, from, 4, -3, barrier);
      mbarrier_wait(barrier, 0);
      for (int r = 0; r < 16; ++r) {
        for (int c = 0; c < 32; ++c) {
          float got;
          std::memcpy(&got, shared + r * 128 + (c / 4 ^ r % 8) * 16 + c % 4 * 4, 4);
          const int row = r - 3, column = c + 4;
          const bool inside = row >= 0 && row < 10 && column < 11;
          CHECK(got == (inside ? source[static_cast<std::size_t>(row * 12 + column)] : 0.0f));
        }
      }
      tensor_store(to, 4, -3, shared);
      tensor_store_commit();
      tensor_store_wait_all();
    });
    for (int i = 0; i < 120; ++i) {
      const bool inside = i % 12 >= 4 && i % 12 < 11;
      CHECK(target[static_cast<std::size_t>(i)] == (inside ? source[static_cast<std::size_t>(i)] : -1.0f));
    }
  }
}

}  // namespace

int main() {
  check_ring<Half, 256>(130, 72);
  check_ring<Bfloat, 128>(64, 200);
  check_ring<Half, 64>(300, 8);
  check_ring<uint8_t, 128>(140, 400);
  check_ring<uint8_t, 32>(5, 16);
  check_edges();
  check_refusals();
  check_what_the_shim_sees();
  return 0;
}
