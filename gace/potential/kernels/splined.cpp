// The sum over neighbours with radial functions read off a table: nothing is stored per bond and channel.
//
// At each of `intervals` + 1 knots per pair of elements stand the functions, their slope times the step, and their
// second derivative times its square: table[pair][knot][which][l, k]. Between knots they are the polynomial of
// degree five in x = (r - first) / step - interval that these fix (quintic Hermite interpolation). Functions are zero
// at and beyond `cutoff`, and such bonds are left out. The derivative is that of the polynomial itself.

#include <vector>

#include "density.h"

namespace {

template <class real>
struct Table {
  const real *values;
  int64_t intervals, functions;
  real first, per_step, cutoff;

  // Six rows of functions around r, three at either knot, and the weights of their sum, or of its derivative by r.
  const real *around(int64_t pair, real r, bool derivative, real *weight) const {
    const real steps = (r - first) * per_step;
    int64_t interval = static_cast<int64_t>(steps);
    interval = interval < 0 ? 0 : interval < intervals ? interval : intervals - 1;
    const real x = steps - static_cast<real>(interval), y = x * x;
    if (derivative) {
      weight[0] = y * (-30 + x * (60 - 30 * x)) * per_step;
      weight[1] = (1 + y * (-18 + x * (32 - 15 * x))) * per_step;
      weight[2] = x * (1 + x * (real(-4.5) + x * (6 - real(2.5) * x))) * per_step;
      weight[3] = -weight[0];
      weight[4] = y * (-12 + x * (28 - 15 * x)) * per_step;
      weight[5] = y * (real(1.5) + x * (-4 + real(2.5) * x)) * per_step;
    } else {
      weight[0] = 1 + y * x * (-10 + x * (15 - 6 * x));
      weight[1] = x + y * x * (-6 + x * (8 - 3 * x));
      weight[2] = y * (real(0.5) + x * (real(-1.5) + x * (real(1.5) - real(0.5) * x)));
      weight[3] = y * x * (10 + x * (-15 + 6 * x));
      weight[4] = y * x * (-4 + x * (7 - 3 * x));
      weight[5] = y * x * (real(0.5) + x * (-1 + real(0.5) * x));
    }
    return values + (pair * (intervals + 1) + interval) * 3 * functions;
  }

  void read(int64_t pair, real r, real *out) const {
    real w[6];
    const real *p = around(pair, r, false, w);
    const int64_t Q = functions;
    for (int64_t q = 0; q < Q; ++q)
      out[q] = w[0] * p[q] + w[1] * p[Q + q] + w[2] * p[2 * Q + q] + w[3] * p[3 * Q + q] + w[4] * p[4 * Q + q] +
               w[5] * p[5 * Q + q];
  }

  // sum over functions of owed times their derivative by r
  real slope(int64_t pair, real r, const real *owed) const {
    real w[6];
    const real *p = around(pair, r, true, w);
    const int64_t Q = functions;
    constexpr int64_t width = 16;
    real part[width] = {};
    const auto derivative = [&](int64_t q) {
      return w[0] * p[q] + w[1] * p[Q + q] + w[2] * p[2 * Q + q] + w[3] * p[3 * Q + q] + w[4] * p[4 * Q + q] +
             w[5] * p[5 * Q + q];
    };
    int64_t q = 0;
    for (; q + width <= Q; q += width)
      for (int64_t i = 0; i < width; ++i) part[i] += owed[q + i] * derivative(q + i);
    real sum = 0;
    for (; q < Q; ++q) sum += owed[q] * derivative(q);
    for (int64_t i = 0; i < width; ++i) sum += part[i];
    return sum;
  }
};

// The bonds of an atom that are shorter than the cutoff, and their radial functions.
template <class real>
struct Neighbourhood {
  std::vector<int64_t> listed;
  std::vector<real> radial;

