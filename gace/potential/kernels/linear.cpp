// A linear ACE for evaluation (gace/native/cpp/linear.cpp). The density: the sums over neighbours of radial functions
// times harmonics, with radial functions and their slopes formed on the bond. And its invariants: products of up to
// four components, the energy that is linear in them, and what is owed to the density, a vector of atoms at a time.

#include <cmath>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

template <class real>
struct Density {
  int64_t atoms, slots, elements, functions, harmonics, widths;  // widths: vectors of harmonics
  int64_t cutoff_power, levels_off;
  const int64_t *rows;                  // radial functions that each vector of harmonics needs
  const int64_t *species, *neighbours;  // of the atoms, of the bonds
  const double *pair;                   // inverse length, end, slope of the argument (a n_elements + b)
  double cutoff, power, overshoot;

  static constexpr int64_t W = 64 / sizeof(real);
  int64_t of_element() const { return functions * widths * W; }
  int64_t of_atom() const { return elements * of_element(); }
};

// Chebyshev polynomials of a transformed distance times the cutoff factor, and their derivatives.
template <class real>
void radial(const Density<real> &d, const double *pair, double r, real *value, real *slope) {
  const double scaled = r * pair[0], raised = d.power == 1 ? scaled : std::pow(scaled, d.power);
  const double y = 1 / (1 + raised);
  double x = pair[2] * (y - pair[1]) - 1, bend = -pair[2] * y * y * d.power * raised / r;
  if (d.levels_off && x > 1) {
    const double t = std::tanh((x - 1) / d.overshoot);
    x = 1 + d.overshoot * t;
    bend *= 1 - t * t;
  }
  const double u = r / d.cutoff, p = double(d.cutoff_power);
  double high = 1;
  for (int64_t k = 1; k < d.cutoff_power; ++k) high *= u;
  double R[3], S[3];  // the last three of the recurrence
  R[0] = 1 - high * u * ((p + 1) * (p + 2) / 2 - u * (p * (p + 2) - u * (p * (p + 1) / 2)));
  S[0] = -p * (p + 1) * (p + 2) / 2 * high * (1 - u) * (1 - u) / d.cutoff;
  R[1] = R[0] * x;
  S[1] = S[0] * x + R[0] * bend;
  value[0] = real(R[0]), slope[0] = real(S[0]);
  for (int64_t n = 1; n < d.functions; ++n) {
    value[n] = real(R[1]), slope[n] = real(S[1]);
    R[2] = 2 * x * R[1] - R[0];
    S[2] = 2 * (x * S[1] + bend * R[1]) - S[0];
    R[0] = R[1], R[1] = R[2], S[0] = S[1], S[1] = S[2];
  }
}

// bond(n, e, z, value, slope, y) for the bonds below the cutoff, to a neighbour of element z: radial functions, their
// slopes, and harmonics filled up with zeros to whole vectors; absent(e) for all others.
template <class real, class Bond, class Absent>
void each_bond(const Density<real> &d, const real *Y, const real *r, int threads, Bond bond, Absent absent) {
  constexpr int64_t W = Density<real>::W;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const Room<real> radials(2 * d.functions), harmonics(d.widths * W);
    real *value = radials.get(), *slope = value + d.functions;
    real *y = harmonics.get();
    std::memset(y, 0, d.widths * W * sizeof(real));
#pragma omp for schedule(static)
    for (int64_t n = 0; n < d.atoms; ++n)
      for (int64_t e = n * d.slots; e < (n + 1) * d.slots; ++e) {
        if (!(r[e] < d.cutoff)) {
          absent(e);
          continue;
        }
        const int64_t z = d.neighbours[e];
        radial(d, d.pair + 3 * (d.species[n] * d.elements + z), r[e], value, slope);
        std::memcpy(y, Y + e * d.harmonics, d.harmonics * sizeof(real));
        bond(n, e, z, value, slope, y);
      }
  }
}

template <class real>
void density_forward(const Density<real> &d, const real *Y, const real *r, real *out, int threads) {
  typedef typename vector_of<real>::type V;
  constexpr int64_t W = Density<real>::W;
  std::memset(out, 0, d.atoms * d.of_atom() * sizeof(real));
  each_bond(
      d, Y, r, threads,
      [&](int64_t n, int64_t, int64_t z, const real *value, const real *, const real *y) {
        real *to = out + n * d.of_atom() + z * d.of_element();
        for (int64_t v = 0; v < d.widths; ++v) {
          const V angular = load<V>(y + v * W);
          for (int64_t k = 0; k < d.rows[v]; ++k) {
            real *place = to + (k * d.widths + v) * W;
            store(place, load<V>(place) + value[k] * angular);
          }
        }
      },
      [](int64_t) {});
}

