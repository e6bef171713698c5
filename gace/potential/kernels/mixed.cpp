// Channels mixed irrep by irrep: products of few rows of every atom with small matrices that lie in cache.
//
// Rows of an irrep are ordered by component, then path, so that the count * K numbers of which a component is made lie
// together: out[n, m] = rows[n, m] W_i with W_i (count K, K'). The derivative by the rows is the same with transposed
// matrices. Every number is a sum in the order of the rows, whatever the blocks and threads.

#include <cstring>
#include <memory>

#include "vectors.h"

namespace {

constexpr int64_t TILE = 64;  // atoms that go through all irreps before the next do
#ifdef __AVX512F__
constexpr int ROWS = 8, WIDE = 2;  // what is added up fits the registers
#else
constexpr int ROWS = 4, WIDE = 1;
#endif

template <class real>
struct Sizes {
  int64_t atoms, irreps, rows, dim, in, out, head;  // rows and components of an atom, channels, first components apart
  const int64_t *dims, *counts;
};

// to[b][k] = sum_j from[b][j] w[j, k] for B rows and U vectors V of columns
template <class real, class V, int U, int B>
inline void block(const real *const *from, const real *w, int64_t length, int64_t width, int64_t k, real *const *to) {
  constexpr int64_t step = sizeof(V) / sizeof(real);
  V sum[B][U] = {};
  for (int64_t j = 0; j < length; ++j) {
    V row[U];
    for (int u = 0; u < U; ++u) row[u] = load<V>(w + j * width + k + u * step);
    for (int b = 0; b < B; ++b) {
      const real x = from[b][j];
      for (int u = 0; u < U; ++u) sum[b][u] += x * row[u];
    }
  }
  for (int b = 0; b < B; ++b)
    for (int u = 0; u < U; ++u) store(to[b] + k + u * step, sum[b][u]);
}

// All columns, the last ones by shorter vectors.
template <class real, int B>
inline void product(const real *const *from, const real *w, int64_t length, int64_t width, real *const *to) {
  typedef typename vector_of<real>::type vec;
  typedef real half __attribute__((vector_size(32)));
  typedef real quarter __attribute__((vector_size(16)));
  constexpr int64_t n = 64 / sizeof(real);
  int64_t k = 0;
  for (; k + WIDE * n <= width; k += WIDE * n) block<real, vec, WIDE, B>(from, w, length, width, k, to);
  for (; k + n <= width; k += n) block<real, vec, 1, B>(from, w, length, width, k, to);
  for (; k + n / 2 <= width; k += n / 2) block<real, half, 1, B>(from, w, length, width, k, to);
  for (; k + n / 4 <= width; k += n / 4) block<real, quarter, 1, B>(from, w, length, width, k, to);
  for (; k < width; ++k) block<real, real, 1, B>(from, w, length, width, k, to);
}

// Some atoms: given(n, d, b) is where component d of atom n lies (b: its place in the block), made(n, r) where row r
// goes; forward they are components of the rows and of the result, backward the other way round.
template <class real, class Given, class Made>
void irreps(const Sizes<real> &s, int64_t first, int64_t last, const real *w, bool back, Given given, Made made) {
  int64_t d = 0, r = 0, p = 0;
  for (int64_t i = 0; i < s.irreps; ++i) {
    const int64_t dim = s.dims[i], count = s.counts[i], inner = count * s.in, total = (last - first) * dim;
    const int64_t length = back ? s.out : inner, width = back ? inner : s.out;
    const real *matrix = w + p * s.in * s.out;
    const real *from[ROWS];
    real *to[ROWS];
    for (int64_t q = 0, n = first, m = 0; q < total;) {
      int have = 0;
      for (; have < ROWS && q < total; ++have, ++q) {
        from[have] = given(n, d + m, r + m * count, have);
        to[have] = made(n, d + m, r + m * count);
        if (++m == dim) m = 0, ++n;
      }
      int b = 0;
      if (have == ROWS) product<real, ROWS>(from, matrix, length, width, to), b = ROWS;
      for (; b + 2 <= have; b += 2) product<real, 2>(from + b, matrix, length, width, to + b);
      for (; b < have; ++b) product<real, 1>(from + b, matrix, length, width, to + b);
    }
    d += dim, r += dim * count, p += count;
  }
}

// work(first, last, scratch) for pieces of the atoms; scratch: ROWS rows of the result's channels.
template <class real, class Work>
void each_tile(const Sizes<real> &s, int threads, Work work) {
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
  for (int thread = 0; thread < threads; ++thread) {
    std::unique_ptr<real[]> scratch(new real[ROWS * s.out]);
    const int64_t end = s.atoms * (thread + 1) / threads;
    for (int64_t n = s.atoms * thread / threads; n < end; n += TILE)
      work(n, n + TILE < end ? n + TILE : end, scratch.get());
  }
}

// size: atoms, irreps, rows and components of an atom, channels of the rows and of the result, first components apart
template <class real>
Sizes<real> sizes(const int64_t *size, const int64_t *dims, const int64_t *counts) {
  return {size[0], size[1], size[2], size[3], size[4], size[5], size[6], dims, counts};
}

template <class real>
void forward(const Sizes<real> &s, const int64_t *species, const real *rows, const real *w, const real *leaf, real *out,
             real *apart, int threads) {
  each_tile(s, threads, [&](int64_t first, int64_t last, real *) {
    irreps(
        s, first, last, w, false,
        [&](int64_t n, int64_t, int64_t r, int) { return rows + (n * s.rows + r) * s.in; },
        [&](int64_t n, int64_t d, int64_t) { return out + (n * s.dim + d) * s.out; });
    for (int64_t n = first; n < last; ++n) {
      real *own = out + n * s.dim * s.out;
      if (leaf != nullptr)
        for (int64_t k = 0; k < s.out; ++k) own[k] += leaf[species[n] * s.out + k];
      if (s.head > 0) std::memcpy(apart + n * s.head * s.out, own, sizeof(real) * s.head * s.out);
    }
  });
}

template <class real>
void backward(const Sizes<real> &s, const real *g, const real *h, const real *w, real *slope, int threads) {
  int64_t paths = 0;
  for (int64_t i = 0; i < s.irreps; ++i) paths += s.counts[i];
  std::unique_ptr<real[]> transposed(new real[paths * s.in * s.out]);
  real *to = transposed.get();
  for (int64_t i = 0; i < s.irreps; ++i) {
    const int64_t inner = s.counts[i] * s.in;
    for (int64_t k = 0; k < s.out; ++k)
      for (int64_t j = 0; j < inner; ++j) to[k * inner + j] = w[j * s.out + k];
    to += inner * s.out, w += inner * s.out;
  }
  each_tile(s, threads, [&](int64_t first, int64_t last, real *scratch) {
    irreps(
        s, first, last, static_cast<const real *>(transposed.get()), true,
        [&](int64_t n, int64_t d, int64_t, int b) {
          const real *own = g + (n * s.dim + d) * s.out;
          if (d >= s.head) return own;
          const real *more = h + (n * s.head + d) * s.out;
          real *sum = scratch + b * s.out;
          for (int64_t k = 0; k < s.out; ++k) sum[k] = own[k] + more[k];
          return static_cast<const real *>(sum);
        },
        [&](int64_t n, int64_t, int64_t r) { return slope + (n * s.rows + r) * s.in; });
  });
}

}  // namespace

#define ENTRY(real, suffix)                                                                                         \
  void mixed_forward_##suffix(const int64_t *size, const int64_t *dims, const int64_t *counts,                     \
                              const int64_t *species, const real *rows, const real *w, const real *leaf,           \
                              real *out, real *apart, int threads) {                                               \
    forward(sizes<real>(size, dims, counts), species, rows, w, leaf, out, apart, threads);                         \
  }                                                                                                                \
  void mixed_backward_##suffix(const int64_t *size, const int64_t *dims, const int64_t *counts, const real *g,     \
                               const real *h, const real *w, real *slope, int threads) {                           \
    backward(sizes<real>(size, dims, counts), g, h, w, slope, threads);                                            \
  }

extern "C" {
ENTRY(float, float)
ENTRY(double, double)
}
