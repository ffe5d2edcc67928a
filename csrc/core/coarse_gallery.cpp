#include "core/coarse_gallery.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/aligned_buffer.hpp"
#include "core/error.hpp"

namespace fct {
namespace {

constexpr float kLargest = 127.0f;
constexpr int64_t kMostDim = 66311;  // cpu/kernel_table.hpp: where int32 sums end
constexpr double kRoundUp = 1.0 + 1e-9;

int64_t quads_of(int64_t dim) { return (dim + 3) / 4; }
int64_t blocks_of(int64_t rows) { return (rows + kCoarseBlockRows - 1) / kCoarseBlockRows; }

// Where the parts lie, in bytes.
struct Layout {
  Layout(int64_t rows, int64_t dim) {
    const int64_t columns = panels_of(rows) * kPanelWidth;
    scale_at = up(blocks_of(rows) * static_cast<int64_t>(sizeof(CoarseBlock)));
    bias_at = scale_at + up(columns * 4);
    panels_at = bias_at + up(columns * 4);
    size = panels_at + columns * 4 * quads_of(dim);
  }
  static int64_t up(int64_t bytes) { return (bytes + 63) / 64 * 64; }

  int64_t scale_at, bias_at, panels_at, size;
};

// Half to even, for |x| < 2^22; written so that any compiler vectorises it.
float rounded(float x) {
  constexpr float kShift = 12582912.0f;
  return (x + kShift) - kShift;
}

class Packer {
 public:
  Packer(CpuLevel level, const MatrixView& gallery, Metric metric, unsigned char* target)
      : kernels_(kernels_of(level)),
        gallery_(gallery),
        metric_(metric),
        quads_(quads_of(gallery.cols)),
        blocks_(reinterpret_cast<CoarseBlock*>(target)) {
    const Layout layout(gallery.rows, gallery.cols);
    scale_ = reinterpret_cast<float*>(target + layout.scale_at);
    bias_ = reinterpret_cast<float*>(target + layout.bias_at);
    panels_ = reinterpret_cast<int8_t*>(target + layout.panels_at);
  }

  void pack_block(int64_t block) {
    AlignedBuffer<float> rows;
    AlignedBuffer<unsigned char> bytes;
    double norm = 0.0, residual = 0.0;
    const int64_t last = std::min((block + 1) * kCoarseBlockRows, gallery_.rows);
    for (int64_t r = block * kCoarseBlockRows; r < last; r += kPanelWidth) {
      const RowLoss loss = pack_panel(r, std::min(kPanelWidth, last - r), rows, bytes);
      norm = std::max(norm, loss.norm);
      residual = std::max(residual, loss.residual);
    }
    const auto above = [](double x) {
      return std::nextafter(static_cast<float>(x), std::numeric_limits<float>::infinity());
    };
    blocks_[block] = {above(norm), above(residual)};
  }

 private:
  RowLoss pack_panel(int64_t first, int64_t count, AlignedBuffer<float>& rows, AlignedBuffer<unsigned char>& bytes) {
    const int64_t dim = gallery_.cols, depth = 4 * quads_, stride = padded_stride(dim);
    float* const x = rows.reserve(static_cast<std::size_t>(kPanelWidth * stride));
    unsigned char* const q = bytes.reserve(static_cast<std::size_t>(kPanelWidth * depth));
    load_rows(kernels_, gallery_, metric_, first, count, x, stride);
    std::memset(q, 0, static_cast<std::size_t>(kPanelWidth * depth));
    RowLoss worst{0.0, 0.0};
    for (int64_t c = 0; c < kPanelWidth; ++c) {
      float scale = 0.0f, bias = 0.0f;
      if (c < count) {
        const float* const row = x + c * stride;
        unsigned char* const row_q = q + c * depth;
        scale = quantize_row(row, dim, quads_, 0, row_q);
        const RowLoss loss = loss_of(row, dim, scale, 0, row_q);
        // The comparison is turned so that NaN is kept, as infinity.
        worst.norm = loss.norm <= std::numeric_limits<float>::max() ? std::max(worst.norm, loss.norm)
                                                                    : std::numeric_limits<double>::infinity();
        worst.residual = std::max(worst.residual, loss.residual);
        int32_t sum = 0;
        for (int64_t k = 0; k < dim; ++k) sum += static_cast<int8_t>(row_q[k]);
        bias = static_cast<float>(-128.0 * scale * sum);
      }
      scale_[first + c] = scale;
      bias_[first + c] = bias;
    }
    int8_t* const panel = panels_ + first * depth;
    for (int64_t k = 0; k < quads_; ++k) {
      for (int64_t c = 0; c < kPanelWidth; ++c)
        std::memcpy(panel + (k * kPanelWidth + c) * 4, q + c * depth + 4 * k, 4);
    }
    return worst;
  }

