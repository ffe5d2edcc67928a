// Tile registers of AMX: eight of 16 rows by 64 bytes a thread, and their instructions, as Intel's manual has them.
// Where the processor would raise a fault, these throw it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace emulated {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr int kTiles = 8;
constexpr int kMaxRows = 16;
constexpr int kMaxRowBytes = 64;

struct Tile {
  int rows = 0;
  int row_bytes = 0;
  uint8_t data[kMaxRows][kMaxRowBytes] = {};

  template <typename T>
  T get(int row, int i) const {
    T value;
    std::memcpy(&value, data[row] + static_cast<int>(sizeof(T)) * i, sizeof(T));
    return value;
  }
  template <typename T>
  void set(int row, int i, T value) {
    std::memcpy(data[row] + static_cast<int>(sizeof(T)) * i, &value, sizeof(T));
  }
};

// The state of a thread. Not configured: at its start and after a release.
struct TileState {
  bool configured = false;
  Tile tiles[kTiles];
};
inline thread_local TileState tile_state;

inline Tile& tile(int number) {
  if (!tile_state.configured) throw Fault("#UD: the tiles are not configured");
  if (number < 0 || number >= kTiles) throw Fault("#UD: there is no such tile");
  if (tile_state.tiles[number].rows == 0) throw Fault("#UD: the tile has no shape");
  return tile_state.tiles[number];
}

// The operands of sums += rows x weights must fit, and be three tiles.
inline void check_product(int sums, int rows, int weights) {
  if (sums == rows || sums == weights || rows == weights) throw Fault("#UD: a tile is used twice");
  const Tile &c = tile(sums), &a = tile(rows), &b = tile(weights);
  if (c.row_bytes % 4 != 0 || a.row_bytes % 4 != 0 || b.row_bytes % 4 != 0) throw Fault("#UD: no whole elements");
  if (c.rows != a.rows || c.row_bytes != b.row_bytes || a.row_bytes / 4 != b.rows) throw Fault("#UD: shapes differ");
}

}  // namespace emulated

inline void _tile_release() { emulated::tile_state = {}; }

inline void _tile_loadconfig(const void* memory) {
  uint8_t bytes[64];
  std::memcpy(bytes, memory, 64);
  emulated::TileState state;
  if (bytes[0] > 1) throw emulated::Fault("#GP: there is no such palette");
  if (bytes[0] == 1) {
    const auto zeros = [&](int begin, int end) {
      if (std::any_of(bytes + begin, bytes + end, [](uint8_t byte) { return byte != 0; }))
        throw emulated::Fault("#GP: reserved bytes are not zero");
    };
    zeros(2, 16);
    zeros(32, 48);
    zeros(56, 64);
    state.configured = true;
    for (int i = 0; i < emulated::kTiles; ++i) {
      const int rows = bytes[48 + i], row_bytes = bytes[16 + 2 * i] | bytes[17 + 2 * i] << 8;
      if (rows > emulated::kMaxRows || row_bytes > emulated::kMaxRowBytes || (rows == 0) != (row_bytes == 0))
        throw emulated::Fault("#GP: a tile has a wrong shape");
      state.tiles[i].rows = rows;
      state.tiles[i].row_bytes = row_bytes;
    }
  }
  emulated::tile_state = state;  // all tiles are zero
}

inline void _tile_zero(int number) { std::memset(emulated::tile(number).data, 0, sizeof(emulated::Tile::data)); }

inline void _tile_loadd(int number, const void* memory, int64_t stride) {
  emulated::Tile& tile = emulated::tile(number);
  _tile_zero(number);
  for (int r = 0; r < tile.rows; ++r) {
    std::memcpy(tile.data[r], static_cast<const char*>(memory) + r * stride, static_cast<std::size_t>(tile.row_bytes));
  }
}

inline void _tile_stored(int number, void* memory, int64_t stride) {
  const emulated::Tile& tile = emulated::tile(number);
  for (int r = 0; r < tile.rows; ++r) {
    std::memcpy(static_cast<char*>(memory) + r * stride, tile.data[r], static_cast<std::size_t>(tile.row_bytes));
  }
}

// Even and odd values of the pairs are summed apart, from zero and in order, then together, then with the sums.
inline void _tile_dpbf16ps(int sums, int rows, int weights) {
  emulated::check_product(sums, rows, weights);
  emulated::Tile& c = emulated::tile(sums);
  const emulated::Tile &a = emulated::tile(rows), &b = emulated::tile(weights);
  for (int m = 0; m < c.rows; ++m) {
    for (int n = 0; n < c.row_bytes / 4; ++n) {
      float part[2] = {};
      for (int k = 0; k < a.row_bytes / 4; ++k) {
        for (int i = 0; i < 2; ++i) {
          part[i] = emulated::fma_flushed(emulated::float_of_bf16(a.get<uint16_t>(m, 2 * k + i)),
                                          emulated::float_of_bf16(b.get<uint16_t>(k, 2 * n + i)), part[i]);
        }
      }
      c.set(m, n, emulated::add_flushed(c.get<float>(m, n), emulated::add_flushed(part[0], part[1])));
    }
  }
}

// Unsigned bytes of the rows, signed ones of the weights; the sums wrap round.
inline void _tile_dpbusd(int sums, int rows, int weights) {
  emulated::check_product(sums, rows, weights);
  emulated::Tile& c = emulated::tile(sums);
  const emulated::Tile &a = emulated::tile(rows), &b = emulated::tile(weights);
  for (int m = 0; m < c.rows; ++m) {
    for (int n = 0; n < c.row_bytes / 4; ++n) {
      uint32_t total = c.get<uint32_t>(m, n);
      for (int k = 0; k < a.row_bytes / 4; ++k) {
        for (int i = 0; i < 4; ++i) {
          total += static_cast<uint32_t>(a.get<uint8_t>(m, 4 * k + i) * b.get<int8_t>(k, 4 * n + i));
        }
      }
      c.set(m, n, total);
    }
  }
}
