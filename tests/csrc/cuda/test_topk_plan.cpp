// Plans: what they choose and that they stay within bounds, on the facts of devices that are not here.
#include "cuda/topk/plan.hpp"

#include "check.hpp"
#include "core/error.hpp"
#include "cuda/topk/scratch.hpp"

using namespace fct::cuda;
using namespace fct::cuda::topk;
using fct::Dtype;
using fct::ShapeError;

namespace {

constexpr int64_t kLimit = int64_t{512} << 20;
constexpr DeviceFacts kH200{
    .compute = 90, .multiprocessors = 132, .shared_bytes = 227 << 10, .memory_bytes = int64_t{141} << 30};
constexpr DeviceFacts kA10{
    .compute = 86, .multiprocessors = 72, .shared_bytes = 99 << 10, .memory_bytes = int64_t{24} << 30};

Shape shape(int64_t queries, int64_t rows, int64_t cols, int64_t k, Dtype dtype = Dtype::f16) {
  return {.queries = queries,
          .rows = rows,
          .cols = cols,
          .k = k,
          .query_dtype = dtype,
          .gallery_dtype = dtype,
          .gallery_aligned = true,
          .coarse = true};
}

void check_paths() {
  const Plan fused = make_plan(shape(1024, 10'000'000, 128, 10), kH200, kLimit);
  CHECK(fused.path == Path::fused && !fused.packed && fused.rounded_sides == 0);
  // One wave of blocks that is nearly full, on either kernel.
  CHECK(fused.wgmma && fused.stripes * (1024 / FusedWgmmaTile<false>::kQueries) == 128);
  DeviceFacts other = kH200;
  other.compute = 100;  // what is compiled for sm_90a runs on 9.0 alone
  const Plan generic = make_plan(shape(1024, 10'000'000, 128, 10), other, kLimit);
  CHECK(generic.path == Path::fused && !generic.wgmma);
  CHECK(generic.stripes * (1024 / FusedTile::kQueries) >= 132);
  CHECK(make_plan(shape(1024, 10'000'000, 128, 128), kH200, kLimit).path == Path::fused);
  CHECK(make_plan(shape(1024, 10'000'000, 128, 129), kH200, kLimit).path == Path::tiled);
  CHECK(make_plan(shape(1024, 10'000'000, 1024, 10), kA10, kLimit).path == Path::tiled);
  CHECK(make_plan(shape(1, 10'000'000, 128, 10), kH200, kLimit).path == Path::tiled);
  // Queries of 512 dims fit the shared memory of one device and not of the other.
  CHECK(make_plan(shape(1024, 100'000, 512, 10), kH200, kLimit).path == Path::fused);
  CHECK(make_plan(shape(1024, 100'000, 512, 10), kA10, kLimit).path == Path::tiled);
  CHECK(make_plan(shape(1024, 100'000, 512, 10), kH200, kLimit).wgmma && !streams_queries(512));
  CHECK(make_plan(shape(1024, 100'000, 2000, 10), kH200, kLimit).wgmma && streams_queries(513));
  Shape exact = shape(1024, 100'000, 128, 10);
  exact.coarse = false;
  CHECK(make_plan(exact, kH200, kLimit).path == Path::exact);
}

void check_operands() {
  Shape mixed = shape(10, 1000, 64, 10, Dtype::bf16);
  CHECK(make_plan(mixed, kH200, kLimit).operand == Dtype::bf16);
  mixed.query_dtype = Dtype::f32;
  const Plan packed = make_plan(mixed, kH200, kLimit);
  CHECK(packed.operand == Dtype::f16 && packed.packed && packed.rounded_sides == 2);
  Shape odd = shape(10, 1000, 63, 10);
  odd.gallery_aligned = false;
  CHECK(make_plan(odd, kH200, kLimit).packed);
  CHECK(make_plan(odd, kH200, kLimit).rounded_sides == 0);
  Shape bytes = shape(1024, 10'000'000, 256, 100);
  bytes.bytes = true;
  const Plan in_bytes = make_plan(bytes, kA10, kLimit);
  CHECK(in_bytes.bytes && in_bytes.packed && in_bytes.path == Path::fused);  // in 16 bits the queries would not fit
  CHECK(in_bytes.kept == 448);
  CHECK(in_bytes.describe().find("topk fused, int8 packed, keeps 448") == 0);
  bytes.cols = 66'312;
  CHECK_THROWS(make_plan(bytes, kH200, kLimit), ShapeError);
}

// Whatever is asked: pieces are whole tiles, launches and shared memory fit, scratch stays under the limit.
void check_bounds() {
  for (const DeviceFacts& device : {kH200, kA10}) {
    for (int64_t queries : {0, 1, 7, 128, 1000, 100'000}) {
      for (int64_t rows : {int64_t{0}, int64_t{1}, int64_t{129}, int64_t{65'537}, int64_t{4'000'000'000}}) {
        for (int64_t cols : {1, 128, 1000, 4096}) {
          for (int64_t k : {1, 100, 2048}) {
            for (int scores : {0, 1, 2}) {
              Shape asked = shape(queries, rows, cols, k, Dtype::f32);
              const bool coarse = asked.coarse = scores > 0;
              asked.bytes = scores == 2;
              const Plan plan = make_plan(asked, device, kLimit);
              CHECK(plan.scratch_bytes <= kLimit);
              CHECK(plan.scratch_bytes == place_scratch(plan, cols, k, nullptr).bytes);
              CHECK(plan.exact_query_block >= 1 && plan.exact_chunk_rows >= 128 && plan.exact_stripes >= 1);
              CHECK(plan.exact_chunk_rows % 128 == 0);
              CHECK(FinishBlock::shared_bytes(8192) <= device.shared_bytes);
              CHECK(SelectBlock::shared_bytes(static_cast<int>(kept_for(k, true))) <= device.shared_bytes);
              if (!coarse) continue;
              CHECK(plan.kept >= k + 16 && plan.kept + k <= 8192);
              CHECK(plan.query_block >= 1 && plan.chunk_rows >= 128 && plan.chunk_rows % 128 == 0);
              CHECK(plan.stripes >= 1 && plan.query_block * plan.stripes < (int64_t{1} << 31));
              CHECK(plan.wgmma == (plan.path == Path::fused && !plan.bytes && fits_wgmma(device)));
              if (plan.path != Path::fused) continue;
              using Resident = FusedWgmmaTile<false>;
              using Streamed = FusedWgmmaTile<true>;
              const int64_t on_wgmma = streams_queries(cols) ? Streamed::shared_bytes(cols, Streamed::stages(cols))
                                                             : Resident::shared_bytes(cols, Resident::stages(cols));
              CHECK(Streamed::stages(cols) == 3);
              const int64_t shared = plan.wgmma ? on_wgmma : FusedTile::shared_bytes(operand_cols_of(plan, cols));
              CHECK(shared <= device.shared_bytes);
            }
          }
        }
      }
    }
  }
  // A smaller limit shrinks the pieces, down to the smallest, and says what that needs.
  int64_t before = kLimit;
  for (int64_t limit = kLimit; limit >= 1; limit /= 8) {
    const Plan plan = make_plan(shape(1000, 1'000'000, 128, 100), kH200, limit);
    CHECK(plan.scratch_bytes <= before);
    before = plan.scratch_bytes;
  }
  CHECK(before < (int64_t{2} << 20));
}

void check_errors() {
  CHECK_THROWS(make_plan(shape(1, 10, 0, 1), kH200, kLimit), ShapeError);
  CHECK_THROWS(make_plan(shape(1, 10, 4, 0), kH200, kLimit), ShapeError);
  CHECK_THROWS(make_plan(shape(1, 10'000, 4, 2049), kH200, kLimit), ShapeError);
  CHECK_THROWS(make_plan(shape(1, int64_t{1} << 32, 4, 1), kH200, kLimit), ShapeError);
}

void check_text() {
  const std::string text = make_plan(shape(1024, 10'000'000, 128, 10), kH200, kLimit).describe();
  CHECK(text.find("topk fused on wgmma, fp16 in place, keeps 32, 1024 queries x 1048576 rows in 16 stripes") == 0);
  CHECK(make_plan(shape(1, 100, 128, 2048), kH200, kLimit).describe().size() < 250);
}

}  // namespace

int main() {
  check_paths();
  check_operands();
  check_bounds();
  check_errors();
  check_text();
  return 0;
}