  const KernelTable& kernels_;
  const MatrixView& gallery_;
  const Metric metric_;
  const int64_t quads_;
  CoarseBlock* const blocks_;
  float* scale_;
  float* bias_;
  int8_t* panels_;
};

}  // namespace

int64_t coarse_size(int64_t rows, int64_t dim) { return Layout(rows, dim).size; }

float quantize_row(const float* x, int64_t dim, int64_t quads, int offset, unsigned char* q) {
  float largest = 0.0f;
  bool finite = true;
  for (int64_t k = 0; k < dim; ++k) {
    largest = std::max(largest, std::fabs(x[k]));
    finite = finite && std::fabs(x[k]) <= std::numeric_limits<float>::max();
  }
  const float scale = largest / kLargest;
  const float inverse = 1.0f / scale;
  const float zero = static_cast<float>(offset);
  const bool sound = finite && std::isfinite(inverse);  // infinite where scale is zero or nearly so
  if (sound) {
    for (int64_t k = 0; k < dim; ++k) {
      const float value = std::clamp(rounded(x[k] * inverse), -kLargest, kLargest);
      q[k] = static_cast<unsigned char>(static_cast<int>(value + zero));
    }
  } else {
    std::memset(q, offset, static_cast<std::size_t>(dim));
  }
  std::memset(q + dim, offset, static_cast<std::size_t>(4 * quads - dim));
  return sound ? scale : 0.0f;
}

RowLoss loss_of(const float* x, int64_t dim, float scale, int offset, const unsigned char* q) {
  double squares = 0.0, lost = 0.0;
  for (int64_t k = 0; k < dim; ++k) {
    const int value = offset == 0 ? static_cast<int8_t>(q[k]) : q[k] - offset;
    const double difference = x[k] - static_cast<double>(scale) * value;
    squares += static_cast<double>(x[k]) * x[k];
    lost += difference * difference;
  }
  return {std::sqrt(squares) * kRoundUp, std::sqrt(lost) * kRoundUp};
}

void pack_coarse(CpuLevel level, const MatrixView& gallery, Metric metric, unsigned char* target, int threads,
                 const StopFn& stop) {
  if (metric == Metric::l2) throw ShapeError("int8 scores are of inner products; l2 distances need precision 'fp32'");
  if (gallery.cols < 1 || gallery.cols > kMostDim) throw ShapeError("int8 scores need rows of 1 to 66311 values");
  Packer packer(level, gallery, metric, target);
  parallel_for(blocks_of(gallery.rows), threads, [&](int64_t block, int) { packer.pack_block(block); }, stop);
}

CoarseGallery view_coarse(const unsigned char* bytes, int64_t rows, int64_t dim) {
  const Layout layout(rows, dim);
  CoarseGallery view{.rows = rows,
                     .dim = dim,
                     .quads = quads_of(dim),
                     .blocks = reinterpret_cast<const CoarseBlock*>(bytes),
                     .scale = reinterpret_cast<const float*>(bytes + layout.scale_at),
                     .bias = reinterpret_cast<const float*>(bytes + layout.bias_at),
                     .panels = reinterpret_cast<const int8_t*>(bytes + layout.panels_at),
                     .sound = true};
  for (int64_t b = 0; b < blocks_of(rows); ++b) view.sound = view.sound && view.blocks[b].norm < kLongestRow;
  return view;
}

}  // namespace fct
