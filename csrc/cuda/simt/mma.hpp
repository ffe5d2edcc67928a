// Tensor cores as of sm_80: ldmatrix, mma.sync m16n8k16 with float32 sums, m16n8k32 of bytes with int32 sums.
//
// Fragments, with g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
//   A [16, 16] row-major   a[i] holds rows g + 8 (i % 2), columns 2t + 8 (i / 2) and the next
//   B [16, 8]  as W [8, 16] row-major   b[i] holds row g of W, columns 2t + 8 i and the next
//   C [16, 8]              c[i] holds row g + 8 (i / 2), column 2t + i % 2
// m16n8k32 lies the same in bytes ("... for mma.m16n8k32"): where a register above holds two elements, columns 2t and
// the next, it holds four, columns 4t to 4t + 3, and 8 columns become 16. So ldmatrix serves both.
#pragma once

#include "cuda/simt/base.hpp"
#include "cuda/simt/numbers.hpp"

namespace fct::cuda {

#if defined(__CUDACC__)

// Four 8 x 8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, 16 bytes in shared
// memory; fragment i holds row lane / 4 of matrix i, columns 2 (lane % 4) and the next.
FCT_DEVICE void load_matrix_x4(uint32_t (&fragment)[4], const void* shared_row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(address)
               : "memory");
}

#define FCT_MMA_16816(type)                                                           \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

// c += a b
FCT_DEVICE void mma_16816(Half, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  FCT_MMA_16816("f16");
}
FCT_DEVICE void mma_16816(Bfloat, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  FCT_MMA_16816("bf16");
}
#undef FCT_MMA_16816

#define FCT_MMA_16832(type)                                                              \
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." type                             \
               ".s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                          \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

// c += a b, unsigned bytes times signed ones. Sums that leave int32 wrap: the caller bounds the depth.
FCT_DEVICE void mma_16832(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { FCT_MMA_16832("u8"); }
// c += a b, signed bytes on both sides: m16n8k32, which has the shape of m16n8k16 on pairs.
FCT_DEVICE void mma_16816(BytePair, int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  FCT_MMA_16832("s8");
}
#undef FCT_MMA_16832

#else

FCT_DEVICE void load_matrix_x4(uint32_t (&fragment)[4], const void* shared_row) {
  shim::current().load_matrix_x4(fragment, shared_row);
}
FCT_DEVICE void mma_16816(Half, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  shim::current().mma_16816(c, a, b0, b1, float_from_half);
}
FCT_DEVICE void mma_16816(Bfloat, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  shim::current().mma_16816(c, a, b0, b1, float_from_bfloat);
}
FCT_DEVICE void mma_16832(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  shim::current().mma_16832(c, a, b0, b1, false);
}
FCT_DEVICE void mma_16816(BytePair, int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  shim::current().mma_16832(c, a, b0, b1, true);
}

#endif

}  // namespace fct::cuda
