// Selection alone, on keys that are made to be hard: equal digits, equal scores, lists and gatherings that overflow.
#include "topk_support.hpp"

using namespace fct::cuda;
using namespace fct::cuda::topk;
using namespace fct::cuda::topk::testing;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

uint32_t g_seed = 1;

// Runs a body on one warp or block, with the keys in shared memory.
template <typename Body>
void run_block(int threads, int64_t shared_bytes, Body body) {
  fct::shim::launch({.blocks = 1, .threads = threads, .shared_bytes = shared_bytes, .seed = g_seed++}, body);
}

std::vector<Key> random_keys(int64_t count, int score_values, std::mt19937& random) {
  std::vector<Key> keys;
  for (int64_t i = 0; i < count; ++i) {
    keys.push_back(
        key_of(static_cast<float>(random() % static_cast<uint32_t>(score_values)), static_cast<uint32_t>(i)));
  }
  std::shuffle(keys.begin(), keys.end(), random);
  return keys;
}

void check_sorts() {
  std::mt19937 random(3);
  for (int round = 0; round < 20; ++round) {
    std::vector<Key> keys = random_keys(32, 1 + round, random);
    std::vector<Key> sorted(32);
    run_block(32, 16, [&](unsigned char*) { sorted[lane_index()] = sort_warp(keys[lane_index()]); });
    std::sort(keys.begin(), keys.end(), std::greater<>());
    CHECK(sorted == keys);
  }
  for (int count : {1, 2, 32, 256, 1024}) {
    std::vector<Key> keys = random_keys(count, 1 + count / 3, random);
    std::vector<Key> sorted = keys;
    run_block(FinishBlock::kThreads, 16, [&](unsigned char*) { sort_block(sorted.data(), count); });
    std::sort(keys.begin(), keys.end(), std::greater<>());
    CHECK(sorted == keys);
  }
}

// The list after any number of merges is the best `kept` of all keys that were offered.
void check_merge() {
  std::mt19937 random(5);
  for (int kept : {1, 5, 31, 32, 33, 64, 100, 160}) {
    std::vector<Key> all;
    std::vector<Key> list(kept, kNoKey);
    const std::vector<Key> offered = random_keys(12 * 32, 40, random);
    for (int round = 0; round < 12; ++round) {
      const int count = round == 0 ? 1 : 1 + static_cast<int>(random() % 32);
      std::vector<Key> fresh(offered.begin() + round * 32, offered.begin() + round * 32 + count);
      all.insert(all.end(), fresh.begin(), fresh.end());
      std::vector<Key> last(32);
      run_block(32, 32 * 8, [&](unsigned char* shared) {
        Key* const buffer = reinterpret_cast<Key*>(shared);
        if (lane_index() < count) buffer[lane_index()] = fresh[lane_index()];
        last[lane_index()] = merge_buffer(list.data(), kept, buffer, count);
      });
      std::sort(all.begin(), all.end(), std::greater<>());
      for (int i = 0; i < kept; ++i) CHECK(list[i] == (i < static_cast<int>(all.size()) ? all[i] : kNoKey));
      for (Key key : last) CHECK(key == list[kept - 1]);
    }
  }
}

