// A fiber: a function on a stack of its own that gives up the processor only where it says so.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace fct::shim {

class Fiber {
 public:
  static constexpr std::size_t kStackBytes = 128 * 1024;

  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the fiber ready to run `body` from its beginning; the stack is kept for the next body.
  void start(std::function<void()> body);
  // Runs until the body suspends or ends; called from outside of all fibers.
  void resume();
  // Back to the caller of resume(); called from inside this fiber.
  void suspend();
  bool done() const { return done_; }

 private:
#if defined(__x86_64__)
  using Context = void*;  // a stack pointer, below it the registers that a call keeps
#else
  using Context = ucontext_t;
#endif

  static void enter();
  static void switch_context(Context& from, Context& to);
  static void prepare(Context& context, unsigned char* stack);
  void run();

  std::unique_ptr<unsigned char[]> stack_;
  std::function<void()> body_;
  Context inside_{};
  Context outside_{};
  bool done_ = true;
  // What AddressSanitizer must be told of each change of stacks.
  void* fake_stack_ = nullptr;
  const void* outer_bottom_ = nullptr;
  std::size_t outer_bytes_ = 0;
};

}  // namespace fct::shim
