#include "cuda/shim/fiber.hpp"

#include <cstdint>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#else
static void __sanitizer_start_switch_fiber(void**, const void*, std::size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, std::size_t*) {}
#endif

namespace fct::shim {

void Fiber::start(std::function<void()> body) {
  if (!stack_) stack_ = std::make_unique_for_overwrite<unsigned char[]>(kStackBytes);
  body_ = std::move(body);
  done_ = false;
  getcontext(&inside_);
  inside_.uc_stack.ss_sp = stack_.get();
  inside_.uc_stack.ss_size = kStackBytes;
  inside_.uc_link = nullptr;
  // makecontext passes ints alone, so the pointer travels in two halves.
  const auto self = reinterpret_cast<std::uintptr_t>(this);
  makecontext(&inside_, reinterpret_cast<void (*)()>(&Fiber::enter), 2, static_cast<unsigned>(self),
              static_cast<unsigned>(static_cast<std::uint64_t>(self) >> 32));
}

void Fiber::enter(unsigned low, unsigned high) {
  reinterpret_cast<Fiber*>(static_cast<std::uintptr_t>((static_cast<std::uint64_t>(high) << 32) | low))->run();
}

void Fiber::run() {
  __sanitizer_finish_switch_fiber(nullptr, &outer_bottom_, &outer_bytes_);
  body_();
  done_ = true;
  __sanitizer_start_switch_fiber(nullptr, outer_bottom_, outer_bytes_);  // null: this stack's frames are gone for good
  setcontext(&outside_);
}

void Fiber::resume() {
  void* outer_fake = nullptr;
  __sanitizer_start_switch_fiber(&outer_fake, stack_.get(), kStackBytes);
  swapcontext(&outside_, &inside_);
  __sanitizer_finish_switch_fiber(outer_fake, nullptr, nullptr);
}

void Fiber::suspend() {
  __sanitizer_start_switch_fiber(&fake_stack_, outer_bottom_, outer_bytes_);
  swapcontext(&inside_, &outside_);
  __sanitizer_finish_switch_fiber(fake_stack_, &outer_bottom_, &outer_bytes_);
}

}  // namespace fct::shim
