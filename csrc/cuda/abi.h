/* C ABI of the CUDA library: what the Python module calls through dlsym. Plain C, and no C++ type or exception crosses.
 * Every function returns a code below and, where it is not FCT_CUDA_OK, fills `error`. */
#ifndef FCT_CUDA_ABI_H_
#define FCT_CUDA_ABI_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised by every change of a struct or function here; the module refuses a library of another number. */
#define FCT_CUDA_ABI_VERSION 4

#define FCT_CUDA_EXPORT __attribute__((visibility("default")))

enum {
  FCT_CUDA_OK = 0,
  FCT_CUDA_SHAPE = 1,    /* arguments that do not fit together */
  FCT_CUDA_DEVICE = 2,   /* no driver, no usable device, memory of another device, out of memory, a CUDA error */
  FCT_CUDA_INTERNAL = 3, /* a C++ exception that should not be */
  FCT_CUDA_DTYPE = 4,    /* alignment or layout that is not accepted */
  FCT_CUDA_STOPPED = 5   /* the caller's stop function asked for it; what the call was to write is undefined */
};

typedef struct {
  int32_t cuda_error; /* cudaError_t, 0 where it was not CUDA */
  char message[508];
} FctCudaError;

typedef struct {
  int32_t device;
  int32_t compute; /* capability, 90 for 9.0 */
  int32_t multiprocessors;
  int32_t reserved;
  int64_t shared_bytes; /* of a block, at most */
  int64_t memory_bytes;
  char name[64];
} FctCudaDevice;

FCT_CUDA_EXPORT int32_t fct_cuda_abi_version(void);

/* How many devices the driver shows. FCT_CUDA_DEVICE with a sentence where there is no driver, one that is too old, or
 * no device. */
FCT_CUDA_EXPORT int32_t fct_cuda_device_count(int32_t* count, FctCudaError* error);

/* Facts of a device. FCT_CUDA_DEVICE where it does not exist or is too old for the kernels. */
FCT_CUDA_EXPORT int32_t fct_cuda_device(int32_t device, FctCudaDevice* facts, FctCudaError* error);

/* A linear layer with or without ReLU, in float32 on the host: weight [out_dim, in_dim], bias [out_dim]. In int8,
 * scales folded in (fct_fast/kernels/int8.py), a layer that reads bytes has `quantized` [out_dim, in_dim] and `scale`
 * [out_dim] instead of `weight`, and any but the last may write bytes. */
typedef struct {
  const float* weight;
  const float* bias;
  int64_t in_dim;
  int64_t out_dim;
  int32_t relu;
  int32_t narrow;          /* writes bytes; 0 but in int8 */
  const int8_t* quantized; /* null but in int8 */
  const float* scale;      /* null but in int8 */
} FctCudaLayer;

typedef struct {
  int64_t old_dim;
  int64_t side_dim;
  int64_t new_dim;
  int32_t normalize;
  int32_t uncertainty;
  int32_t precision; /* fct::Dtype: 0 float32, 1 float16, 2 bfloat16; or 3, int8 */
  int32_t branches;
  const int32_t* branch_reads_side; /* [branches] */
  const int32_t* branch_layers;     /* [branches]: how many */
  int64_t trunk_layers;
  const FctCudaLayer* layers; /* of the branches, in order, then of the trunk */
} FctCudaTransform;

typedef struct FctCudaUpgrade FctCudaUpgrade;

/* Packs the transform and copies it to the device. */
FCT_CUDA_EXPORT int32_t fct_cuda_upgrade_create(const FctCudaTransform* transform, int32_t device,
                                                FctCudaUpgrade** upgrade, FctCudaError* error);
FCT_CUDA_EXPORT void fct_cuda_upgrade_destroy(FctCudaUpgrade* upgrade);

/* Rows with contiguous columns. */
typedef struct {
  void* data;
  int64_t row_stride; /* in elements */
  int32_t dtype;      /* fct::Dtype */
  int32_t reserved;
} FctCudaRows;

typedef struct {
  FctCudaRows old_rows;
  FctCudaRows side; /* data null where h has none */
  FctCudaRows out;
  float* uncertainty;    /* [rows] or null */
  unsigned char* status; /* [rows]: fct::RowStatus */
  int64_t rows;
  int64_t scratch_limit; /* bytes of device memory that a chunk may take, inputs and outputs of a host call included */
  void* stream;          /* cudaStream_t of the device; null is its default stream */
  int64_t like_rows;     /* kernels are chosen as for so many rows; 0: as for `rows`. Where it stays the same, a row's
                            bits do not depend on the call */
  int64_t planned_chunk_rows; /* out */
  int64_t chunk_rows;         /* out: rows of a chunk; less than planned where memory ran short */
  /* Of a call on host arrays: polled on the calling thread at least every few milliseconds, ends the call where it
   * does not return 0. May be null. */
  int32_t (*stop)(void* context);
  void* stop_context;
  int32_t threads; /* of the CPU, which casts and copies to and from pinned memory */
  int32_t reserved;
} FctCudaUpgradeCall;

/* Pointers of the device; returns when the work is queued on the stream. Safe to call from several threads. */
FCT_CUDA_EXPORT int32_t fct_cuda_upgrade_run(const FctCudaUpgrade* upgrade, FctCudaUpgradeCall* call,
                                             FctCudaError* error);

/* Pointers of the host; returns when the rows are there. `stream` is not looked at: copies in, kernels and copies out
 * overlap on streams of its own. Rows in pinned memory are read and written in place where no cast is needed. Safe to
 * call from several threads. */
FCT_CUDA_EXPORT int32_t fct_cuda_upgrade_run_host(FctCudaUpgrade* upgrade, FctCudaUpgradeCall* call,
                                                  FctCudaError* error);

/* The name of the kernel family that runs for so many rows: within one, on devices of one compute capability, a row's
 * bits depend on the row and the transform alone. */
FCT_CUDA_EXPORT int32_t fct_cuda_upgrade_family(const FctCudaUpgrade* upgrade, int64_t rows, char* text, int64_t size,
                                                FctCudaError* error);

/* The plan of such a call in words, at most `size` bytes with the final zero. */
FCT_CUDA_EXPORT int32_t fct_cuda_upgrade_plan(const FctCudaUpgrade* upgrade, int64_t rows, int64_t scratch_limit,
                                              char* text, int64_t size, FctCudaError* error);

#ifdef __cplusplus
}
#endif
#endif
