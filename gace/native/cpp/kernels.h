// The kernels of gace/potential/kernels as a program calls them: by precision. What they take is said in their files.
#pragma once

#include <cstdint>

#define GACE_EXPANSION(real)                                                                                       \
  const int64_t *size, const int64_t *species, const int64_t *target, const real *own, const int32_t *pair_index, \
      const real *pair_value, const real *pair_weights, const int64_t *pair_place, const int32_t *triple_index,   \
      const real *triple_value, const real *triple_weights, const int64_t *triple_place,                          \
      const int32_t *quadruple_index, const real *quadruple_value, const real *quadruple_weights,                 \
      const int64_t *quadruple_place
#define GACE_SPLINED(real)                                                                                        \
  const int64_t *size, const real *table, const real *range, const int64_t *centre, const int64_t *neighbour,     \
      const int64_t *index
#define GACE_LINEAR(real) \
  const int64_t *size, const int64_t *species, const int64_t *neighbours, const double *pair, const double *numbers

#define GACE_DECLARED(real)                                                                                        \
  void geometry_forward_##real(const int64_t *size, const real *vector, real *r, real *Y, int threads);            \
  void geometry_backward_##real(const int64_t *size, const real *g_r, const real *g_Y, const real *vector,         \
                                real *out, int threads);                                                           \
  void bond_sums_forward_##real(const int64_t *size, const int64_t *centre, const int64_t *neighbour,              \
                                const real *constants, const real *r, real *out, int threads);                     \
  void bond_sums_backward_##real(const int64_t *size, const int64_t *centre, const int64_t *neighbour,             \
                                 const real *constants, const real *g, const real *r, real *out, int threads);     \
  void splined_forward_##real(GACE_SPLINED(real), const real *Y, const real *r, const real *I, real *out,          \
                              int threads);                                                                        \
  void splined_backward_##real(GACE_SPLINED(real), const real *g, const real *Y, const real *r, const real *I,     \
                               real *dY, real *dr, real *dI, int threads);                                         \
  void mixed_forward_##real(const int64_t *size, const int64_t *dims, const int64_t *counts,                       \
                            const int64_t *species, const real *rows, const real *w, const real *leaf, real *out,  \
                            real *apart, int threads);                                                             \
  void mixed_backward_##real(const int64_t *size, const int64_t *dims, const int64_t *counts, const real *g,       \
                             const real *h, const real *w, real *slope, int threads);                              \
  void coupling_forward_##real(const int32_t *index, const real *value, const int64_t *size,                       \
                               const int64_t *species, const real *x, const real *y, const real *w, real *out,     \
                               int threads);                                                                       \
  void coupling_backward_##real(const int32_t *index, const real *value, const int64_t *size,                      \
                                const int64_t *species, const real *g, const real *x, const real *y,               \
                                const real *w, real *gw, real *gx, real *gy, int threads);                         \
  void expansion_forward_##real(GACE_EXPANSION(real), const real *A, real *out, int threads);                      \
  void expansion_backward_##real(GACE_EXPANSION(real), const real *of_invariants, const real *of_message,          \
                                 const real *A, const real *out, real *slope, int threads);                        \
  void linear_density_forward_##real(GACE_LINEAR(real), const real *Y, const real *r, real *out, int threads);     \
  void linear_density_backward_##real(GACE_LINEAR(real), const real *g, const real *Y, const real *r, real *of_Y,  \
                                      real *of_r, int threads);                                                    \
  void linear_invariants_##real(const int64_t *size, const int64_t *order, const int64_t *of_element,              \
                                const int64_t *column, const real *centre, const real *stretch,                    \
                                const int64_t *end, const int64_t *factors, const real *coupling,                  \
                                const int64_t *product, const real *share, const real *coefficient,                \
                                const real *rest, const real *density, real *energy, real *out, real *slope,       \
                                int threads);                                                                      \
  void forces_##real(const int64_t *size, const int64_t *neighbour, const int64_t *structure, const real *vector,  \
                     const real *slope, real *force, real *virial, int threads);

extern "C" {
GACE_DECLARED(float)
GACE_DECLARED(double)
}

namespace gace {

template <class real>
struct Kernels;

#define GACE_KERNELS(real)                                                      \
  template <>                                                                   \
  struct Kernels<real> {                                                        \
    static constexpr auto geometry_forward = geometry_forward_##real;           \
    static constexpr auto geometry_backward = geometry_backward_##real;         \
    static constexpr auto bond_sums_forward = bond_sums_forward_##real;         \
    static constexpr auto bond_sums_backward = bond_sums_backward_##real;       \
    static constexpr auto splined_forward = splined_forward_##real;             \
    static constexpr auto splined_backward = splined_backward_##real;           \
    static constexpr auto mixed_forward = mixed_forward_##real;                 \
    static constexpr auto mixed_backward = mixed_backward_##real;               \
    static constexpr auto coupling_forward = coupling_forward_##real;           \
    static constexpr auto coupling_backward = coupling_backward_##real;         \
    static constexpr auto expansion_forward = expansion_forward_##real;         \
    static constexpr auto expansion_backward = expansion_backward_##real;       \
    static constexpr auto density_forward = linear_density_forward_##real;      \
    static constexpr auto density_backward = linear_density_backward_##real;    \
    static constexpr auto invariants = linear_invariants_##real;                \
    static constexpr auto forces = forces_##real;                               \
  };
GACE_KERNELS(float)
GACE_KERNELS(double)

// Matrix product of n rows (in -> out) and its transpose.
template <class real>
void multiply(int64_t n, int64_t in, int64_t out, const real *rows, const real *w, real *to, int threads) {
  const int64_t one = 1, size[] = {n, 1, 1, 1, in, out, 0};
  Kernels<real>::mixed_forward(size, &one, &one, nullptr, rows, w, nullptr, to, nullptr, threads);
}

template <class real>
void multiply_back(int64_t n, int64_t in, int64_t out, const real *g, const real *w, real *to, int threads) {
  const int64_t one = 1, size[] = {n, 1, 1, 1, in, out, 0};
  Kernels<real>::mixed_backward(size, &one, &one, g, nullptr, w, to, threads);
}

}  // namespace gace
