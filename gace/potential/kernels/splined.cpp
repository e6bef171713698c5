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

  // Six rows of functions around r, three at either knot, and the weights of their sum and of its derivative by r.
  const real *around(int64_t pair, real r, real *weight, real *slope) const {
    const real steps = (r - first) * per_step;
    int64_t interval = static_cast<int64_t>(steps);
    interval = interval < 0 ? 0 : interval < intervals ? interval : intervals - 1;
    const real x = steps - static_cast<real>(interval), y = x * x;
    weight[0] = 1 + y * x * (-10 + x * (15 - 6 * x));
    weight[1] = x + y * x * (-6 + x * (8 - 3 * x));
    weight[2] = y * (real(0.5) + x * (real(-1.5) + x * (real(1.5) - real(0.5) * x)));
    weight[3] = y * x * (10 + x * (-15 + 6 * x));
    weight[4] = y * x * (-4 + x * (7 - 3 * x));
    weight[5] = y * x * (real(0.5) + x * (-1 + real(0.5) * x));
    slope[0] = y * (-30 + x * (60 - 30 * x)) * per_step;
    slope[1] = (1 + y * (-18 + x * (32 - 15 * x))) * per_step;
    slope[2] = x * (1 + x * (real(-4.5) + x * (6 - real(2.5) * x))) * per_step;
    slope[3] = -slope[0];
    slope[4] = y * (-12 + x * (28 - 15 * x)) * per_step;
    slope[5] = y * (real(1.5) + x * (-4 + real(2.5) * x)) * per_step;
    return values + (pair * (intervals + 1) + interval) * 3 * functions;
  }

  // All functions at r, and (slopes) their derivatives, in one pass over the table.
  template <bool slopes>
  void read(int64_t pair, real r, real *out, real *steep) const {
    typedef typename vector_of<real>::type V;
    constexpr int64_t width = 64 / sizeof(real);
    real w[6], v[6];
    const real *p = around(pair, r, w, v);
    const int64_t Q = functions;
    int64_t q = 0;
    for (; q + width <= Q; q += width) {
      V value = w[0] * load<V>(p + q), slope = v[0] * load<V>(p + q);
      for (int i = 1; i < 6; ++i) {
        const V one = load<V>(p + i * Q + q);
        value += w[i] * one;
        if (slopes) slope += v[i] * one;
      }
      store(out + q, value);
      if (slopes) store(steep + q, slope);
    }
    for (; q < Q; ++q) {
      real value = 0, slope = 0;
      for (int i = 0; i < 6; ++i) value += w[i] * p[i * Q + q], slope += v[i] * p[i * Q + q];
      out[q] = value;
      if (slopes) steep[q] = slope;
    }
  }

  // Sum of the products of two rows of functions.
  real product(const real *a, const real *b) const {
    typedef typename vector_of<real>::type V;
    constexpr int64_t width = 64 / sizeof(real);
    const int64_t Q = functions;
    V part{};
    int64_t q = 0;
    for (; q + width <= Q; q += width) part += load<V>(a + q) * load<V>(b + q);
    real sum = total<real>(part);
    for (; q < Q; ++q) sum += a[q] * b[q];
    return sum;
  }
};

// The bonds of an atom that are shorter than the cutoff, and their radial functions.
template <class real>
struct Neighbourhood {
  std::vector<int64_t> listed;
  Room<real> radial{0}, steep{0}, owed{0};
  int64_t most = 0;

  // With `slopes` the derivatives too, and room for what is owed to each function.
  template <bool slopes, class Pairs>
  Bonds gather(const Shape &d, const Table<real> &table, int64_t n, const Pairs &pairs, const real *r) {
    listed.clear();
    for (int64_t e = n * d.slots; e < (n + 1) * d.slots; ++e)
      if (r[e] < table.cutoff) listed.push_back(e);
    const int64_t count = listed.size();
    if (most < count) {
      most = count;
      radial = Room<real>(most * table.functions);
      if (slopes) steep = Room<real>(most * table.functions), owed = Room<real>(most * table.functions);
    }
    for (int64_t j = 0; j < count; ++j)
      table.template read<slopes>(pairs(n, listed[j]), r[listed[j]], radial.get() + j * table.functions,
                                  slopes ? steep.get() + j * table.functions : nullptr);
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
      const Bonds bonds = own.template gather<false>(d, table, n, pairs, r);
      each_piece<real>(d.channels, [&](auto piece, int64_t k) {
        decltype(piece)::template sum<carried, false>(d, n, bonds, k, index, Y, own.radial.get(), I, nullptr, nullptr,
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
    for (int64_t n = first; n < last; ++n) {
      const Bonds bonds = own.template gather<true>(d, table, n, pairs, r);
      each_piece<real>(d.channels, [&](auto piece, int64_t k) {
        typedef decltype(piece) P;
        P::template back<carried, false>(d, n, bonds, k, index, g, Y, own.radial.get(), I, nullptr, nullptr, nullptr,
                                         dY, own.owed.get(), owed, reinterpret_cast<typename P::Value *>(along));
      });
      for (int64_t j = 0; j < bonds.count; ++j) {
        const int64_t row = j * table.functions;
        dr[bonds.listed[j]] = table.product(own.owed.get() + row, own.steep.get() + row);
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
