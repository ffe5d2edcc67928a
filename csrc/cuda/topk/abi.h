/* C ABI of the search on a GPU. Plain C: the Python module calls it through dlsym, and no C++ type crosses. */
#ifndef FCT_CUDA_TOPK_ABI_H_
#define FCT_CUDA_TOPK_ABI_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised by every change of a struct or function here. */
#define FCT_CUDA_TOPK_ABI_VERSION 1

enum { FCT_CUDA_TOPK_OK = 0, FCT_CUDA_TOPK_SHAPE = 1, FCT_CUDA_TOPK_DEVICE = 2, FCT_CUDA_TOPK_INTERNAL = 3 };
enum { FCT_CUDA_TOPK_COSINE = 0, FCT_CUDA_TOPK_IP = 1, FCT_CUDA_TOPK_L2 = 2 };

/* Rows in memory of the device; columns contiguous. */
typedef struct {
  const void* data;
  int32_t dtype; /* fct::Dtype: 0 float32, 1 float16, 2 bfloat16 */
  int32_t reserved;
  int64_t rows;
  int64_t cols;
  int64_t row_stride; /* in elements */
} FctCudaTopkRows;

typedef struct {
  FctCudaTopkRows queries;
  FctCudaTopkRows gallery;
  int32_t metric;
  int32_t coarse; /* 0: float32 throughout; 1: 16-bit scores first. The answer is the same. */
  int64_t k;
  int64_t first_id; /* id of the gallery's first row */
  int32_t seeded;   /* scores and ids hold a finished result over rows of lower ids, which is carried on */
  int32_t device;
  float* scores; /* [queries, k]; best first */
  int64_t* ids;  /* [queries, k] */
  void* scratch; /* fct_cuda_topk_plan's scratch_bytes, at a multiple of 256 */
  int64_t scratch_limit;
  void* stream; /* cudaStream_t of that device; null is the default stream */
} FctCudaTopkCall;

typedef struct {
  int64_t scratch_bytes;
  char text[256]; /* the plan, in words */
} FctCudaTopkPlan;

typedef struct {
  int32_t cuda_error; /* cudaError_t, 0 where it was not CUDA */
  char message[252];
} FctCudaTopkError;

/* What the call would run and need; needs its shapes, dtypes, alignment, device and scratch_limit. */
__attribute__((visibility("default"))) int32_t fct_cuda_topk_plan(const FctCudaTopkCall* call, FctCudaTopkPlan* plan,
                                                                  FctCudaTopkError* error);

/* Runs it on the stream. Waits for the stream once a block of 1024 queries, where `coarse`, to read how many results
 * are not proved yet: `unproved`, which may be null, counts them. Results are complete when the stream is. */
__attribute__((visibility("default"))) int32_t fct_cuda_topk(const FctCudaTopkCall* call, int64_t* unproved,
                                                             FctCudaTopkError* error);

#ifdef __cplusplus
}
#endif
#endif
