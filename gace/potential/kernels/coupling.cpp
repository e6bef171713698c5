// The products of coupling.h as operators: values, and first and second derivatives.
//
// Arrays are (atom, component, channel), channels contiguous, so that an atom's numbers lie in cache while its rows
// are formed.

#include "coupling.h"

namespace {

template <class real>
struct Atoms {
  Product<real> product;
  const int64_t *species;
  int64_t count, channels, elements;
};

// The rows of some atoms, channels from k on.
template <class real>
struct Rows {
  real *first;
  int64_t next, K;  // numbers from atom to atom and from row to row

  Rows(real *all, int64_t rows, const Atoms<real> &, int64_t n, int64_t k, int64_t K)
      : first(all == nullptr ? nullptr : all + n * rows * K + k), next(rows * K), K(K) {}
  real *operator()(int a, int64_t row) const { return first + a * next + row * K; }
};

// The weights of some atoms' elements, which belong to paths.
template <class real>
struct Weights {
  real *first;
  const int64_t *species;
  int64_t K, path;

  Weights(real *all, const Atoms<real> &a, int64_t n, int64_t k)
      : first(all + k), species(a.species + n), K(a.channels), path(a.elements * a.channels) {}
  real *operator()(int a, int64_t p) const { return first + p * path + species[a] * K; }
};

template <class real>
Rows<real> rows_of(const Atoms<real> &a, const real *all, int64_t rows, int64_t n, int64_t k) {
  return {const_cast<real *>(all), rows, a, n, k, a.channels};
}

template <class real>
Weights<real> weights_of(const Atoms<real> &a, const real *all, int64_t n, int64_t k) {
  return {const_cast<real *>(all), a, n, k};
}

template <class C, class real>
void forward(C, const Atoms<real> &a, int64_t n, int64_t k, const real *x, const real *y, const real *w, real *out,
             real *scratch) {
  const Product<real> &p = a.product;
  const auto X = rows_of(a, x, p.left, n, k), Y = rows_of(a, y, p.right, n, k), to = rows_of(a, out, p.targets, n, k);
  const auto W = weights_of(a, w, n, k);
  C::clear(to.first, p.targets, to.K, to.next);
  C::rows(
      p, scratch, [&](int32_t i, int32_t j, int m, int u) { return C::at(X(m, i), u) * C::at(Y(m, j), u); },
      [&](int32_t path, int32_t target, int m, const auto *sum) { C::add(sum, W(m, path), to(m, target)); });
}

// What is owed to either factor is added up in one array (gx = gy) where they are equal; gy may be null.
template <class C, class real>
void owe(C, const Atoms<real> &a, int64_t n, int64_t k, const real *g, const real *x, const real *y, const real *w,
         real *gx, real *gy, real *scratch) {
  const Product<real> &p = a.product;
  const auto X = rows_of(a, x, p.left, n, k), Y = rows_of(a, y, p.right, n, k), G = rows_of(a, g, p.targets, n, k);
  const auto to_x = rows_of(a, gx, p.left, n, k), to_y = rows_of(a, gy, p.right, n, k);
  const auto W = weights_of(a, w, n, k);
  C::clear(to_x.first, p.left, to_x.K, to_x.next);
  if (gy != nullptr && gy != gx) C::clear(to_y.first, p.right, to_y.K, to_y.next);
  C::pairs(
      p, scratch,
      [&](int32_t path, int32_t target, int m, int u) { return C::at(W(m, path), u) * C::at(G(m, target), u); },
      [&](int32_t i, int32_t j, int m, const auto *owed) {
        C::add(owed, Y(m, j), to_x(m, i));
        if (gy != nullptr) C::add(owed, X(m, i), to_y(m, j));
      });
}

template <class C, class real>
void backward(C piece, const Atoms<real> &a, int64_t n, int64_t k, const real *g, const real *x, const real *y,
              const real *w, real *gw, real *gx, real *gy, real *scratch) {
  const Product<real> &p = a.product;
  if (gw != nullptr) {
    const auto X = rows_of(a, x, p.left, n, k), Y = rows_of(a, y, p.right, n, k), G = rows_of(a, g, p.targets, n, k);
    const auto to = weights_of(a, gw, n, k);
    C::rows(
        p, scratch, [&](int32_t i, int32_t j, int m, int u) { return C::at(X(m, i), u) * C::at(Y(m, j), u); },
        [&](int32_t path, int32_t target, int m, const auto *sum) { C::add(sum, G(m, target), to(m, path)); });
  }
  owe(piece, a, n, k, g, x, y, w, gx, gy, scratch);
}

template <class C, class real>
void twice(C piece, const Atoms<real> &a, int64_t n, int64_t k, const real *g, const real *x, const real *y,
           const real *w, const real *ax, const real *ay, real *dg, real *dw, real *dx, real *dy, real *scratch) {
  const Product<real> &p = a.product;
  const auto X = rows_of(a, x, p.left, n, k), Y = rows_of(a, y, p.right, n, k), G = rows_of(a, g, p.targets, n, k);
  const auto AX = rows_of(a, ax, p.left, n, k), AY = rows_of(a, ay, p.right, n, k);
  const auto to = rows_of(a, dg, p.targets, n, k);
  const auto W = weights_of(a, w, n, k), of_w = weights_of(a, dw, n, k);
  C::clear(to.first, p.targets, to.K, to.next);
  C::rows(
      p, scratch,
      [&](int32_t i, int32_t j, int m, int u) {
        return C::at(AX(m, i), u) * C::at(Y(m, j), u) + C::at(X(m, i), u) * C::at(AY(m, j), u);
      },
      [&](int32_t path, int32_t target, int m, const auto *sum) {
        C::add(sum, G(m, target), of_w(m, path));
        C::add(sum, W(m, path), to(m, target));
      });
  owe(piece, a, n, k, g, ax, ay, w, dx, dy, scratch);
}

// work(piece, n, k, scratch, weights) for all atoms n and pieces of the channels from k on. What is owed to the
// weights is added up thread by thread in a fixed order, so that a number of threads gives one result.
template <class real, class Work>
void each_atom(const Atoms<real> &a, real *owed, int threads, Work work) {
  const int64_t length = a.product.paths * a.elements * a.channels;
  if (owed != nullptr) std::memset(owed, 0, sizeof(real) * length);
  std::unique_ptr<real[]> copies(owed != nullptr && threads > 1 ? new real[(threads - 1) * length]() : nullptr);
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
  for (int thread = 0; thread < threads; ++thread) {
    const Room<real> scratch(a.product.widest * most_numbers<real>);
    real *own = owed != nullptr && thread > 0 ? copies.get() + (thread - 1) * length : owed;
    each_piece<real>(a.count * thread / threads, a.count * (thread + 1) / threads, a.channels,
                     [&](auto piece, int64_t n, int64_t k) { work(piece, n, k, scratch.get(), own); });
  }
  for (int thread = 1; copies && thread < threads; ++thread)
    for (int64_t k = 0; k < length; ++k) owed[k] += copies[(thread - 1) * length + k];
}

// size: of the product, then number of atoms, channels, elements
template <class real>
Atoms<real> atoms(const int32_t *index, const real *value, const int64_t *size, const int64_t *species) {
  return {Product<real>(index, value, size), species, size[9], size[10], size[11]};
}

}  // namespace

