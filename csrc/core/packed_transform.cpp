#include "core/packed_transform.hpp"

#include <algorithm>
#include <cstring>
#include <span>
#include <string>

#include "core/error.hpp"
#include "core/half.hpp"
#include "core/rows.hpp"

namespace fct {
namespace {

// The block: a table of int64 words, then, each at a multiple of 64 bytes, bias and panels of each layer.
// Words: magic, version, size, precision, old_dim, side_dim, new_dim, normalize, uncertainty, branches, trunk layers;
// a branch: reads_side, layers; a layer: in_dim, out_dim, relu, bias offset, panel offset, and in int8 also: reads
// bytes, writes bytes, scale offset (0 where it reads float32).
constexpr int64_t kMagic = 0x31304b4341504346;  // "FCPACK01"
constexpr int64_t kVersion = 2;
constexpr int64_t kFixedWords = 11;
constexpr int64_t kBranchWords = 2;
constexpr int64_t kLayerWords = 5;
constexpr int64_t kInt8LayerWords = 3;  // more
constexpr int64_t kMaxDim = int64_t{1} << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxInt8Depth = INT32_MAX / (255 * 127);  // int32 holds every sum

int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

int64_t bias_bytes(int64_t out_dim) { return panels_of(out_dim) * kPanelWidth * 4; }
int64_t pairs_of(int64_t in_dim) { return (in_dim + 1) / 2; }
int64_t quads_of(int64_t in_dim) { return (in_dim + 3) / 4; }
int64_t panel_bytes(Precision precision, bool reads_bytes, int64_t in_dim, int64_t out_dim) {
  const int64_t column = precision == Precision::bf16 ? 4 * pairs_of(in_dim)
                         : reads_bytes                ? 4 * quads_of(in_dim)
                                                      : 4 * in_dim;
  return panels_of(out_dim) * kPanelWidth * column;
}
int64_t layer_bytes(const LayerSource& layer, Precision precision) {
  const bool reads_bytes = layer.quantized != nullptr;
  return (reads_bytes ? 2 : 1) * aligned(bias_bytes(layer.out_dim)) +
         aligned(panel_bytes(precision, reads_bytes, layer.in_dim, layer.out_dim));
}

template <typename Source, typename Visit>
void for_each_layer(Source& source, Visit visit) {
  for (auto& branch : source.branches) {
    for (auto& layer : branch.layers) visit(layer);
  }
  for (auto& layer : source.trunk) visit(layer);
}

int64_t table_bytes(const TransformSource& source) {
  int64_t words = kFixedWords + kBranchWords * static_cast<int64_t>(source.branches.size());
  const int64_t more = source.precision == Precision::int8 ? kInt8LayerWords : 0;
  for_each_layer(source, [&](const LayerSource&) { words += kLayerWords + more; });
  return aligned(words * 8);
}

void check_chain(const char* where, int64_t width, std::span<const LayerSource> layers) {
  for (const LayerSource& layer : layers) {
    if (layer.in_dim > kMaxDim || layer.out_dim > kMaxDim) {
      throw ShapeError(std::string("a ") + where + " layer has " +
                       std::to_string(std::max(layer.in_dim, layer.out_dim)) + " values; the kernels take up to " +
                       std::to_string(kMaxDim));
    }
    if (layer.quantized != nullptr && layer.in_dim > kMaxInt8Depth) {
      throw ShapeError(std::string("a ") + where + " layer has " + std::to_string(layer.in_dim) +
                       " values; int8 sums take up to " + std::to_string(kMaxInt8Depth));
    }
    if (layer.in_dim != width) {
      throw ShapeError(std::string("a ") + where + " layer reads " + std::to_string(layer.in_dim) +
                       " values but is given " + std::to_string(width));
    }
    width = layer.out_dim;
  }
}

void write_panels(const LayerSource& layer, Precision precision, unsigned char* target) {
  if (layer.quantized != nullptr) {
    int8_t* const panels = reinterpret_cast<int8_t*>(target);  // zeros before
    for (int64_t o = 0; o < layer.out_dim; ++o) {
      int8_t* const panel = panels + o / kPanelWidth * quads_of(layer.in_dim) * 4 * kPanelWidth;
      for (int64_t k = 0; k < layer.in_dim; ++k) {
        panel[(k / 4 * kPanelWidth + o % kPanelWidth) * 4 + k % 4] = layer.quantized[o * layer.in_dim + k];
      }
    }
    return;
  }
  if (precision != Precision::bf16) {
    const PackArgs args{.x = layer.weight,
                        .x_stride = layer.in_dim,
                        .rows = layer.out_dim,
                        .depth = layer.in_dim,
                        .panels = reinterpret_cast<float*>(target)};
    kScalarKernels.pack(&args);
    return;
  }
  uint16_t* const panels = reinterpret_cast<uint16_t*>(target);  // zeros before
  for (int64_t o = 0; o < layer.out_dim; ++o) {
    uint16_t* const panel = panels + o / kPanelWidth * pairs_of(layer.in_dim) * 2 * kPanelWidth;
    for (int64_t k = 0; k < layer.in_dim; ++k) {
      panel[(k / 2 * kPanelWidth + o % kPanelWidth) * 2 + k % 2] =
          bfloat_from_float(layer.weight[o * layer.in_dim + k]);
    }
  }
}

int64_t write_layer(const LayerSource& layer, Precision precision, unsigned char* target, int64_t offset,
                    std::vector<int64_t>& words) {
  const int64_t bias_at = offset;
  const int64_t panels_at = bias_at + aligned(bias_bytes(layer.out_dim));
  words.insert(words.end(), {layer.in_dim, layer.out_dim, layer.relu, bias_at, panels_at});
  std::copy_n(layer.bias, layer.out_dim, reinterpret_cast<float*>(target + bias_at));
  write_panels(layer, precision, target + panels_at);
  const int64_t end = offset + layer_bytes(layer, precision);
  if (precision == Precision::int8) {
    const bool reads_bytes = layer.quantized != nullptr;
    const int64_t scale_at = reads_bytes ? end - aligned(bias_bytes(layer.out_dim)) : 0;
    words.insert(words.end(), {reads_bytes, layer.narrow, scale_at});
    if (reads_bytes) std::copy_n(layer.scale, layer.out_dim, reinterpret_cast<float*>(target + scale_at));
  }
  return end;
}

// Reads the table of a block, never past its end.
class TableReader {
 public:
  TableReader(const unsigned char* bytes, int64_t size) : bytes_(bytes), size_(size) {}