// Tiles of scores one after the other, against a sort of all of them.
void check_select(int kept, int64_t stripes, const std::vector<std::vector<float>>& tiles, float floor,
                  int64_t first = 0) {
  const std::size_t lists_size = static_cast<std::size_t>(stripes * kept);
  std::vector<Key> lists(lists_size, kNoKey), pivots(static_cast<std::size_t>(stripes), kNoKey), all;
  const QueryFacts facts{1.0, 0.0, 1.0f, floor, 1};
  ShimDevice device(g_seed++);
  for (const std::vector<float>& tile : tiles) {
    const int64_t width = static_cast<int64_t>(tile.size());
    SelectArgs args{};
    args.queries = 1;
    args.stripes = stripes;
    args.kept = kept;
    args.scores = tile.data();
    args.score_stride = width;
    args.width = width;
    args.first_ordinal = static_cast<uint32_t>(first);
    args.query_facts = std::isnan(floor) ? nullptr : &facts;
    args.lists = lists.data();
    args.pivots = pivots.data();
    device.launch<SelectKernel<true>>(stripes, SelectBlock::shared_bytes(kept), args);
    for (int64_t i = 0; i < width; ++i) {
      if (!(tile[i] < floor)) all.push_back(key_of(tile[i], static_cast<uint32_t>(first + i)));
    }
    first += width;
  }
  std::vector<Key> merged(static_cast<std::size_t>(kept), kNoKey);
  Key pivot = kNoKey;
  SelectArgs args{};
  args.queries = 1;
  args.stripes = 1;
  args.kept = kept;
  args.width = stripes * kept;
  args.keys = lists.data();
  args.lists = merged.data();
  args.pivots = &pivot;
  device.launch<SelectKernel<false>>(1, SelectBlock::shared_bytes(kept), args);
  std::sort(all.begin(), all.end(), std::greater<>());
  std::sort(merged.begin(), merged.end(), std::greater<>());
  for (int i = 0; i < kept; ++i) CHECK(merged[i] == (i < static_cast<int>(all.size()) ? all[i] : kNoKey));
  // What was not kept is below the pivot, which is what a proof rests on: exactly the list's last key.
  CHECK(pivot == (static_cast<int>(all.size()) < kept ? kNoKey : merged[kept - 1]));
}

void check_selects() {
  std::mt19937 random(7);
  const auto tile_of = [&](int64_t width, auto value) {
    std::vector<float> tile;
    for (int64_t i = 0; i < width; ++i) tile.push_back(value(i));
    return tile;
  };
  const auto normal = [&](int64_t) { return std::normal_distribution<float>()(random); };
  const auto coarse = [&](int64_t) { return static_cast<float>(random() % 4); };
  const auto equal = [](int64_t) { return 1.0f; };
  const auto close = [&](int64_t) {
    return 1.0f + 0x1p-23f * static_cast<float>(random() % 5000);
  };  // low digits decide
  const auto broken = [&](int64_t i) { return i % 3 ? kNan : std::normal_distribution<float>()(random); };
  for (int kept : {1, 7, 32, 160}) {
    for (int64_t stripes : {1, 3}) {
      check_select(kept, stripes, {tile_of(500, normal), tile_of(500, normal), tile_of(20, normal)}, kNan);
      check_select(kept, stripes, {tile_of(500, coarse), tile_of(500, coarse)}, kNan);
      check_select(kept, stripes, {tile_of(300, equal), tile_of(300, equal)}, kNan);
      check_select(kept, stripes, {tile_of(600, close), tile_of(100, close)}, kNan);
      check_select(kept, stripes, {tile_of(200, broken), tile_of(200, broken)}, kNan);
      check_select(kept, stripes, {tile_of(500, normal), tile_of(500, normal)}, 1.0f);  // a floor
      check_select(kept, stripes, {tile_of(5, normal), tile_of(1, normal)}, kNan);      // fewer than kept, mostly
    }
  }
  // The last ordinals that there are.
  check_select(32, 3, {tile_of(600, coarse), tile_of(394, coarse)}, kNan, (int64_t{1} << 32) - 2 - 994);
  // More that pass than can be gathered, on the first tile and on a later one that beats all before.
  check_select(2304, 1, {tile_of(5000, normal), tile_of(5000, [&](int64_t i) { return 10.0f + normal(i); })}, kNan);
  check_select(100, 1, {tile_of(6000, equal), tile_of(100, normal)}, kNan);
  check_select(100, 1, {tile_of(SelectBlock::kGathered, normal)}, kNan);  // and just as many as can
}

}  // namespace

int main() {
  check_sorts();
  check_merge();
  check_selects();
  return 0;
}
