// Weighted Clebsch-Gordan products of two arrays, channel by channel, and their derivatives.
//
// Rows r of a coupling are p_r = sum_t value[t] x[i[t]] y[j[t]]; row r is weighted by w[path[r]] and added to
// component target[r]. Everything happens column by column (an atom's channel), so that no row is ever written to
// memory. Columns are taken in blocks that are copied to a scratch space in cache.

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
  int64_t rows, paths, left, right, targets, columns;
  int64_t step;  // 1: weights differ from column to column, 0: they do not
};

constexpr int U = 4;

template <class real>
struct Block {
  typedef typename vector_of<real>::type vec;
  static constexpr int64_t width = 64 / sizeof(real), wide = U * width;

  static void read(const real *from, real *to, int64_t rows, int64_t columns, int64_t c, int64_t count) {
    for (int64_t r = 0; r < rows; ++r, to += wide) {
      const real *line = from + r * columns + c;
      if (count == wide)
        for (int u = 0; u < U; ++u) store(to + u * width, load<vec>(line + u * width));
      else
        for (int64_t k = 0; k < wide; ++k) to[k] = k < count ? line[k] : real(0);
    }
  }

  static void read_weights(const Tables<real> &t, const real *from, real *to, int64_t c, int64_t count) {
    if (t.step) return read(from, to, t.paths, t.columns, c, count);
    for (int64_t r = 0; r < t.paths; ++r)
      for (int64_t k = 0; k < wide; ++k) to[r * wide + k] = from[r];
  }

  static void write(const real *from, real *to, int64_t rows, int64_t columns, int64_t c, int64_t count) {
    for (int64_t r = 0; r < rows; ++r, from += wide) {
      real *line = to + r * columns + c;
      if (count == wide)
        for (int u = 0; u < U; ++u) store(line + u * width, load<vec>(from + u * width));
      else
        for (int64_t k = 0; k < count; ++k) line[k] = from[k];
    }
  }
};

// Calls work(scratch, c, count) for every block of columns; scratch holds `size` rows.
template <class real, class Work>
void each_block(int64_t columns, int64_t size, int threads, Work work) {
  constexpr int64_t wide = Block<real>::wide;
  const int64_t blocks = (columns + wide - 1) / wide;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::unique_ptr<real[]> raw(new real[size * wide + 16]);
    real *scratch = reinterpret_cast<real *>((reinterpret_cast<uintptr_t>(raw.get()) + 63) & ~uintptr_t(63));
#pragma omp for schedule(static)
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t c = b * wide;
      work(scratch, c, columns - c < wide ? columns - c : wide);
    }
  }
}

// to[row] = sum over its terms of value * a[first] * b[second]
template <class real>
inline void contract(const Sorted<real> &terms, int64_t rows, const real *a, const real *b, real *to) {
  typedef Block<real> B;
  typedef typename B::vec vec;
  for (int64_t r = 0; r < rows; ++r, to += B::wide) {
    vec sum[U] = {};
    for (int32_t k = terms.start[r]; k < terms.start[r + 1]; ++k) {
      const real *p = a + terms.other[2 * k] * B::wide, *q = b + terms.other[2 * k + 1] * B::wide;
      for (int u = 0; u < U; ++u)
        sum[u] += (terms.value[k] * load<vec>(p + u * B::width)) * load<vec>(q + u * B::width);
    }
    for (int u = 0; u < U; ++u) store(to + u * B::width, sum[u]);
  }
}

// to += a * b, a block's row each
template <class real>
inline void add_product(const real *a, const real *b, real *to) {
  typedef typename Block<real>::vec vec;
  for (int u = 0; u < U; ++u) {
    const int64_t o = u * Block<real>::width;
    store(to + o, load<vec>(to + o) + load<vec>(a + o) * load<vec>(b + o));
  }
}

// h[r] = w[path of r] * g[target of r]
template <class real>
inline void weigh(const Tables<real> &t, const real *w, const real *g, real *h) {
  typedef typename Block<real>::vec vec;
  for (int64_t r = 0; r < t.rows; ++r)
    for (int u = 0; u < U; ++u) {
      const int64_t o = u * Block<real>::width, W = Block<real>::wide;
      store(h + r * W + o, load<vec>(w + t.row[2 * r] * W + o) * load<vec>(g + t.row[2 * r + 1] * W + o));
    }
}

template <class real>
void forward(const Tables<real> &t, const real *x, const real *y, const real *w, real *out, bool equal,
             int threads) {
  typedef Block<real> B;
  constexpr int64_t W = B::wide;
  const int64_t size = t.left + t.right + t.paths + t.targets + t.rows;
  each_block<real>(t.columns, size, threads, [&](real *s, int64_t c, int64_t n) {
    real *lx = s, *ly = equal ? lx : lx + t.left * W, *lw = s + (t.left + t.right) * W;
    real *lo = lw + t.paths * W, *rows = lo + t.targets * W;
    B::read(x, lx, t.left, t.columns, c, n);
    if (!equal) B::read(y, ly, t.right, t.columns, c, n);
    B::read_weights(t, w, lw, c, n);
    std::memset(lo, 0, sizeof(real) * t.targets * W);
    contract(t.by_row, t.rows, lx, ly, rows);
    for (int64_t r = 0; r < t.rows; ++r)
      add_product(lw + t.row[2 * r] * W, rows + r * W, lo + t.row[2 * r + 1] * W);
    B::write(lo, out, t.targets, t.columns, c, n);
  });
}