  int64_t word(int64_t low, int64_t high) {
    int64_t value = 0;
    if (at_ + 8 > size_) throw damaged();
    std::memcpy(&value, bytes_ + at_, 8);
    at_ += 8;
    if (value < low || value > high) throw damaged();
    return value;
  }

  PackedLayer layer(Precision precision) {
    PackedLayer layer{};
    layer.in_dim = word(1, kMaxDim);
    layer.out_dim = word(1, kMaxDim);
    layer.relu = word(0, 1) != 0;
    layer.bias = static_cast<const float*>(part(bias_bytes(layer.out_dim)));
    if (precision != Precision::int8) {
      layer.panels = part(panel_bytes(precision, false, layer.in_dim, layer.out_dim));
      return layer;
    }
    const int64_t panels_at = word(0, size_);
    const bool reads_bytes = word(0, 1) != 0;
    layer.panels = inside(panels_at, panel_bytes(precision, reads_bytes, layer.in_dim, layer.out_dim));
    layer.narrow = word(0, 1) != 0;
    const void* const scale = part(reads_bytes ? bias_bytes(layer.out_dim) : 0);
    if (reads_bytes) layer.scale = static_cast<const float*>(scale);
    if (reads_bytes && layer.in_dim > kMaxInt8Depth) throw damaged();
    return layer;
  }

  static DtypeError damaged() {
    return DtypeError("the packed weights are damaged or of another version; pack the transform again");
  }

 private:
  const void* part(int64_t bytes) { return inside(word(0, size_), bytes); }

  const void* inside(int64_t offset, int64_t bytes) const {
    if (offset % 64 != 0 || bytes > size_ - offset) throw damaged();
    return bytes_ + offset;
  }

