#include "readout.h"

#include <algorithm>

namespace gace {

template <class real>
Readout<real>::Readout(const File &file, const std::string &prefix, int64_t elements,
                       const std::vector<int64_t> &widths)
    : widths(widths) {
  scale = static_cast<real>(*file.get<double>(prefix + "scale", 1));
  shift = file.get<real>(prefix + "shift", elements);
  for (size_t t = 0; t < widths.size(); ++t) {
    const std::string of = prefix + std::to_string(t) + ".";
    all += widths[t];
    if (t == 0) columns = file.count(of + "projection") / widths[t];
    projections.push_back(file.get<real>(of + "projection", widths[t] * columns));
    coefficients.push_back(
        file.has(of + "coefficients") ? file.get<real>(of + "coefficients", elements * widths[t]) : nullptr);
  }
  several = static_cast<int64_t>(widths.size()) * (columns - 1);
  const std::string matrix = prefix + "readout.";
  if (file.has(matrix + "1")) {
    hidden = file.count(matrix + "1");
    network = {file.get<real>(matrix + "0", several * hidden), file.get<real>(matrix + "1", hidden)};
  } else if (file.has(matrix + "0")) {
    network = {file.get<real>(matrix + "0", several)};
  }
}

template <class real>
void Readout<real>::evaluate(int64_t n, const int64_t *species, const real *features, const real *sums,
                             const Fading<real> *fading, real *energy, const std::vector<real *> &owed, real *of_sums,
                             real *of_remains, int threads, Arena &arena) const {
  const Arena::Mark before = arena.mark();
  const int64_t S = columns - 1, T = widths.size();
  real *linear = arena.take<real>(n), *nonlinear = arena.take<real>(n * several), *made = arena.take<real>(n * columns);
  std::fill(linear, linear + n, real(0));
  int64_t first = 0;
  for (int64_t t = 0; t < T; first += widths[t], ++t) {
    const Arena::Mark inside = arena.mark();
    real *rows = arena.take<real>(n * widths[t]);
    for (int64_t i = 0; i < n; ++i) {
      const real *from = features + i * all + first, *c = coefficients[t];
      real *to = rows + i * widths[t];
      if (c == nullptr) {
        std::copy(from, from + widths[t], to);
        continue;
      }
      c += species[i] * widths[t];
      for (int64_t k = 0; k < widths[t]; ++k) to[k] = from[k] * c[k];
    }
    multiply(n, widths[t], columns, rows, projections[t], made, threads);
    for (int64_t i = 0; i < n; ++i) {
      linear[i] += made[i * columns];
      std::copy(made + i * columns + 1, made + (i + 1) * columns, nonlinear + i * several + t * S);
    }
    arena.release(inside);
  }
  // what is owed to the densities that enter non-linearly takes their place
  if (network.size() == 1) {
    for (int64_t i = 0; i < n; ++i)
      for (int64_t s = 0; s < several; ++s) {
        real &x = nonlinear[i * several + s];
        linear[i] += x * x * network[0][s];
        x *= 2 * network[0][s];
      }
  } else if (network.size() == 2) {
    real *inner = arena.take<real>(n * hidden);
    multiply(n, several, hidden, nonlinear, network[0], inner, threads);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t h = 0; h < hidden; ++h) {
        real &x = inner[i * hidden + h];
        const real share = 1 / (1 + std::exp(-x)), value = x * share;
        linear[i] += value * network[1][h];
        x = (share + value * (1 - share)) * network[1][h];
      }
    multiply_back(n, several, hidden, inner, network[0], nonlinear, threads);
  } else {
    std::fill(nonlinear, nonlinear + n * several, real(0));
  }
  for (int64_t i = 0; i < n; ++i) {
    const real level = std::tanh(sums[3 * i]), rest = shift[species[i]];
    const real whole = scale * linear[i] + rest * level, remains = fading ? fading->remains[i] : 1;
    energy[i] = whole * remains + (fading ? fading->wall[i] * scale : 0) + (repulsion ? sums[3 * i + 1] : 0);
    of_sums[3 * i] = rest * (1 - level * level) * remains;
    of_sums[3 * i + 1] = 1;
    of_sums[3 * i + 2] = fading ? fading->wall_slope[i] * scale : 0;
    of_remains[i] = whole;
  }
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t i = 0; i < n; ++i) {
      const real factor = scale * (fading ? fading->remains[i] : 1);
      made[i * columns] = factor;
      for (int64_t s = 0; s < S; ++s) made[i * columns + 1 + s] = factor * nonlinear[i * several + t * S + s];
    }
    multiply_back(n, widths[t], columns, made, projections[t], owed[t], threads);
    if (coefficients[t] == nullptr) continue;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t k = 0; k < widths[t]; ++k)
        owed[t][i * widths[t] + k] *= coefficients[t][species[i] * widths[t] + k];
  }
  arena.release(before);
}

template class Readout<float>;
template class Readout<double>;

}  // namespace gace
