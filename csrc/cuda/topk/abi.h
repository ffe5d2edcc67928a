/* C ABI of the search, beside cuda/abi.h, whose conventions hold: codes, errors, streams. */
#ifndef FCT_CUDA_TOPK_ABI_H_
#define FCT_CUDA_TOPK_ABI_H_

#include "cuda/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FCT_CUDA_COSINE = 0, FCT_CUDA_INNER_PRODUCT = 1, FCT_CUDA_L2 = 2 };

/* What scores choose the rows that are scored in float32; the answer is the same. int8: not for l2. */
enum { FCT_CUDA_FLOAT_SCORES = 0, FCT_CUDA_HALF_SCORES = 1, FCT_CUDA_BYTE_SCORES = 2 };

/* Pointers of the device. */
typedef struct {
  FctCudaRows queries; /* [query_rows, cols] */
  FctCudaRows gallery; /* [gallery_rows, cols] */
  int64_t query_rows;
  int64_t gallery_rows;
  int64_t cols;
  int64_t k;
  int64_t first_id; /* id of the gallery's first row */
  float* scores;    /* [query_rows, k]; best first */
  int64_t* ids;     /* [query_rows, k] */
  int32_t metric;
  int32_t coarse; /* FCT_CUDA_HALF_SCORES or another of those */
  int32_t seeded; /* scores and ids hold a finished result over rows of lower ids, which is carried on */
  int32_t device;
  int64_t scratch_limit; /* bytes of device memory that the call may take beside its arrays */
  void* stream;
  int64_t scratch_bytes; /* out: what it took; less than planned where memory ran short */
  int64_t unproved;      /* out: queries that coarse scores could not decide */
  /* Polled on the calling thread, which then stays a few pieces of the gallery ahead of the device; ends the call where
   * it does not return 0. May be null. */
  int32_t (*stop)(void* context);
  void* stop_context;
} FctCudaTopkCall;

/* Queues the search on the stream. With coarse scores it waits for the stream once a block of 1024 queries, to read
 * how many of them have to be scored in float32 throughout. */
FCT_CUDA_EXPORT int32_t fct_cuda_topk(FctCudaTopkCall* call, FctCudaError* error);

/* The plan of such a call in words, at most `size` bytes with the final zero; arrays are not looked at, but for their
 * dtypes, strides and alignment. */
FCT_CUDA_EXPORT int32_t fct_cuda_topk_plan(const FctCudaTopkCall* call, char* text, int64_t size, FctCudaError* error);

#ifdef __cplusplus
}
#endif
#endif