  const unsigned char* bytes_;
  int64_t size_;
  int64_t at_ = 0;
};

// `bytes`: whether the stack is given bytes, and then whether it gives them.
int64_t chained(int64_t width, const std::vector<PackedLayer>& layers, int64_t& widest, bool& bytes) {
  for (const PackedLayer& layer : layers) {
    if (layer.in_dim != width || (layer.scale != nullptr) != bytes) throw TableReader::damaged();
    width = layer.out_dim;
    bytes = layer.narrow;
    widest = std::max(widest, width);
  }
  return width;
}

}  // namespace

int64_t packed_size(const TransformSource& source) {
  int64_t bytes = table_bytes(source);
  for_each_layer(source, [&](const LayerSource& layer) { bytes += layer_bytes(layer, source.precision); });
  return bytes;
}

void pack_transform(const TransformSource& source, unsigned char* target) {
  int64_t concat = 0;
  for (const BranchSource& branch : source.branches) {
    const int64_t width = branch.reads_side ? source.side_dim : source.old_dim;
    check_chain("branch", width, branch.layers);
    concat += branch.layers.empty() ? width : branch.layers.back().out_dim;
  }
  check_chain("trunk", concat, source.trunk);
  const int64_t size = packed_size(source);
  std::memset(target, 0, static_cast<std::size_t>(size));
  std::vector<int64_t> words{kMagic,
                             kVersion,
                             size,
                             static_cast<int64_t>(source.precision),
                             source.old_dim,
                             source.side_dim,
                             source.new_dim,
                             source.normalize,
                             source.uncertainty,
                             static_cast<int64_t>(source.branches.size()),
                             static_cast<int64_t>(source.trunk.size())};
  int64_t offset = table_bytes(source);
  for (const BranchSource& branch : source.branches) {
    words.insert(words.end(), {branch.reads_side, static_cast<int64_t>(branch.layers.size())});
    for (const LayerSource& layer : branch.layers) offset = write_layer(layer, source.precision, target, offset, words);
  }
  for (const LayerSource& layer : source.trunk) offset = write_layer(layer, source.precision, target, offset, words);
  std::memcpy(target, words.data(), words.size() * 8);
}

PackedTransform view_packed(const unsigned char* bytes, int64_t size) {
  TableReader table(bytes, size);
  table.word(kMagic, kMagic);
  table.word(kVersion, kVersion);
  table.word(size, size);
  PackedTransform packed{};
  packed.precision = static_cast<Precision>(table.word(0, 2));
  packed.old_dim = table.word(1, kMaxDim);
  packed.side_dim = table.word(0, kMaxDim);
  packed.new_dim = table.word(1, kMaxDim);
  packed.normalize = table.word(0, 1) != 0;
  packed.uncertainty = table.word(0, 1) != 0;
  packed.branches.resize(static_cast<std::size_t>(table.word(1, kMaxLayers)));
  packed.trunk.resize(static_cast<std::size_t>(table.word(1, kMaxLayers)));
  packed.widest = std::max(packed.old_dim, packed.side_dim);
  int64_t byte_branches = 0;
  for (PackedBranch& branch : packed.branches) {
    branch.reads_side = table.word(0, 1) != 0;
    branch.layers.resize(static_cast<std::size_t>(table.word(0, kMaxLayers)));
    for (PackedLayer& layer : branch.layers) layer = table.layer(packed.precision);
    const int64_t width = branch.reads_side ? packed.side_dim : packed.old_dim;
    if (width == 0) throw TableReader::damaged();
    bool narrow = false;
    branch.out_dim = chained(width, branch.layers, packed.widest, narrow);
    byte_branches += narrow;
    packed.concat_dim += branch.out_dim;
  }
  for (PackedLayer& layer : packed.trunk) layer = table.layer(packed.precision);
  packed.widest = std::max(packed.widest, packed.concat_dim);
  bool narrow = byte_branches > 0;
  if (narrow && byte_branches != static_cast<int64_t>(packed.branches.size())) throw TableReader::damaged();
  const int64_t width = chained(packed.concat_dim, packed.trunk, packed.widest, narrow);
  if (width != packed.new_dim + packed.uncertainty || narrow) throw TableReader::damaged();
  return packed;
}

}  // namespace fct
