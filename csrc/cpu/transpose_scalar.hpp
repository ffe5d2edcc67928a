// No block transpose: kTransposeSize 0 leaves all to the plain loop of pack.
#pragma once

#include <cstdint>

namespace fct {
namespace {

constexpr int64_t kTransposeSize = 0;
inline void transpose_block(const float*, int64_t, float*, int64_t) {}

}  // namespace
}  // namespace fct
