#include "cuda/shim/fiber.hpp"

#include <cstdint>
#include <cstdlib>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#else
static void __sanitizer_start_switch_fiber(void**, const void*, std::size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, std::size_t*) {}
#endif

#if defined(__x86_64__)
// swapcontext asks the kernel for the signal mask at each switch, which is most of a test's time; this does not.
extern "C" void fct_switch_stack(void** from, void* to);
asm(R"(
.text
.type fct_switch_stack, @function
fct_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fct_switch_stack, . - fct_switch_stack
)");
#endif

namespace fct::shim {
namespace {

// The fiber that enter() begins.
Fiber* g_entering = nullptr;

}  // namespace

#if defined(__x86_64__)

void Fiber::switch_context(Context& from, Context& to) { fct_switch_stack(&from, to); }

void Fiber::prepare(Context& context, unsigned char* stack) {
  // As a call would leave it: the top aligned to 16, minus a return address, where switch_stack's `ret` finds enter.
  auto* top =
      reinterpret_cast<std::uint64_t*>(reinterpret_cast<std::uintptr_t>(stack + kStackBytes) & ~std::uintptr_t{15});
  *--top = 0;
  *--top = reinterpret_cast<std::uint64_t>(&Fiber::enter);
  for (int saved = 0; saved < 6; ++saved) *--top = 0;
  context = top;
}

#else

void Fiber::switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

void Fiber::prepare(Context& context, unsigned char* stack) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, &Fiber::enter, 0);
}

#endif

void Fiber::start(std::function<void()> body) {
  if (!stack_) stack_ = std::make_unique_for_overwrite<unsigned char[]>(kStackBytes);
  body_ = std::move(body);
  done_ = false;
  prepare(inside_, stack_.get());
}

void Fiber::enter() {
  g_entering->run();
  std::abort();  // run() never returns
}

void Fiber::run() {
  __sanitizer_finish_switch_fiber(nullptr, &outer_bottom_, &outer_bytes_);
  body_();
  done_ = true;
  __sanitizer_start_switch_fiber(nullptr, outer_bottom_, outer_bytes_);  // null: this stack's frames are gone for good
  switch_context(inside_, outside_);
}

void Fiber::resume() {
  void* outer_fake = nullptr;
  g_entering = this;
  __sanitizer_start_switch_fiber(&outer_fake, stack_.get(), kStackBytes);
  switch_context(outside_, inside_);
  __sanitizer_finish_switch_fiber(outer_fake, nullptr, nullptr);
}

void Fiber::suspend() {
  __sanitizer_start_switch_fiber(&fake_stack_, outer_bottom_, outer_bytes_);
  switch_context(inside_, outside_);
  __sanitizer_finish_switch_fiber(fake_stack_, &outer_bottom_, &outer_bytes_);
}

}  // namespace fct::shim
