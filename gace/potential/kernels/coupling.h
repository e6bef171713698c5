// Weighted Clebsch-Gordan products of two arrays, channel by channel, and their derivatives.
//
// Row r of a coupling is p_r = sum_t value[t] x[i[t]] y[j[t]]; it is weighted by w[path[r]] of the atom's element
// and added to component target[r]. Most pairs (i, j) are in several rows: their products are formed once, and so is
// what is owed to a pair by all its rows. Pairs and rows come in chunks that have nothing to do with each other and
// fit into the nearest cache, and in either order those with equally many terms follow each other, so that loops have
// a length the processor foresees. The lists are made by `terms.py`. No row is ever written to memory.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>

#include "vectors.h"

namespace {

template <class real>
struct Product {
  // chunks; of each its pairs (i, j), then groups of rows: number of terms and of rows, and of each row path, target
  // and the pairs of its terms
  const int32_t *by_row;
  // chunks; of each its rows (path, target), then groups of pairs: number of terms and of pairs, and of each pair i, j
  // and the rows of its terms
  const int32_t *by_pair;
  const real *of_rows, *of_pairs;  // coefficients in these orders
  int64_t paths, left, right, targets, widest;

  // size: rows, paths, left, right, targets, terms, numbers by row and by pair, most pairs or rows of a chunk
  Product(const int32_t *index, const real *value, const int64_t *size)
      : by_row(index), by_pair(index + size[6]), of_rows(value), of_pairs(value + size[5]), paths(size[1]),
        left(size[2]), right(size[3]), targets(size[4]), widest(size[8]) {}
};

// Some channels of A atoms, U vectors V of each, V being a vector or a single number. Reading the lists takes as long
// as the arithmetic of two vectors, so there are to be four to every number read.
template <class real, class V, int U, int A>
struct Channels {
  static constexpr int64_t step = sizeof(V) / sizeof(real), wide = A * U * step;
  static constexpr int atoms = A;

  // take(path, target, a, sum) for every row and atom, pair(i, j, a, u) being vector u of a product
  template <class Pair, class Take>
  static void rows(const Product<real> &product, real *scratch, Pair pair, Take take) {
    chunks(product.by_row, product.of_rows, scratch, pair, take);
  }

  // give(i, j, a, owed) for every pair and atom, row(path, target, a, u) being vector u of what is owed to a row
  template <class Row, class Give>
  static void pairs(const Product<real> &product, real *scratch, Row row, Give give) {
    chunks(product.by_pair, product.of_pairs, scratch, row, give);
  }

  // Sums over what made(first, second, a, u) makes, chunk by chunk.
  template <class Made, class Use>
  static void chunks(const int32_t *at, const real *c, real *scratch, Made made, Use use) {
    for (int32_t left = *at++; left > 0; --left) {
      real *to = scratch;
      for (int32_t n = *at++; n > 0; --n, at += 2)
        for (int a = 0; a < A; ++a)
          for (int u = 0; u < U; ++u, to += step) store(to, made(at[0], at[1], a, u));
      totals(at, c, scratch, use);
    }
  }

  // The groups of a chunk: use(first, second, a, sum) for every sum.
  template <class Use>
  static void totals(const int32_t *&at, const real *&c, const real *from, Use use) {
    for (int32_t groups = *at++; groups > 0; --groups) {
      const int32_t terms = *at++;
      for (int32_t count = *at++; count > 0; --count, at += 2 + terms, c += terms) {
        V sum[A * U];
        const real *one = from + at[2] * wide;
        for (int u = 0; u < A * U; ++u) sum[u] = c[0] * load<V>(one + u * step);
        for (int32_t t = 1; t < terms; ++t) {
          one = from + at[2 + t] * wide;
          for (int u = 0; u < A * U; ++u) sum[u] += c[t] * load<V>(one + u * step);
        }
        for (int a = 0; a < A; ++a) use(at[0], at[1], a, sum + a * U);
      }
    }
  }

  static V at(const real *p, int u) { return load<V>(p + u * step); }

  // to += factor * from
  static void add(const V *factor, const real *from, real *to) {
    for (int u = 0; u < U; ++u) store(to + u * step, at(to, u) + factor[u] * at(from, u));
  }

  static void copy(const real *from, real *to) {
    for (int u = 0; u < U; ++u) store(to + u * step, at(from, u));
  }

  static void increase(const real *from, real *to) {
    for (int u = 0; u < U; ++u) store(to + u * step, at(to, u) + at(from, u));
  }

  static void multiply_add(const real *factor, const real *from, real *to) {
    for (int u = 0; u < U; ++u) store(to + u * step, at(to, u) + at(factor, u) * at(from, u));
  }

  // Zeros for the rows from `to` on, `stride` numbers from row to row and `next` from atom to atom.
  static void clear(real *to, int64_t rows, int64_t stride, int64_t next) {
    for (int a = 0; a < A; ++a)
      for (int64_t r = 0; r < rows; ++r)
        for (int u = 0; u < U; ++u) store(to + a * next + r * stride + u * step, V{});
  }
};

// Numbers for each pair or row of a chunk: four vectors.
template <class real>
constexpr int64_t most_numbers = 4 * 64 / sizeof(real);

// work(piece, n, k) for pieces of the atoms from `first` to before `last` and of all channels
template <class real, class Work>
void each_piece(int64_t first, int64_t last, int64_t channels, Work work) {
  typedef typename vector_of<real>::type vec;
  constexpr int64_t width = 64 / sizeof(real);
  for (int64_t n = first; n < last;) {
    const int64_t end = n + 4 <= last ? n + 4 : n + 1;
    const auto all = [&](auto piece, int64_t k) {
      for (int64_t one = n; one < end; one += piece.atoms) work(piece, one, k);
    };
    int64_t k = 0;
    for (; k + 4 * width <= channels; k += 4 * width) all(Channels<real, vec, 4, 1>(), k);
    for (; k + 2 * width <= channels; k += 2 * width)
      end - n == 4 ? all(Channels<real, vec, 2, 2>(), k) : all(Channels<real, vec, 2, 1>(), k);
    for (; k + width <= channels; k += width)
      end - n == 4 ? all(Channels<real, vec, 1, 4>(), k) : all(Channels<real, vec, 1, 1>(), k);
    for (; k < channels; ++k) all(Channels<real, real, 1, 1>(), k);
    n = end;
  }
}

}  // namespace
