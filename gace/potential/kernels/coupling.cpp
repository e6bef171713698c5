// Weighted Clebsch-Gordan products of two arrays, channel by channel, and their derivatives.
//
// Row r of a coupling is p_r = sum_t value[t] x[i[t]] y[j[t]]; it is weighted by w[path[r]] of the atom's element
// and added to component target[r]. Arrays are (atom, component, channel), channels contiguous, so that an atom's
// numbers lie in cache while its rows are formed; no row is ever written to memory.

#include <cstring>
#include <memory>

#include "vectors.h"

namespace {

// Terms sorted by one of the three indices (row, i, j); `other` holds the remaining two in this order.
template <class real>
struct Sorted {
  const int32_t *start, *other;
  const real *value;
};

template <class real>
struct Tables {
  Sorted<real> by_row, by_left, by_right;  // equal factors: by_left has each term both ways, by_right is empty
  const int32_t *row;                      // path and target of each row
  const int64_t *species;
  int64_t rows, paths, left, right, targets, atoms, channels, elements;
};

// Some channels of an atom: U vectors V, V being a vector or a single number.
template <class real, class V, int U>
struct Channels {
  static constexpr int64_t step = sizeof(V) / sizeof(real), wide = U * step;

  // to[row] = sum over its terms of value * a[first] * b[second]; s_: elements from row to row
  static void contract(const Sorted<real> &terms, int64_t rows, const real *a, int64_t sa, const real *b, int64_t sb,
                       real *to, int64_t st) {
    for (int64_t r = 0; r < rows; ++r, to += st) {
      V sum[U] = {};
      for (int32_t k = terms.start[r]; k < terms.start[r + 1]; ++k) {
        const real *p = a + terms.other[2 * k] * sa, *q = b + terms.other[2 * k + 1] * sb;
        for (int u = 0; u < U; ++u) sum[u] += (terms.value[k] * load<V>(p + u * step)) * load<V>(q + u * step);
      }
      for (int u = 0; u < U; ++u) store(to + u * step, sum[u]);
    }
  }

  // to += a * b
  static void add(const real *a, const real *b, real *to) {
    for (int u = 0; u < U; ++u)
      store(to + u * step, load<V>(to + u * step) + load<V>(a + u * step) * load<V>(b + u * step));
  }

  static void clear(real *to, int64_t rows, int64_t stride) {
    for (int64_t r = 0; r < rows; ++r)
      for (int u = 0; u < U; ++u) store(to + r * stride + u * step, V{});
  }

  static const real *weights(const Tables<real> &t, const real *w, int64_t n, int64_t k) {
    return w + t.species[n] * t.channels + k;  // of path p: p * elements * channels further on
  }

  static void forward(const Tables<real> &t, int64_t n, int64_t k, const real *x, const real *y, const real *w,
                      real *out, real *scratch) {
    const int64_t K = t.channels, path = t.elements * K;
    const real *wn = weights(t, w, n, k);
    real *to = out + n * t.targets * K + k;
    clear(to, t.targets, K);
    contract(t.by_row, t.rows, x + n * t.left * K + k, K, y + n * t.right * K + k, K, scratch, wide);
    for (int64_t r = 0; r < t.rows; ++r) add(wn + t.row[2 * r] * path, scratch + r * wide, to + t.row[2 * r + 1] * K);
  }

  // h[r] = w[path of r] * g[target of r]
  static void weigh(const Tables<real> &t, const real *wn, const real *gn, real *h) {
    const int64_t K = t.channels, path = t.elements * K;
    for (int64_t r = 0; r < t.rows; ++r) {
      const real *a = wn + t.row[2 * r] * path, *b = gn + t.row[2 * r + 1] * K;
      for (int u = 0; u < U; ++u) store(h + r * wide + u * step, load<V>(a + u * step) * load<V>(b + u * step));
    }
  }

  static void backward(const Tables<real> &t, int64_t n, int64_t k, const real *g, const real *x, const real *y,
                       const real *w, real *gw, real *gx, real *gy, bool equal, real *scratch) {
    const int64_t K = t.channels, path = t.elements * K;
    const real *wn = weights(t, w, n, k), *gn = g + n * t.targets * K + k;
    const real *xn = x + n * t.left * K + k, *yn = y + n * t.right * K + k;
    if (gw != nullptr) {
      real *to = gw + t.species[n] * K + k;
      contract(t.by_row, t.rows, xn, K, yn, K, scratch, wide);
      for (int64_t r = 0; r < t.rows; ++r)
        add(gn + t.row[2 * r + 1] * K, scratch + r * wide, to + t.row[2 * r] * path);
    }
    weigh(t, wn, gn, scratch);
    contract(t.by_left, t.left, scratch, wide, yn, K, gx + n * t.left * K + k, K);
    if (!equal) contract(t.by_right, t.right, scratch, wide, xn, K, gy + n * t.right * K + k, K);
  }

