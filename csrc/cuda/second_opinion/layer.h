/* One layer by CUTLASS: a second opinion on what the kernels of csrc/cuda/upgrade compute, and on how fast a layer can
 * be on Hopper. Built with -DFCT_CUTLASS=ON for the GPU suite alone (benchmarks/gpu/second_opinion.py); no wheel has
 * it.
 */
#ifndef FCT_CUDA_SECOND_OPINION_LAYER_H_
#define FCT_CUDA_SECOND_OPINION_LAYER_H_

#include <stdint.h>

#include "cuda/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = x weight' + bias, then ReLU that keeps NaN where `relu`; float32 sums. Pointers of the device at multiples of 16
 * bytes, elements of `dtype`, bias in float32. Dims and strides are multiples of 8 elements. */
typedef struct {
  const void* x;      /* [rows, in_dim] */
  const void* weight; /* [out_dim, in_dim] */
  const void* bias;   /* [out_dim] */
  void* y;            /* [rows, out_dim] */
  int64_t x_stride;   /* in elements */
  int64_t y_stride;
  int64_t rows;
  int32_t in_dim;
  int32_t out_dim;
  int32_t dtype; /* fct::Dtype: 1 float16, 2 bfloat16 */
  int32_t relu;
  int32_t device; /* the current one */
  int32_t reserved;
  void* stream;
} FctSecondLayer;

/* Queues the layer on the stream. */
FCT_CUDA_EXPORT int32_t fct_second_opinion_layer(const FctSecondLayer* layer, FctCudaError* error);

#ifdef __cplusplus
}
#endif
#endif
