// From invariants to energies and back (GraphACE.energy in gace/potential/graph_ace.py), and how atoms fade that are too close.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "arena.h"
#include "file.h"
#include "kernels.h"

namespace gace {

// What is left of the expansion of atoms, the wall instead of it, and derivatives by the close density.
template <class real>
struct Fading {
  real *remains, *wall, *slope, *wall_slope;

  // As gace/potential/inner_cutoff.py; false where no atom is beyond its limit.
  bool set(int64_t n, const real *sums, const int64_t *species, const real *inverse_limit) const {
    constexpr real rise = 1 / real(0.5), height = 5;
    bool any = false;
    for (int64_t i = 0; i < n; ++i) {
      const real inverse = inverse_limit[species[i]], over = (sums[3 * i + 2] * inverse - 1) * rise;
      const real y = over < 0 ? 0 : over, z = y > 1 ? 1 : y, square = y * y, of_y = inverse * rise;
      any = any || !(over <= 0);
      remains[i] = 1 - z * z * z * (10 - z * (15 - 6 * z));
      slope[i] = -30 * (z * (1 - z)) * (z * (1 - z)) * of_y;
      wall[i] = height * y * square / (1 + square);
      wall_slope[i] = height * square * (3 + square) / ((1 + square) * (1 + square)) * of_y;
    }
    return any;
  }
};

template <class real>
class Readout {
 public:
  // widths: invariants times channels of each layer
  Readout(const File &file, const std::string &prefix, int64_t elements, const std::vector<int64_t> &widths);

  // Energies of n atoms. features: (n, all widths); owed: what is owed to those of each layer (n, width) apart;
  // of_sums: to coordination, core and close density (n, 3); of_remains: to what is left; fading may be null.
  void evaluate(int64_t n, const int64_t *species, const real *features, const real *sums, const Fading<real> *fading,
                real *energy, const std::vector<real *> &owed, real *of_sums, real *of_remains, int threads,
                Arena &arena) const;

  bool repulsion;
  int64_t inner;

 private:
  std::vector<int64_t> widths;
  int64_t all = 0, columns, several;  // invariants; 1 + S; S of all layers
  real scale;
  const real *shift;
  std::vector<const real *> coefficients, projections;  // (elements, width) or null; (width, columns)
  std::vector<const real *> network;
  int64_t hidden = 0;
};

}  // namespace gace
