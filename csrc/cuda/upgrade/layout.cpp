#include "cuda/upgrade/layout.hpp"

#include <cmath>
#include <cstring>

#include "core/error.hpp"
#include "core/half.hpp"
#include "cpu/kernel_table.hpp"
#include "cuda/upgrade/args.hpp"

namespace fct::cuda {
namespace {

constexpr int64_t kMaxDim = int64_t{1} << 20;
constexpr int64_t kMaxBytesDepth = INT32_MAX / (255 * 127);  // int32 holds every sum
constexpr int64_t kAlignment = 256;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

const char* name_of(Dtype precision) {
  return precision == Dtype::f32 ? "float32" : precision == Dtype::f16 ? "float16" : "bfloat16";
}

int64_t checked_width(const std::string& where, int64_t width, const LayerSource& layer) {
  if (layer.in_dim < 1 || layer.out_dim < 1 || layer.in_dim > kMaxDim || layer.out_dim > kMaxDim) {
    throw ShapeError("a " + where + " layer maps " + std::to_string(layer.in_dim) + " values to " +
                     std::to_string(layer.out_dim) + "; the kernels take 1 to " + std::to_string(kMaxDim));
  }
  if (layer.in_dim != width) {
    throw ShapeError("a " + where + " layer reads " + std::to_string(layer.in_dim) + " values but is given " +
                     std::to_string(width));
  }
  return layer.out_dim;
}

// Whether the next layer is given bytes.
bool checked_bytes(const std::string& where, bool given, const LayerSource& layer) {
  const bool reads = layer.quantized != nullptr;
  if (reads != given || reads != (layer.scale != nullptr)) {
    throw ShapeError("a " + where + " layer reads " + (reads ? "bytes" : "float32") + " but is given " +
                     (given ? "bytes" : "float32") + ", or lacks its scales");
  }
  if (reads && layer.in_dim > kMaxBytesDepth) {
    throw ShapeError("a " + where + " layer reads " + std::to_string(layer.in_dim) + " values; int8 sums take up to " +
                     std::to_string(kMaxBytesDepth));
  }
  return layer.narrow;
}

// Runs of kDepthRun columns end inside a layer's depth so often.
int64_t cuts_of(int64_t in_dim) { return (in_dim - 1) / kDepthRun; }

// Places layers one after the other in the block.
class Placer {
 public:
  explicit Placer(TransformLayout& layout) : layout_(layout) {}

  LayerLayout place(int32_t depth, const LayerSource& source) {
    LayerLayout layer{.depth = depth, .columns = layout_.padded(source.out_dim, source.narrow), .relu = source.relu};
    layer.reads_bytes = source.quantized != nullptr;
    layer.writes_bytes = source.narrow;
    layer.weight_at = take(int64_t{layer.columns} * depth * layout_.element_bytes(layer.reads_bytes));
    layer.bias_at = take(int64_t{layer.columns} * 4);
    if (layer.reads_bytes) {
      layer.scale_at = take(int64_t{layer.columns} * 4);
    } else if (layout_.int8) {
      layer.cuts_at = take((cuts_of(source.in_dim) + 1) * 4);
    }
    return layer;
  }

 private:
  int64_t take(int64_t bytes) {
    const int64_t at = layout_.bytes;
    layout_.bytes += aligned(bytes);
    return at;
  }

  TransformLayout& layout_;
};

// Where each true column of a layer's input lies among the padded ones: runs of columns, one a branch.
struct Run {
  int64_t from;
  int64_t to;
  int64_t count;
};

class Packer {
 public:
  Packer(const TransformLayout& layout, unsigned char* target) : layout_(layout), target_(target) {}

  void layer(const LayerSource& source, const LayerLayout& layer, const std::vector<Run>& runs) {
    std::memcpy(target_ + layer.bias_at, source.bias, static_cast<std::size_t>(source.out_dim) * 4);
    if (layer.reads_bytes) {
      std::memcpy(target_ + layer.scale_at, source.scale, static_cast<std::size_t>(source.out_dim) * 4);
    } else if (layout_.int8) {
      write_cuts(layer, runs);
    }
    for (int64_t o = 0; o < source.out_dim; ++o) {
      for (const Run& run : runs) {
        if (layer.reads_bytes) {
          std::memcpy(target_ + layer.weight_at + o * layer.depth + run.to,
                      source.quantized + o * source.in_dim + run.from, static_cast<std::size_t>(run.count));
          continue;
        }
        for (int64_t i = 0; i < run.count; ++i) {
          write(layer.weight_at, o * layer.depth + run.to + i, source.weight[o * source.in_dim + run.from + i]);
        }
      }
    }
  }