// Derivatives of <g, forward(x, y, w)>; gw may be null. Equal factors share one derivative.
template <class real>
void backward(const Tables<real> &t, const real *g, const real *x, const real *y, const real *w, real *gw, real *gx,
              real *gy, bool equal, int threads) {
  typedef Block<real> B;
  constexpr int64_t W = B::wide;
  const int64_t size = 2 * (t.left + t.right + t.paths) + t.targets + t.rows;
  each_block<real>(t.columns, size, threads, [&](real *s, int64_t c, int64_t n) {
    real *lx = s, *ly = equal ? lx : lx + t.left * W, *lw = s + (t.left + t.right) * W, *lg = lw + t.paths * W;
    real *dx = lg + t.targets * W, *dy = dx + t.left * W, *dw = dy + t.right * W, *rows = dw + t.paths * W;
    B::read(x, lx, t.left, t.columns, c, n);
    if (!equal) B::read(y, ly, t.right, t.columns, c, n);
    B::read_weights(t, w, lw, c, n);
    B::read(g, lg, t.targets, t.columns, c, n);
    if (gw != nullptr) {
      std::memset(dw, 0, sizeof(real) * t.paths * W);
      contract(t.by_row, t.rows, lx, ly, rows);
      for (int64_t r = 0; r < t.rows; ++r)
        add_product(lg + t.row[2 * r + 1] * W, rows + r * W, dw + t.row[2 * r] * W);
      B::write(dw, gw, t.paths, t.columns, c, n);
    }
    weigh(t, lw, lg, rows);
    contract(t.by_left, t.left, rows, ly, dx);
    B::write(dx, gx, t.left, t.columns, c, n);
    if (equal) return;
    contract(t.by_right, t.right, rows, lx, dy);
    B::write(dy, gy, t.right, t.columns, c, n);
  });
}

// Derivatives of <ax, gx> + <ay, gy> with gx, gy of backward(); equal factors: ay = ax, and one derivative.
template <class real>
void twice(const Tables<real> &t, const real *g, const real *x, const real *y, const real *w, const real *ax,
           const real *ay, real *dg, real *dw, real *dx, real *dy, bool equal, int threads) {
  typedef Block<real> B;
  typedef typename B::vec vec;
  constexpr int64_t W = B::wide;
  const int64_t size = 3 * (t.left + t.right) + 2 * (t.paths + t.targets) + 2 * t.rows;
  each_block<real>(t.columns, size, threads, [&](real *s, int64_t c, int64_t n) {
    real *lx = s, *ly = equal ? lx : lx + t.left * W, *lax = s + (t.left + t.right) * W;
    real *lay = equal ? lax : lax + t.left * W, *lw = lax + (t.left + t.right) * W, *lg = lw + t.paths * W;
    real *px = lg + t.targets * W, *py = px + t.left * W, *pw = py + t.right * W, *pg = pw + t.paths * W;
    real *rows = pg + t.targets * W, *more = rows + t.rows * W;
    B::read(x, lx, t.left, t.columns, c, n);
    B::read(ax, lax, t.left, t.columns, c, n);
    if (!equal) B::read(y, ly, t.right, t.columns, c, n), B::read(ay, lay, t.right, t.columns, c, n);
    B::read_weights(t, w, lw, c, n);
    B::read(g, lg, t.targets, t.columns, c, n);
    std::memset(pw, 0, sizeof(real) * (t.paths + t.targets) * W);
    contract(t.by_row, t.rows, lax, ly, rows);
    contract(t.by_row, t.rows, lx, lay, more);
    for (int64_t k = 0; k < t.rows * W; k += B::width) store(rows + k, load<vec>(rows + k) + load<vec>(more + k));
    for (int64_t r = 0; r < t.rows; ++r) {
      const int64_t path = t.row[2 * r] * W, target = t.row[2 * r + 1] * W;
      add_product(lg + target, rows + r * W, pw + path);
      add_product(lw + path, rows + r * W, pg + target);
    }
    B::write(pg, dg, t.targets, t.columns, c, n);
    if (dw != nullptr) B::write(pw, dw, t.paths, t.columns, c, n);
    weigh(t, lw, lg, rows);
    contract(t.by_left, t.left, rows, lay, px);
    B::write(px, dx, t.left, t.columns, c, n);
    if (equal) return;
    contract(t.by_right, t.right, rows, lax, py);
    B::write(py, dy, t.right, t.columns, c, n);
  });
}

template <class real>
Tables<real> tables(const int32_t *index, const real *value, const int64_t *size) {
  const int64_t rows = size[0], left = size[2], right = size[3], by_row = size[7], by_left = size[8];
  const int32_t *p = index;
  Tables<real> t = {{}, {}, {}, p, rows, size[1], left, right, size[4], size[5], size[6]};
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
  void coupling_forward_##suffix(const int32_t *index, const real *value, const int64_t *size, const real *x,      \
                                 const real *y, const real *w, real *out, int equal, int threads) {                \
    forward(tables(index, value, size), x, y, w, out, equal, threads);                                             \
  }                                                                                                                \
  void coupling_backward_##suffix(const int32_t *index, const real *value, const int64_t *size, const real *g,     \
                                  const real *x, const real *y, const real *w, real *gw, real *gx, real *gy,       \
                                  int equal, int threads) {                                                        \
    backward(tables(index, value, size), g, x, y, w, gw, gx, gy, equal, threads);                                  \
  }                                                                                                                \
  void coupling_twice_##suffix(const int32_t *index, const real *value, const int64_t *size, const real *g,        \
                               const real *x, const real *y, const real *w, const real *ax, const real *ay,        \
                               real *dg, real *dw, real *dx, real *dy, int equal, int threads) {                   \
    twice(tables(index, value, size), g, x, y, w, ax, ay, dg, dw, dx, dy, equal, threads);                         \
  }

extern "C" {
ENTRY(float, float)
ENTRY(double, double)
}
