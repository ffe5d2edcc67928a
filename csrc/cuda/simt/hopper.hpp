// The primitives of Hopper, sm_90a.
#pragma once

#include "cuda/simt/mbarrier.hpp"
#include "cuda/simt/register_share.hpp"
#include "cuda/simt/simt.hpp"
#include "cuda/simt/tensor_copy.hpp"
#include "cuda/simt/wgmma.hpp"
