// Typed errors; the same names exist in fct_fast/errors.py, and the binding maps one to the other.
#pragma once

#include <stdexcept>

namespace fct {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct ShapeError : Error {
  using Error::Error;
};
struct DtypeError : Error {
  using Error::Error;
};
struct DeviceError : Error {
  using Error::Error;
};
struct NonFiniteError : Error {
  using Error::Error;
};

// Thrown where the caller's stop callback asked to end early (Ctrl-C); never shown to the user as such.
struct Interrupted : Error {
  Interrupted() : Error("interrupted") {}
};

}  // namespace fct
