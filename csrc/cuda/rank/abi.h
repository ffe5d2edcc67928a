/* C ABI of full-ranking evaluation, beside cuda/abi.h, whose conventions hold: codes, errors, streams. */
#ifndef FCT_CUDA_RANK_ABI_H_
#define FCT_CUDA_RANK_ABI_H_

#include "cuda/abi.h"
#include "cuda/topk/abi.h" /* metrics */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  FctCudaRows queries; /* [query_rows, cols], on the device */
  FctCudaRows gallery; /* [gallery_rows, cols], on the device */
  int64_t query_rows;
  int64_t gallery_rows; /* below 2^32 - 1 */
  int64_t cols;
  /* Of the host, as fct::Positives says, and checked by the caller: kernels index with them. */
  const int64_t* query_classes; /* [query_rows] */
  const int64_t* class_starts;  /* [classes + 1] */
  const int64_t* class_rows;    /* [gallery_rows] */
  /* Of the host, out, as fct::RankResult says. */
  int64_t* first_rank;       /* [query_rows] */
  double* average_precision; /* [query_rows] */
  int64_t* positives;        /* [query_rows] */
  int32_t metric;
  int32_t exclude_self;
  int32_t device;
  int32_t reserved;
  int64_t scratch_limit; /* bytes of device memory that the call may take beside its arrays */
  void* stream;
  /* Polled on the calling thread after each chunk of scores; ends the call where it does not return 0. May be null. */
  int32_t (*stop)(void* context);
  void* stop_context;
  int64_t scratch_bytes; /* out: what it took; less than planned where memory ran short */
} FctCudaRankCall;

/* Returns when the results are there. */
FCT_CUDA_EXPORT int32_t fct_cuda_rank(FctCudaRankCall* call, FctCudaError* error);

#ifdef __cplusplus
}
#endif
#endif
