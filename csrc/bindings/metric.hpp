// What searches and evaluations check alike.
#pragma once

#include <string>

#include "core/error.hpp"
#include "core/rows.hpp"

namespace fct::python {

inline Metric metric_from(const std::string& name) {
  if (name == "cosine") return Metric::cosine;
  if (name == "ip") return Metric::inner_product;
  if (name == "l2") return Metric::l2;
  throw ShapeError("metric is '" + name + "'; use 'cosine', 'ip' or 'l2'");
}

inline void check_same_dim(const MatrixView& queries, const MatrixView& gallery) {
  if (queries.cols == gallery.cols) return;
  throw ShapeError("queries have " + std::to_string(queries.cols) + " dimensions and the gallery has " +
                   std::to_string(gallery.cols) + "; they must be embeddings of one space");
}

}  // namespace fct::python
