// The sum over neighbours with radial functions read off a table: nothing is stored per bond and channel.
//
// Each pair of elements has `intervals` pieces of degree five per function, coefficients by rising power:
// table[pair][interval][power][l, k], in the variable x = (r - first) / step - interval. Functions are zero at
// and beyond `cutoff`, and such bonds are left out. The derivative is that of the polynomial itself.

#include <cmath>
#include <vector>

#include "density.h"

namespace {

template <class real>
struct Table {
  const real *values;
  int64_t intervals, functions;
  real first, per_step, cutoff;

  // Coefficients of the piece that holds r, and the place in it.
  const real *piece(int64_t pair, real r, real &x) const {
    const real steps = (r - first) * per_step;
    int64_t interval = static_cast<int64_t>(steps);
    interval = interval < 0 ? 0 : interval < intervals ? interval : intervals - 1;
    x = steps - static_cast<real>(interval);
    return values + (pair * intervals + interval) * 6 * functions;
  }

  void read(int64_t pair, real r, real *out) const {
    real x;
    const real *p = piece(pair, r, x);
    const int64_t Q = functions;
    for (int64_t q = 0; q < Q; ++q)
      out[q] =
          ((((p[5 * Q + q] * x + p[4 * Q + q]) * x + p[3 * Q + q]) * x + p[2 * Q + q]) * x + p[Q + q]) * x + p[q];
  }

  // sum over functions of owed times their derivative by r
  real slope(int64_t pair, real r, const real *owed) const {
    real x;
    const real *p = piece(pair, r, x);
    const int64_t Q = functions;
    constexpr int64_t width = 16;
    real part[width] = {};
    int64_t q = 0;
    for (; q + width <= Q; q += width)
      for (int64_t i = 0; i < width; ++i) {
        const int64_t a = q + i;
        part[i] += owed[a] * ((((5 * p[5 * Q + a] * x + 4 * p[4 * Q + a]) * x + 3 * p[3 * Q + a]) * x + 2 * p[2 * Q + a]) * x +
                              p[Q + a]);
      }
    real sum = 0;
    for (; q < Q; ++q)
      sum += owed[q] *
             ((((5 * p[5 * Q + q] * x + 4 * p[4 * Q + q]) * x + 3 * p[3 * Q + q]) * x + 2 * p[2 * Q + q]) * x + p[Q + q]);
    for (int64_t i = 0; i < width; ++i) sum += part[i];
    return sum * per_step;
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
  return {values, size[6], size[2] * size[4], range[0], range[1], range[2]};
}

}  // namespace

// size: atoms, slots, degrees, components, channels, sources, intervals, elements; range: first, 1/step, cutoff
#define ENTRY(real, suffix)                                                                                          \
  void splined_forward_##suffix(const int64_t *size, const real *table, const real *range, const int64_t *centre,   \
                                const int64_t *neighbour, const int64_t *index, const real *Y, const real *r,       \
                                const real *I, real *out, int threads) {                                            \
    (I ? forward<real, true> : forward<real, false>)(shape(size), table_of(size, table, range),                     \
                                                     {centre, neighbour, size[7]}, index, Y, r, I, out, threads);   \
  }                                                                                                                 \
  void splined_backward_##suffix(const int64_t *size, const real *table, const real *range, const int64_t *centre,  \
                                 const int64_t *neighbour, const int64_t *index, const real *g, const real *Y,      \
                                 const real *r, const real *I, real *dY, real *dr, real *dI, int threads) {         \
    (I ? backward<real, true> : backward<real, false>)(shape(size), table_of(size, table, range),                   \
                                                       {centre, neighbour, size[7]}, index, g, Y, r, I, dY, dr, dI, \
                                                       threads);                                                    \
  }

extern "C" {
ENTRY(float, float)
ENTRY(double, double)
}
