// How far atoms lie from those of the training set (as gace/uncertainty/novelty.py).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "file.h"
#include "kernels.h"

namespace gace {

class Novelty {
 public:
  Novelty(const File &file, int64_t elements, int64_t features) : features(features), regions(elements) {
    for (int64_t z = 0; z < elements; ++z) {
      const std::string of = "novelty." + std::to_string(z) + ".";
      if (!file.has(of + "offset")) continue;
      Region &one = regions[z];
      const std::vector<int64_t> shape = file.array(of + "offset").shape;
      if (shape.size() != 2) throw Error("'" + of + "offset' should be a matrix");
      one.clusters = shape[0], one.dimensions = shape[1];
      one.offset = file.get<double>(of + "offset");
      one.centre = file.get<double>(of + "centre", features);
      one.projection = file.get<double>(of + "projection", features * one.dimensions);
      one.whitening = file.get<double>(of + "whitening", one.dimensions * one.dimensions * one.clusters);
      known = true;
    }
  }

  bool any() const { return known; }

  template <class real>
  void grades(int64_t n, const int64_t *species, const real *values, double *gamma, int threads) const {
    constexpr int64_t at_once = 64;
    std::fill(gamma, gamma + n, std::numeric_limits<double>::infinity());
    for (int64_t z = 0; z < static_cast<int64_t>(regions.size()); ++z) {
      const Region &one = regions[z];
      if (one.clusters == 0) continue;
      std::vector<int64_t> own;
      for (int64_t i = 0; i < n; ++i)
        if (species[i] == z) own.push_back(i);
      const int64_t D = one.dimensions, wide = D * one.clusters;
      std::vector<double> rows(at_once * features), projected(at_once * D), whitened(at_once * wide);
      for (size_t first = 0; first < own.size(); first += at_once) {
        const int64_t count = std::min<int64_t>(at_once, own.size() - first);
        for (int64_t i = 0; i < count; ++i)
          for (int64_t f = 0; f < features; ++f)
            rows[i * features + f] = values[own[first + i] * features + f] - one.centre[f];
        multiply(count, features, D, rows.data(), one.projection, projected.data(), threads);
        multiply(count, D, wide, projected.data(), one.whitening, whitened.data(), threads);
        for (int64_t i = 0; i < count; ++i) {
          double least = std::numeric_limits<double>::infinity();
          for (int64_t c = 0; c < one.clusters; ++c) {
            double sum = 0;
            for (int64_t d = 0; d < D; ++d) {
              const double x = whitened[i * wide + c * D + d] - one.offset[c * D + d];
              sum += x * x;
            }
            if (sum < least) least = sum;
          }
          gamma[own[first + i]] = std::sqrt(least);
        }
      }
    }
  }

 private:
  struct Region {
    int64_t clusters = 0, dimensions = 0;
    const double *centre, *projection, *whitening, *offset;  // boundary divided out; whitening (D, C D)
  };
  int64_t features;
  std::vector<Region> regions;
  bool known = false;
};

}  // namespace gace
