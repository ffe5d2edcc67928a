// wgmma: a warpgroup multiplies [64, depth] by [N, depth]^T, both in shared memory, sums in its registers;
// asynchronous.
//
// An operand is rows of 128 bytes of depth as tensor_load leaves them (tensor_map.hpp), at a multiple of 1024 plus the
// bytes of depth that lie before. Sums of row r, column n are held by thread 32 (r / 16) + 4 (r % 8) + n % 8 / 2 of the
// warpgroup, at place n / 8 * 4 + r % 16 / 8 * 2 + n % 2 (PTX ISA, "Matrix Fragments for wgmma.mma_async.m64nNk16").
//
//   wgmma_fence(sums);                                              registers are as wgmma expects them
//   for (...) wgmma(Half{}, sums, a, b, keep);                      sums = a b^T, or += where keep is set
//   wgmma_commit();                                                 closes a group
//   wgmma_wait<0>(sums);                                            until at most 0 groups are under way
//
// Between the fence and the wait sums may not be touched, nor the operands change. Warps wait each for their own part:
// one lane of every warp, not one of the warpgroup, tells the producer that a stage was read. The shim makes products
// at a random moment in between, and poisons the sums until they were waited for.
#pragma once

#include "cuda/simt/mbarrier.hpp"
#include "cuda/simt/numbers.hpp"

namespace fct::cuda {

// Elements of depth that one wgmma takes: 32 bytes.
template <typename Element>
constexpr int kWgmmaDepth = 32 / static_cast<int>(sizeof(Element));

// Where sum `i` of this thread lies in the warpgroup's [64, N].
FCT_DEVICE int wgmma_row(int i) { return warp_index() % 4 * 16 + lane_index() / 4 + i / 2 % 2 * 8; }
FCT_DEVICE int wgmma_column(int i) { return i / 4 * 8 + lane_index() % 4 * 2 + i % 2; }

// Of an operand that begins at an address of shared memory (18 bits, in units of 16): rows of 128 bytes, groups of
// eight rows 1024 bytes apart (bits 32 to 45, in units of 16), swizzle of 128 bytes (bits 62 and 63).
FCT_DEVICE uint64_t wgmma_descriptor_at(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffffu) >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}
// The same operand `bytes` of depth on, at most 96.
FCT_DEVICE uint64_t wgmma_advance(uint64_t descriptor, int bytes) {
  return descriptor + static_cast<uint64_t>(bytes >> 4);
}

#if defined(__CUDACC__)

FCT_DEVICE uint64_t wgmma_descriptor(const void* shared) { return wgmma_descriptor_at(shared_address(shared)); }

// Keeps the compiler from moving what it does with the sums.
template <int kSums>
FCT_DEVICE void hold_registers(float (&sums)[kSums]) {
  FCT_UNROLL
  for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
}
template <int kSums>
FCT_DEVICE void hold_registers(int32_t (&sums)[kSums]) {
  FCT_UNROLL
  for (int32_t& sum : sums) asm volatile("" : "+r"(sum)::"memory");
}

template <typename... Sums>
FCT_DEVICE void wgmma_fence(Sums&... sums) {
  (hold_registers(sums), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
FCT_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending, typename... Sums>
FCT_DEVICE void wgmma_wait(Sums&... sums) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
  (hold_registers(sums), ...);
}

// Registers %0 to %31, %63, %127, and the sums that they are.
#define FCT_REGISTERS_32                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FCT_REGISTERS_64                                                               \
  FCT_REGISTERS_32                                                                     \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FCT_REGISTERS_128                                                                        \
  FCT_REGISTERS_64                                                                               \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "           \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FCT_SUMS_8(kind, i)                                                                                     \
  kind(sums[i]), kind(sums[i + 1]), kind(sums[i + 2]), kind(sums[i + 3]), kind(sums[i + 4]), kind(sums[i + 5]), \
      kind(sums[i + 6]), kind(sums[i + 7])
#define FCT_SUMS_32(kind, i) \
  FCT_SUMS_8(kind, i), FCT_SUMS_8(kind, i + 8), FCT_SUMS_8(kind, i + 16), FCT_SUMS_8(kind, i + 24)
#define FCT_SUMS_64(kind, i) FCT_SUMS_32(kind, i), FCT_SUMS_32(kind, i + 32)
#define FCT_SUMS_128(kind, i) FCT_SUMS_64(kind, i), FCT_SUMS_64(kind, i + 64)

// `count` sums a thread; a, b and keep are the operands behind them.
#define FCT_WGMMA(count, shape, a_place, b_place, keep_place, tail, kind)                                       \
  asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, " keep_place ", 0;\nwgmma.mma_async.sync.aligned." shape \
               " {" FCT_REGISTERS_##count "}, " a_place ", " b_place ", keep" tail ";\n}"                       \
               : FCT_SUMS_##count(kind, 0)                                                                      \
               : "l"(a), "l"(b), "r"(static_cast<int>(keep)))