template <class real>
void density_backward(const Density<real> &d, const real *g, const real *Y, const real *r, real *of_Y, real *of_r,
                      int threads) {
  typedef typename vector_of<real>::type V;
  constexpr int64_t W = Density<real>::W;
  each_bond(
      d, Y, r, threads,
      [&](int64_t n, int64_t e, int64_t z, const real *value, const real *slope, const real *y) {
        const real *from = g + n * d.of_atom() + z * d.of_element();
        real *owed = of_Y + e * d.harmonics;
        V along{};
        for (int64_t v = 0; v < d.widths; ++v) {
          V angular{}, by_r{};
          for (int64_t k = 0; k < d.rows[v]; ++k) {
            const V own = load<V>(from + (k * d.widths + v) * W);
            angular += value[k] * own;
            by_r += slope[k] * own;
          }
          along += by_r * load<V>(y + v * W);
          const int64_t left = d.harmonics - v * W;
          std::memcpy(owed + v * W, &angular, (left < W ? left : W) * sizeof(real));
        }
        of_r[e] = total<real>(along);
      },
      [&](int64_t e) {
        std::memset(of_Y + e * d.harmonics, 0, d.harmonics * sizeof(real));
        of_r[e] = 0;
      });
}

// Rows are components of the density, standardised, and then those of coupled pairs of them.
template <class real>
struct Invariants {
  int64_t atoms, length;             // length: numbers of an atom's density
  int64_t base, pairs, elements;     // rows of each kind
  int64_t count;                     // invariants
  const int64_t *order, *of_element; // atoms by element; how many of each
  const int64_t *column;             // where a row of the base is in the density
  const real *centre, *stretch;      // (element, row)
  const int64_t *end;                // end of the terms of each row of the pairs
  const int64_t *factors;            // two rows for each term
  const real *coupling;              // of each term
  const int64_t *product;            // of each invariant: two rows, number of components (0: the first row itself)
  const real *share;                 // what the sum over components is multiplied by
  const real *coefficient, *rest;    // (element, invariant); rest: of the lone atom
};

template <class real>
struct Some {
  int64_t first, count, element;
};

template <class real>
std::vector<Some<real>> pieces(const Invariants<real> &d) {
  constexpr int64_t W = 64 / sizeof(real);
  std::vector<Some<real>> all;
  int64_t first = 0;
  for (int64_t z = 0; z < d.elements; ++z) {
    const int64_t end = first + d.of_element[z];
    for (; first < end; first += W) all.push_back({first, end - first < W ? end - first : W, z});
    first = end;
  }
  return all;
}