  static void twice(const Tables<real> &t, int64_t n, int64_t k, const real *g, const real *x, const real *y,
                    const real *w, const real *ax, const real *ay, real *dg, real *dw, real *dx, real *dy, bool equal,
                    real *scratch) {
    const int64_t K = t.channels, path = t.elements * K;
    const real *wn = weights(t, w, n, k), *gn = g + n * t.targets * K + k;
    const real *xn = x + n * t.left * K + k, *yn = y + n * t.right * K + k;
    const real *axn = ax + n * t.left * K + k, *ayn = ay + n * t.right * K + k;
    real *of_g = dg + n * t.targets * K + k, *of_w = dw + t.species[n] * K + k, *more = scratch + t.rows * wide;
    clear(of_g, t.targets, K);
    contract(t.by_row, t.rows, axn, K, yn, K, scratch, wide);
    contract(t.by_row, t.rows, xn, K, ayn, K, more, wide);
    for (int64_t r = 0; r < t.rows; ++r) {
      real *sum = scratch + r * wide;
      for (int u = 0; u < U; ++u)
        store(sum + u * step, load<V>(sum + u * step) + load<V>(more + r * wide + u * step));
      add(gn + t.row[2 * r + 1] * K, sum, of_w + t.row[2 * r] * path);
      add(wn + t.row[2 * r] * path, sum, of_g + t.row[2 * r + 1] * K);
    }
    weigh(t, wn, gn, scratch);
    contract(t.by_left, t.left, scratch, wide, ayn, K, dx + n * t.left * K + k, K);
    if (!equal) contract(t.by_right, t.right, scratch, wide, axn, K, dy + n * t.right * K + k, K);
  }
};

// work(piece, n, k, scratch, weights) for all atoms n and pieces of the channels from k on. What is owed to the
// weights is added up thread by thread in a fixed order, so that a number of threads gives one result.
template <class real, class Work>
void each_atom(const Tables<real> &t, real *owed, int threads, Work work) {
  typedef typename vector_of<real>::type vec;
  constexpr int64_t width = 64 / sizeof(real);
  const int64_t K = t.channels, length = t.paths * t.elements * K;
  if (owed != nullptr) std::memset(owed, 0, sizeof(real) * length);
  std::unique_ptr<real[]> copies(owed != nullptr && threads > 1 ? new real[(threads - 1) * length]() : nullptr);
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
  for (int thread = 0; thread < threads; ++thread) {
    std::unique_ptr<real[]> scratch(new real[2 * t.rows * 4 * width]);
    real *own = owed != nullptr && thread > 0 ? copies.get() + (thread - 1) * length : owed;
    for (int64_t n = t.atoms * thread / threads; n < t.atoms * (thread + 1) / threads; ++n) {
      int64_t k = 0;
      for (; k + 4 * width <= K; k += 4 * width) work(Channels<real, vec, 4>(), n, k, scratch.get(), own);
      for (; k + 2 * width <= K; k += 2 * width) work(Channels<real, vec, 2>(), n, k, scratch.get(), own);
      for (; k + width <= K; k += width) work(Channels<real, vec, 1>(), n, k, scratch.get(), own);
      for (; k < K; ++k) work(Channels<real, real, 1>(), n, k, scratch.get(), own);
    }
  }
  for (int thread = 1; copies && thread < threads; ++thread)
    for (int64_t k = 0; k < length; ++k) owed[k] += copies[(thread - 1) * length + k];
}

// size: rows, paths, left, right, targets, terms by row and by left, atoms, channels, elements
template <class real>
Tables<real> tables(const int32_t *index, const real *value, const int64_t *size, const int64_t *species) {
  const int64_t rows = size[0], left = size[2], right = size[3], by_row = size[5], by_left = size[6];
  const int32_t *p = index;
  Tables<real> t = {{}, {}, {}, p, species, rows, size[1], left, right, size[4], size[7], size[8], size[9]};
  p += 2 * rows;
  t.by_row = {p, p + rows + 1, value};
  p += rows + 1 + 2 * by_row;
  t.by_left = {p, p + left + 1, value + by_row};
  p += left + 1 + 2 * by_left;
  t.by_right = {p, p + right + 1, value + by_row + by_left};
  return t;
}

}  // namespace

#define ENTRY(real, suffix)                                                                                         \
  void coupling_forward_##suffix(const int32_t *index, const real *value, const int64_t *size,                     \
                                 const int64_t *species, const real *x, const real *y, const real *w, real *out,   \
                                 int threads) {                                                                    \
    const Tables<real> t = tables(index, value, size, species);                                                    \
    each_atom<real>(t, nullptr, threads, [&](auto piece, int64_t n, int64_t k, real *scratch, real *) {            \
      decltype(piece)::forward(t, n, k, x, y, w, out, scratch);                                                    \
    });                                                                                                            \
  }                                                                                                                \
  /* derivatives of <g, forward(x, y, w)>; gw may be null, and gy is for equal factors */                          \
  void coupling_backward_##suffix(const int32_t *index, const real *value, const int64_t *size,                    \
                                  const int64_t *species, const real *g, const real *x, const real *y,             \
                                  const real *w, real *gw, real *gx, real *gy, int threads) {                      \
    const Tables<real> t = tables(index, value, size, species);                                                    \
    each_atom<real>(t, gw, threads, [&](auto piece, int64_t n, int64_t k, real *scratch, real *own) {              \
      decltype(piece)::backward(t, n, k, g, x, y, w, own, gx, gy, gy == nullptr, scratch);                         \
    });                                                                                                            \
  }                                                                                                                \
  /* derivatives of <ax, gx> + <ay, gy> */                                                                         \
  void coupling_twice_##suffix(const int32_t *index, const real *value, const int64_t *size,                       \
                               const int64_t *species, const real *g, const real *x, const real *y, const real *w, \
                               const real *ax, const real *ay, real *dg, real *dw, real *dx, real *dy,             \
                               int threads) {                                                                      \
    const Tables<real> t = tables(index, value, size, species);                                                    \
    each_atom<real>(t, dw, threads, [&](auto piece, int64_t n, int64_t k, real *scratch, real *own) {              \
      decltype(piece)::twice(t, n, k, g, x, y, w, ax, ay, dg, own, dx, dy, dy == nullptr, scratch);                \
    });                                                                                                            \
  }

extern "C" {
ENTRY(float, float)
ENTRY(double, double)
}