#define ENTRY(real, suffix)                                                                                         \
  void coupling_forward_##suffix(const int32_t *index, const real *value, const int64_t *size,                     \
                                 const int64_t *species, const real *x, const real *y, const real *w, real *out,   \
                                 int threads) {                                                                    \
    const Atoms<real> a = atoms(index, value, size, species);                                                      \
    each_atom<real>(a, nullptr, threads, [&](auto piece, int64_t n, int64_t k, real *scratch, real *) {            \
      forward(piece, a, n, k, x, y, w, out, scratch);                                                              \
    });                                                                                                            \
  }                                                                                                                \
  /* derivatives of <g, forward(x, y, w)>; gw and gy may be null; equal factors: gy = gx */                          \
  void coupling_backward_##suffix(const int32_t *index, const real *value, const int64_t *size,                    \
                                  const int64_t *species, const real *g, const real *x, const real *y,             \
                                  const real *w, real *gw, real *gx, real *gy, int threads) {                      \
    const Atoms<real> a = atoms(index, value, size, species);                                                      \
    each_atom<real>(a, gw, threads, [&](auto piece, int64_t n, int64_t k, real *scratch, real *own) {              \
      backward(piece, a, n, k, g, x, y, w, own, gx, gy, scratch);                             \
    });                                                                                                            \
  }                                                                                                                \
  /* derivatives of <ax, gx> + <ay, gy> */                                                                         \
  void coupling_twice_##suffix(const int32_t *index, const real *value, const int64_t *size,                       \
                               const int64_t *species, const real *g, const real *x, const real *y, const real *w, \
                               const real *ax, const real *ay, real *dg, real *dw, real *dx, real *dy,             \
                               int threads) {                                                                      \
    const Atoms<real> a = atoms(index, value, size, species);                                                      \
    each_atom<real>(a, dw, threads, [&](auto piece, int64_t n, int64_t k, real *scratch, real *own) {              \
      twice(piece, a, n, k, g, x, y, w, ax, ay, dg, own, dx, dy, scratch);                    \
    });                                                                                                            \
  }

extern "C" {
ENTRY(float, float)
ENTRY(double, double)
}