template <class real>
void evaluate(const Invariants<real> &d, const Some<real> &some, const real *density, real *energy, real *out,
              real *slope, real *room) {
  typedef typename vector_of<real>::type V;
  constexpr int64_t W = 64 / sizeof(real);
  real *x = room, *g = room + (d.base + d.pairs) * W;
  int64_t atom[W];
  for (int64_t a = 0; a < W; ++a) atom[a] = d.order[some.first + (a < some.count ? a : 0)];
  std::memset(g, 0, (d.base + d.pairs) * W * sizeof(real));
  const real *centre = d.centre + some.element * d.base, *stretch = d.stretch + some.element * d.base;
  for (int64_t k = 0; k < d.base; ++k)
    for (int64_t a = 0; a < W; ++a)
      x[k * W + a] = (density[atom[a] * d.length + d.column[k]] - centre[k]) * stretch[k];
  for (int64_t row = 0, t = 0; row < d.pairs; ++row) {
    V sum{};
    for (; t < d.end[row]; ++t)
      sum += d.coupling[t] * (load<V>(x + d.factors[2 * t] * W) * load<V>(x + d.factors[2 * t + 1] * W));
    store(x + (d.base + row) * W, sum);
  }
  const real *coefficient = d.coefficient + some.element * d.count, *rest = d.rest + some.element * d.count;
  V whole{}, part{};
  for (int64_t q = 0; q < d.count; ++q) {
    const int64_t *p = d.product + 3 * q;
    V value;
    if (p[2] == 0) {
      value = load<V>(x + p[0] * W) - rest[q];
      store(g + p[0] * W, load<V>(g + p[0] * W) + coefficient[q]);
    } else {
      const real owed = coefficient[q] * d.share[q];
      V sum{};
      for (int64_t m = 0; m < p[2]; ++m) {
        const int64_t i = (p[0] + m) * W, j = (p[1] + m) * W;
        const V left = load<V>(x + i), right = load<V>(x + j);
        sum += left * right;
        store(g + i, load<V>(g + i) + owed * right);
        store(g + j, load<V>(g + j) + owed * left);  // after the other: they may be one
      }
      value = sum * d.share[q] - rest[q];
    }
    part += coefficient[q] * value;
    if (q % 64 == 63) whole += part, part = V{};  // small sums first: fewer digits are lost
    if (out == nullptr) continue;
    real *to = out + q * d.atoms + some.first;
    if (some.count == W) {
      store(to, value);
    } else {
      for (int64_t a = 0; a < some.count; ++a) to[a] = value[a];
    }
  }
  whole += part;
  for (int64_t row = 0, t = 0; row < d.pairs; ++row) {
    const V owed = load<V>(g + (d.base + row) * W);
    for (; t < d.end[row]; ++t) {
      const int64_t i = d.factors[2 * t] * W, j = d.factors[2 * t + 1] * W;
      const V each = d.coupling[t] * owed;
      store(g + i, load<V>(g + i) + each * load<V>(x + j));
      store(g + j, load<V>(g + j) + each * load<V>(x + i));
    }
  }
  for (int64_t a = 0; a < some.count; ++a) {
    real *to = slope + atom[a] * d.length;
    energy[atom[a]] = whole[a];
    std::memset(to, 0, d.length * sizeof(real));
    for (int64_t k = 0; k < d.base; ++k) to[d.column[k]] = g[k * W + a] * stretch[k];
  }
}

template <class real>
void invariants(const Invariants<real> &d, const real *density, real *energy, real *out, real *slope, int threads) {
  constexpr int64_t W = 64 / sizeof(real);
  const std::vector<Some<real>> all = pieces(d);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const Room<real> room(2 * (d.base + d.pairs) * W);
#pragma omp for schedule(dynamic, 1)
    for (size_t one = 0; one < all.size(); ++one) evaluate(d, all[one], density, energy, out, slope, room.get());
  }
}

// size: atoms, slots, elements, functions, harmonics, vectors of them, power of the cutoff, whether the argument
// levels off, then the radial functions of each vector
template <class real>
Density<real> density(const int64_t *size, const int64_t *species, const int64_t *neighbours, const double *pair,
                      const double *numbers) {
  return {size[0],    size[1],    size[2], size[3],    size[4],    size[5],   size[6], size[7], size + 8, species,
          neighbours, pair,       numbers[0], numbers[1], numbers[2]};
}

}  // namespace

#define BONDS(real)                                                                                               \
  const int64_t *size, const int64_t *species, const int64_t *neighbours, const double *pair, const double *numbers
#define ENTRY(real)                                                                                               \
  void linear_density_forward_##real(BONDS(real), const real *Y, const real *r, real *out, int threads) {         \
    density_forward<real>(density<real>(size, species, neighbours, pair, numbers), Y, r, out, threads);           \
  }                                                                                                               \
  void linear_density_backward_##real(BONDS(real), const real *g, const real *Y, const real *r, real *of_Y,       \
                                      real *of_r, int threads) {                                                  \
    density_backward<real>(density<real>(size, species, neighbours, pair, numbers), g, Y, r, of_Y, of_r,          \
                           threads);                                                                              \
  }                                                                                                               \
  void linear_invariants_##real(const int64_t *size, const int64_t *order, const int64_t *of_element,             \
                                const int64_t *column, const real *centre, const real *stretch,                   \
                                const int64_t *end, const int64_t *factors, const real *coupling,                 \
                                const int64_t *product, const real *share, const real *coefficient,               \
                                const real *rest, const real *density, real *energy, real *out, real *slope,      \
                                int threads) {                                                                    \
    const Invariants<real> d{size[0], size[1], size[2], size[3], size[4], size[5], order, of_element, column,     \
                             centre,  stretch, end,     factors, coupling, product, share, coefficient, rest};    \
    invariants<real>(d, density, energy, out, slope, threads);                                                    \
  }

extern "C" {
ENTRY(float)
ENTRY(double)
}