  template <class Pairs>
  Bonds gather(const Shape &d, const Table<real> &table, int64_t n, const Pairs &pairs, const real *r) {
    listed.clear();
    for (int64_t e = n * d.slots; e < (n + 1) * d.slots; ++e)
      if (r[e] < table.cutoff) listed.push_back(e);
    const int64_t count = listed.size();
    if (static_cast<int64_t>(radial.size()) < count * table.functions) radial.resize(count * table.functions);
    for (int64_t j = 0; j < count; ++j)
      table.read(pairs(n, listed[j]), r[listed[j]], radial.data() + j * table.functions);
    return {n * d.slots, count, listed.data()};
  }
};

struct Pairs {
  const int64_t *centre, *neighbour, elements;
  int64_t operator()(int64_t n, int64_t e) const { return centre[n] * elements + neighbour[e]; }
};

template <class real, bool carried>
void forward(const Shape &d, const Table<real> &table, const Pairs &pairs, const int64_t *index, const real *Y,
             const real *r, const real *I, real *out, int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Neighbourhood<real> own;
#pragma omp for schedule(static)
    for (int64_t n = 0; n < d.atoms; ++n) {
      const Bonds bonds = own.gather(d, table, n, pairs, r);
      each_piece<real>(d.channels, [&](auto piece, int64_t k) {
        decltype(piece)::template sum<carried, false>(d, n, bonds, k, index, Y, own.radial.data(), I, nullptr, nullptr,
                                                      nullptr, out);
      });
    }
  }
}

template <class real, bool carried>
void backward(const Shape &d, const Table<real> &table, const Pairs &pairs, const int64_t *index, const real *g,
              const real *Y, const real *r, const real *I, real *dY, real *dr, real *dI, int threads) {
  std::memset(dr, 0, sizeof(real) * d.atoms * d.slots);
  backwards<real, carried>(d, index, dY, dI, threads, [&](int64_t first, int64_t last, real *along, real *owed) {
    Neighbourhood<real> own;
    std::vector<real> slopes;
    for (int64_t n = first; n < last; ++n) {
      const Bonds bonds = own.gather(d, table, n, pairs, r);
      if (slopes.size() < own.radial.size()) slopes.resize(own.radial.size());
      each_piece<real>(d.channels, [&](auto piece, int64_t k) {
        typedef decltype(piece) P;
        P::template back<carried, false>(d, n, bonds, k, index, g, Y, own.radial.data(), I, nullptr, nullptr, nullptr,
                                         dY, slopes.data(), owed, reinterpret_cast<typename P::Value *>(along));
      });
      for (int64_t j = 0; j < bonds.count; ++j) {
        const int64_t e = bonds.listed[j];
        dr[e] = table.slope(pairs(n, e), r[e], slopes.data() + j * table.functions);
      }
    }
  });
}

template <class real>
Table<real> table_of(const int64_t *size, const real *values, const real *range) {
  return {values, size[7], size[2] * size[4], range[0], range[1], range[2]};
}

}  // namespace

// size: atoms, slots, degrees, components, channels, sources, harmonics, intervals, elements
// range: first, 1/step, cutoff
#define ENTRY(real, suffix)                                                                                          \
  void splined_forward_##suffix(const int64_t *size, const real *table, const real *range, const int64_t *centre,   \
                                const int64_t *neighbour, const int64_t *index, const real *Y, const real *r,       \
                                const real *I, real *out, int threads) {                                            \
    (I ? forward<real, true> : forward<real, false>)(shape(size), table_of(size, table, range),                     \
                                                     {centre, neighbour, size[8]}, index, Y, r, I, out, threads);   \
  }                                                                                                                 \
  void splined_backward_##suffix(const int64_t *size, const real *table, const real *range, const int64_t *centre,  \
                                 const int64_t *neighbour, const int64_t *index, const real *g, const real *Y,      \
                                 const real *r, const real *I, real *dY, real *dr, real *dI, int threads) {         \
    (I ? backward<real, true> : backward<real, false>)(shape(size), table_of(size, table, range),                   \
                                                       {centre, neighbour, size[8]}, index, g, Y, r, I, dY, dr, dI, \
                                                       threads);                                                    \
  }

extern "C" {
ENTRY(float, float)
ENTRY(double, double)
}