 private:
  // Where columns 128, 256, ... lie in the padded depth.
  void write_cuts(const LayerLayout& layer, const std::vector<Run>& runs) {
    std::vector<int32_t> cuts;
    for (const Run& run : runs) {
      for (int64_t i = 0; i < run.count; ++i) {
        if (run.from + i > 0 && (run.from + i) % kDepthRun == 0) cuts.push_back(static_cast<int32_t>(run.to + i));
      }
    }
    cuts.push_back(kNoCut);
    std::memcpy(target_ + layer.cuts_at, cuts.data(), cuts.size() * 4);
  }

  void write(int64_t at, int64_t index, float value) {
    unsigned char* const place = target_ + at + index * size_of(layout_.precision);
    if (layout_.precision == Dtype::f32) {
      std::memcpy(place, &value, 4);
      return;
    }
    const bool half = layout_.precision == Dtype::f16;
    const uint16_t bits = half ? half_from_float(value) : bfloat_from_float(value);
    const float rounded = half ? float_from_half(bits) : float_from_bfloat(bits);
    if (std::isfinite(value) && !std::isfinite(rounded)) {
      throw ShapeError("a weight of " + std::to_string(value) + " is too large for " +
                       std::string(name_of(layout_.precision)) + "; use precision 'fp32'");
    }
    std::memcpy(place, &bits, 2);
  }

  const TransformLayout& layout_;
  unsigned char* const target_;
};

}  // namespace

TransformLayout layout_of(const TransformSource& source, Dtype precision) {
  const bool int8 = source.precision == Precision::int8;
  TransformLayout layout{.precision = int8 ? Dtype::f32 : precision,
                         .old_dim = static_cast<int32_t>(source.old_dim),
                         .side_dim = static_cast<int32_t>(source.side_dim),
                         .new_dim = static_cast<int32_t>(source.new_dim),
                         .normalize = source.normalize,
                         .uncertainty = source.uncertainty,
                         .branches = {},
                         .trunk = {},
                         .int8 = int8};
  Placer placer(layout);
  int64_t concat = 0;
  int32_t padded_concat = 0;
  const bool concat_bytes = !source.trunk.empty() && source.trunk.front().quantized != nullptr;
  for (const BranchSource& from : source.branches) {
    int64_t width = from.reads_side ? source.side_dim : source.old_dim;
    if (width < 1 || width > kMaxDim) throw ShapeError("a branch reads " + std::to_string(width) + " values");
    bool bytes = false;
    BranchLayout branch{.reads_side = from.reads_side, .input_columns = static_cast<int32_t>(width), .layers = {}};
    for (const LayerSource& layer : from.layers) {
      const int32_t depth = layout.padded(width, bytes);
      width = checked_width("branch", width, layer);
      bytes = checked_bytes("branch", bytes, layer);
      branch.layers.push_back(placer.place(depth, layer));
    }
    if (bytes != concat_bytes) throw ShapeError("branches and trunk do not agree on bytes between them");
    branch.columns = layout.padded(width, bytes);
    concat += width;
    padded_concat += branch.columns;
    layout.branches.push_back(std::move(branch));
  }
  if (source.branches.empty() || source.trunk.empty()) throw ShapeError("a transform has branches and a trunk");
  int64_t width = concat;
  int32_t depth = padded_concat;
  bool bytes = concat_bytes;
  for (const LayerSource& layer : source.trunk) {
    width = checked_width("trunk", width, layer);
    bytes = checked_bytes("trunk", bytes, layer);
    layout.trunk.push_back(placer.place(depth, layer));
    depth = layout.trunk.back().columns;
  }
  if (bytes) throw ShapeError("the last layer writes bytes");
  if (width != source.new_dim + source.uncertainty) {
    throw ShapeError("the last layer gives " + std::to_string(width) + " values, expected " +
                     std::to_string(source.new_dim + source.uncertainty));
  }
  return layout;
}

void pack_transform(const TransformSource& source, const TransformLayout& layout, unsigned char* target) {
  std::memset(target, 0, static_cast<std::size_t>(layout.bytes));
  Packer packer(layout, target);
  std::vector<Run> concat;
  int64_t from = 0, to = 0;
  for (std::size_t b = 0; b < source.branches.size(); ++b) {
    const BranchSource& branch = source.branches[b];
    int64_t width = layout.branches[b].input_columns;
    for (std::size_t i = 0; i < branch.layers.size(); ++i) {
      packer.layer(branch.layers[i], layout.branches[b].layers[i], {{0, 0, width}});
      width = branch.layers[i].out_dim;
    }
    concat.push_back({from, to, width});
    from += width;
    to += layout.branches[b].columns;
  }
  for (std::size_t i = 0; i < source.trunk.size(); ++i) {
    const LayerSource& layer = source.trunk[i];
    packer.layer(layer, layout.trunk[i], i == 0 ? concat : std::vector<Run>{{0, 0, layer.in_dim}});
  }
}

}  // namespace fct::cuda
