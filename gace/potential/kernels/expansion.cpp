// All products of a layer's density for evaluation, some atoms at a time: pairs, what they are mixed to, triples and
// quadruples of it, their sums in the message, and the pass back. What belongs to an atom stays in cache from the
// first product to the last.
//
// The result has an atom's rows one after the other: invariants (of the density, the pairs, triples, quadruples),
// components of the message, and the mixed pairs, which the pass back asks for.

#include "coupling.h"

namespace {

template <class real>
struct Coupled {
  const int32_t *index;  // null: there is none
  const real *value, *weights;
  const int64_t *place;  // row of the result for each target
  const int64_t *size;

  Product<real> product() const { return Product<real>(index, value, size); }
};

template <class real>
struct Layer {
  int64_t atoms, channels, elements;
  int64_t density, scalars;               // components of the density, and scalars among them
  int64_t direct;                         // components of the density in the message
  int64_t invariants, message, mixed;     // rows of each in the result
  const int64_t *species, *target;        // of the atoms; component of the message for each of the direct
  const real *weights;                    // of the direct (element, row, channel)
  Coupled<real> pair, triple, quadruple;

  int64_t rows() const { return invariants + message + mixed; }

  int64_t widest() const {
    int64_t most = 1;
    for (const Coupled<real> *one : {&pair, &triple, &quadruple})
      if (one->index != nullptr) most = std::max(most, one->product().widest);
    return most;
  }
};

// Rows of some atoms from one channel on.
template <class real>
struct Rows {
  real *first;
  int64_t next, stride;  // numbers from atom to atom and from row to row

  real *operator()(int a, int64_t row) const { return first + a * next + row * stride; }
  Rows from(int64_t row) const { return {first + row * stride, next, stride}; }
};

template <class real>
Rows<const real> rows_of(const real *all, int64_t rows, int64_t K, int64_t n, int64_t k) {
  return {all + n * rows * K + k, rows * K, K};
}

template <class real>
Rows<real> rows_of(real *all, int64_t rows, int64_t K, int64_t n, int64_t k) {
  return {all + n * rows * K + k, rows * K, K};
}

// Weight of a path for the element of each atom.
template <class real>
struct Weights {
  const real *first;
  const int64_t *species;
  int64_t K, path;