#define FCT_WGMMA_SIZES(type, depth, tail, kind)                              \
  if constexpr (kSums == 32) {                                                \
    FCT_WGMMA(32, "m64n64" depth type, "%32", "%33", "%34", tail, kind);      \
  } else if constexpr (kSums == 64) {                                         \
    FCT_WGMMA(64, "m64n128" depth type, "%64", "%65", "%66", tail, kind);     \
  } else {                                                                    \
    static_assert(kSums == 128, "N is 64, 128 or 256");                       \
    FCT_WGMMA(128, "m64n256" depth type, "%128", "%129", "%130", tail, kind); \
  }

template <int kSums>
FCT_DEVICE void wgmma(Half, float (&sums)[kSums], uint64_t a, uint64_t b, bool keep) {
  FCT_WGMMA_SIZES(".f32.f16.f16", "k16", ", 1, 1, 0, 0", "+f");
}
template <int kSums>
FCT_DEVICE void wgmma(Bfloat, float (&sums)[kSums], uint64_t a, uint64_t b, bool keep) {
  FCT_WGMMA_SIZES(".f32.bf16.bf16", "k16", ", 1, 1, 0, 0", "+f");
}
// Unsigned bytes times signed ones; sums that leave int32 wrap.
template <int kSums>
FCT_DEVICE void wgmma(uint8_t, int32_t (&sums)[kSums], uint64_t a, uint64_t b, bool keep) {
  FCT_WGMMA_SIZES(".s32.u8.s8", "k32", "", "+r");
}
#undef FCT_WGMMA_SIZES
#undef FCT_WGMMA
#undef FCT_SUMS_128
#undef FCT_SUMS_64
#undef FCT_SUMS_32
#undef FCT_SUMS_8
#undef FCT_REGISTERS_128
#undef FCT_REGISTERS_64
#undef FCT_REGISTERS_32

#else

FCT_DEVICE uint64_t wgmma_descriptor(const void* shared) {
  return wgmma_descriptor_at(shim::current().hopper().address_of(shared));
}
template <typename... Sums>
FCT_DEVICE void wgmma_fence(Sums&...) {
  shim::current().hopper().wgmma_fence();
}
FCT_DEVICE void wgmma_commit() { shim::current().hopper().wgmma_commit(); }
template <int kPending, typename... Sums>
FCT_DEVICE void wgmma_wait(Sums&...) {
  shim::current().hopper().wgmma_wait(kPending);
}
template <int kSums>
FCT_DEVICE void wgmma(Half, float (&sums)[kSums], uint64_t a, uint64_t b, bool keep) {
  shim::current().hopper().wgmma(sums, kSums, a, b, keep, float_from_half);
}
template <int kSums>
FCT_DEVICE void wgmma(Bfloat, float (&sums)[kSums], uint64_t a, uint64_t b, bool keep) {
  shim::current().hopper().wgmma(sums, kSums, a, b, keep, float_from_bfloat);
}
template <int kSums>
FCT_DEVICE void wgmma(uint8_t, int32_t (&sums)[kSums], uint64_t a, uint64_t b, bool keep) {
  shim::current().hopper().wgmma(sums, kSums, a, b, keep, nullptr);
}

#endif

}  // namespace fct::cuda
