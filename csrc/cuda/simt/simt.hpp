// All primitives that a kernel body may use.
#pragma once

#include "cuda/simt/async_copy.hpp"
#include "cuda/simt/atomics.hpp"
#include "cuda/simt/base.hpp"
#include "cuda/simt/mma.hpp"
#include "cuda/simt/numbers.hpp"
#include "cuda/simt/warp.hpp"