  const real *operator()(int a, int64_t p) const { return first + p * path + species[a] * K; }
};

template <class real>
Weights<real> weights_of(const Layer<real> &l, const real *all, int64_t n, int64_t k) {
  return {all + k, l.species + n, l.channels, l.elements * l.channels};
}

// to += weighted products of x and y
template <class C, class real>
__attribute__((noinline)) void multiply(const Layer<real> &l, const Coupled<real> &c, int64_t n, int64_t k, Rows<const real> x,
              Rows<const real> y, Rows<real> to, real *scratch) {
  const auto W = weights_of(l, c.weights, n, k);
  C::rows(
      c.product(), scratch, [&](int32_t i, int32_t j, int m, int u) { return C::at(x(m, i), u) * C::at(y(m, j), u); },
      [&](int32_t path, int32_t target, int m, const auto *sum) {
        C::add(sum, W(m, path), to(m, c.place[target]));
      });
}

// to_x, to_y += what is owed to x and y, g being owed to the products
template <class C, class real>
__attribute__((noinline)) void owe(const Layer<real> &l, const Coupled<real> &c, int64_t n, int64_t k, Rows<const real> x, Rows<const real> y,
         Rows<real> g, Rows<real> to_x, Rows<real> to_y, real *scratch) {
  const auto W = weights_of(l, c.weights, n, k);
  C::pairs(
      c.product(), scratch,
      [&](int32_t path, int32_t target, int m, int u) {
        return C::at(W(m, path), u) * C::at(g(m, c.place[target]), u);
      },
      [&](int32_t i, int32_t j, int m, const auto *owed) {
        C::add(owed, y(m, j), to_x(m, i));
        C::add(owed, x(m, i), to_y(m, j));
      });
}

// Weights of the density's own components in the message.
template <class real>
const real *own_weights(const Layer<real> &l, int64_t n, int64_t k, int64_t row) {
  return l.weights + (l.species[n] * l.direct + row) * l.channels + k;
}

template <class real>
void forward(const Layer<real> &l, const real *A, real *out, int threads) {
  const int64_t K = l.channels;
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
  for (int thread = 0; thread < threads; ++thread) {
    const Room<real> scratch(l.widest() * most_numbers<real>);
    each_piece<real>(l.atoms * thread / threads, l.atoms * (thread + 1) / threads, K,
                     [&](auto piece, int64_t n, int64_t k) {
      typedef decltype(piece) C;
      const Rows<const real> x = rows_of(A, l.density, K, n, k);
      const Rows<real> to = rows_of(out, l.rows(), K, n, k);
      C::clear(to.first, l.rows(), K, to.next);
      for (int a = 0; a < C::atoms; ++a) {
        for (int64_t row = 0; row < l.scalars; ++row) C::copy(x(a, row), to(a, row));
        for (int64_t row = 0; row < l.direct; ++row)
          C::multiply_add(own_weights(l, n + a, k, row), x(a, row), to(a, l.invariants + l.target[row]));
      }
      if (l.pair.index == nullptr) return;
      multiply<C>(l, l.pair, n, k, x, x, to, scratch.get());
      const Rows<real> mixed = to.from(l.invariants + l.message);
      const Rows<const real> m{mixed.first, mixed.next, mixed.stride};
      if (l.triple.index != nullptr) multiply<C>(l, l.triple, n, k, m, x, to, scratch.get());
      if (l.quadruple.index != nullptr) multiply<C>(l, l.quadruple, n, k, m, m, to, scratch.get());
    });
  }
}

template <class real>
void backward(const Layer<real> &l, const real *of_invariants, const real *of_message, const real *A, const real *out,
              real *slope, int threads) {
  const int64_t K = l.channels;
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
  for (int thread = 0; thread < threads; ++thread) {
    const Room<real> scratch(l.widest() * most_numbers<real>), owed(l.rows() * most_numbers<real>);
    each_piece<real>(l.atoms * thread / threads, l.atoms * (thread + 1) / threads, K,
                     [&](auto piece, int64_t n, int64_t k) {
      typedef decltype(piece) C;
      const Rows<const real> x = rows_of(A, l.density, K, n, k);
      const Rows<const real> m = rows_of(out, l.rows(), K, n, k).from(l.invariants + l.message);
      const Rows<real> to = rows_of(slope, l.density, K, n, k);
      // what is owed to the result's rows, an atom's vectors side by side
      const Rows<real> g{owed.get(), C::wide / C::atoms, C::wide}, of_mixed = g.from(l.invariants + l.message);
      const Rows<const real> first = rows_of(of_invariants, l.invariants, K, n, k);
      const Rows<const real> second = rows_of(of_message, l.message, K, n, k);
      for (int a = 0; a < C::atoms; ++a) {
        for (int64_t row = 0; row < l.invariants; ++row) C::copy(first(a, row), g(a, row));
        for (int64_t row = 0; row < l.message; ++row) C::copy(second(a, row), g(a, l.invariants + row));
      }
      C::clear(of_mixed.first, l.mixed, of_mixed.stride, of_mixed.next);
      C::clear(to.first, l.density, K, to.next);
      if (l.quadruple.index != nullptr)
        owe<C>(l, l.quadruple, n, k, m, m, g, of_mixed, of_mixed, scratch.get());
      if (l.triple.index != nullptr) owe<C>(l, l.triple, n, k, m, x, g, of_mixed, to, scratch.get());
      if (l.pair.index != nullptr) owe<C>(l, l.pair, n, k, x, x, g, to, to, scratch.get());
      for (int a = 0; a < C::atoms; ++a) {
        for (int64_t row = 0; row < l.scalars; ++row) C::increase(g(a, row), to(a, row));
        for (int64_t row = 0; row < l.direct; ++row)
          C::multiply_add(own_weights(l, n + a, k, row), g(a, l.invariants + l.target[row]), to(a, row));
      }
    });
  }
}

// size: atoms, channels, elements; density, scalars, direct; invariants, message, mixed; then ten numbers (those of a
// product and one more) for each coupling
template <class real>
Layer<real> layer(const int64_t *size, const int64_t *species, const int64_t *target, const real *weights,
                  const Coupled<real> &pair, const Coupled<real> &triple, const Coupled<real> &quadruple) {
  return {size[0], size[1], size[2], size[3], size[4], size[5], size[6], size[7], size[8], species, target, weights,
          pair,    triple,  quadruple};
}

}  // namespace

#define COUPLED(real, name) \
  const int32_t *name##_index, const real *name##_value, const real *name##_weights, const int64_t *name##_place
#define GIVEN(real)                                                                                               \
  const int64_t *size, const int64_t *species, const int64_t *target, const real *weights, COUPLED(real, pair),  \
      COUPLED(real, triple), COUPLED(real, quadruple)
#define LAYER                                                                                                     \
  layer(size, species, target, weights, {pair_index, pair_value, pair_weights, pair_place, size + 9},            \
        {triple_index, triple_value, triple_weights, triple_place, size + 19},                                    \
        {quadruple_index, quadruple_value, quadruple_weights, quadruple_place, size + 29})
#define ENTRY(real, suffix)                                                                                       \
  void expansion_forward_##suffix(GIVEN(real), const real *A, real *out, int threads) {                           \
    forward<real>(LAYER, A, out, threads);                                                                        \
  }                                                                                                               \
  void expansion_backward_##suffix(GIVEN(real), const real *of_invariants, const real *of_message, const real *A, \
                                   const real *out, real *slope, int threads) {                                   \
    backward<real>(LAYER, of_invariants, of_message, A, out, slope, threads);                                     \
  }

extern "C" {
ENTRY(float, float)
ENTRY(double, double)
}
