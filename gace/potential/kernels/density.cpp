// The atomic density summed over neighbours, and its derivatives:
//
//   A[lm, c](n, k) = sum_j Y[lm](n, j) R[l, k](n, j) I[c, k](neighbour(n, j))
//
// Nothing is stored per bond but what goes in and comes out. Without messages I there is one c, and I = 1.

#include "density.h"

namespace {

template <class real, bool carried, bool tangent>
void forward(const Shape &d, const int64_t *index, const real *Y, const real *R, const real *I, const real *Yu,
             const real *Ru, const real *Iu, real *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t n = 0; n < d.atoms; ++n)
    each_piece<real>(d.channels, [&](auto piece, int64_t k) {
      decltype(piece)::template sum<carried, tangent>(d, n, {n * d.slots, d.slots, nullptr}, k, index, Y, R, I, Yu,
                                                      Ru, Iu, out);
    });
}

template <class real, bool carried, bool tangent>
void backward(const Shape &d, const int64_t *index, const real *g, const real *Y, const real *R, const real *I,
              const real *Yu, const real *Ru, const real *Iu, real *dY, real *dR, real *dI, int threads) {
  backwards<real, carried>(d, index, dY, dI, threads, [&](int64_t first, int64_t last, real *along, real *owed) {
    for (int64_t n = first; n < last; ++n)
      each_piece<real>(d.channels, [&](auto piece, int64_t k) {
        typedef decltype(piece) P;
        P::template back<carried, tangent>(d, n, {n * d.slots, d.slots, nullptr}, k, index, g, Y, R, I, Yu, Ru, Iu,
                                           dY, dR, owed, reinterpret_cast<typename P::Value *>(along));
      });
  });
}

}  // namespace

#define ENTRY(real, suffix)                                                                                         \
  void density_forward_##suffix(const int64_t *size, const int64_t *index, const real *Y, const real *R,           \
                                const real *I, real *out, int threads) {                                           \
    if (I)                                                                                                         \
      forward<real, true, false>(shape(size), index, Y, R, I, nullptr, nullptr, nullptr, out, threads);            \
    else                                                                                                           \
      forward<real, false, false>(shape(size), index, Y, R, I, nullptr, nullptr, nullptr, out, threads);           \
  }                                                                                                                \
  void density_backward_##suffix(const int64_t *size, const int64_t *index, const real *g, const real *Y,          \
                                 const real *R, const real *I, real *dY, real *dR, real *dI, int threads) {        \
    if (I)                                                                                                         \
      backward<real, true, false>(shape(size), index, g, Y, R, I, nullptr, nullptr, nullptr, dY, dR, dI, threads); \
    else                                                                                                           \
      backward<real, false, false>(shape(size), index, g, Y, R, I, nullptr, nullptr, nullptr, dY, dR, dI,          \
                                   threads);                                                                       \
  }                                                                                                                \
  void density_twice_##suffix(const int64_t *size, const int64_t *index, const real *g, const real *Y,             \
                              const real *R, const real *I, const real *Yu, const real *Ru, const real *Iu,        \
                              real *dg, real *dY, real *dR, real *dI, int threads) {                               \
    if (I) {                                                                                                       \
      forward<real, true, true>(shape(size), index, Y, R, I, Yu, Ru, Iu, dg, threads);                             \
      backward<real, true, true>(shape(size), index, g, Y, R, I, Yu, Ru, Iu, dY, dR, dI, threads);                 \
    } else {                                                                                                       \
      forward<real, false, true>(shape(size), index, Y, R, I, Yu, Ru, Iu, dg, threads);                            \
      backward<real, false, true>(shape(size), index, g, Y, R, I, Yu, Ru, Iu, dY, dR, dI, threads);                \
    }                                                                                                              \
  }

extern "C" {
ENTRY(float, float)
ENTRY(double, double)
}
