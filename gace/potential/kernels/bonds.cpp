// What an evaluation by tables asks of the bonds besides the tables, and its derivatives: distances and
// harmonics, and sums over the neighbours of an atom of functions of the distance; forces and virials in the end.
// A vector of bonds goes through all formulas at once.

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace {

template <class real>
struct Width {
  typedef typename vector_of<real>::type V;
  static constexpr int64_t bonds = 64 / sizeof(real);
};

// Real harmonics of the unit vector (x, y, z), for m >= 0:
//
//   Y[l, m] = Q[l, m](z) Re (x + iy)^m,    Y[l, -m] = Q[l, m](z) Im (x + iy)^m,
//   Q[m, m] = sectoral[m] Q[m-1, m-1],     Q[l, m] = rise[l, m] (z Q[l-1, m] - fall[l, m] Q[l-2, m]).
template <class real>
struct Recurrence {
  int64_t degrees;
  std::vector<real> sectoral, rise, fall;

  explicit Recurrence(int64_t L) : degrees(L), sectoral(L), rise(L * L), fall(L * L) {
    for (int64_t m = 1; m < L; ++m) sectoral[m] = std::sqrt((2.0 * m + 1) / (m > 1 ? 2 : 1) / m);
    for (int64_t l = 1; l < L; ++l)
      for (int64_t m = 0; m < l; ++m) {
        const double below = (l - 1) * (l - 1);
        rise[l * L + m] = std::sqrt((4.0 * l * l - 1) / (l * l - m * m));
        fall[l * L + m] = std::sqrt((below - m * m) / (4 * below - 1));
      }
  }
};

template <class V>
struct Direction {
  V x, y, z, inverse, r;
};

// Of some bonds from the one at `vector` on; what is missing to a whole vector of them points anywhere.
template <class real>
Direction<typename Width<real>::V> direction(const real *vector, int64_t count) {
  constexpr int64_t W = Width<real>::bonds;
  real x[W], y[W], z[W], r[W];
  for (int64_t b = 0; b < W; ++b) x[b] = y[b] = z[b] = 1;
  for (int64_t b = 0; b < count; ++b, vector += 3) x[b] = vector[0], y[b] = vector[1], z[b] = vector[2];
  for (int64_t b = 0; b < W; ++b) r[b] = std::sqrt(x[b] * x[b] + y[b] * y[b] + z[b] * z[b]);
  typedef typename Width<real>::V V;
  Direction<V> d{load<V>(x), load<V>(y), load<V>(z), V{} + 1, load<V>(r)};
  d.inverse /= d.r;
  d.x *= d.inverse, d.y *= d.inverse, d.z *= d.inverse;
  return d;
}

// `fixed` degrees, or (0) as many as the recurrence has; Y has room for a vector of each component.
template <class real, int fixed>
void harmonics_of(const Recurrence<real> &c, const Direction<typename Width<real>::V> &d, real *Y) {
  typedef typename Width<real>::V V;
  constexpr int64_t W = Width<real>::bonds;
  const int64_t L = fixed ? fixed : c.degrees;
  V re = V{} + 1, im{}, top = re;
  for (int64_t m = 0; m < L; ++m) {
    if (m > 0) {
      const V turned = d.x * im + d.y * re;
      re = d.x * re - d.y * im;
      im = turned;
      top *= c.sectoral[m];
    }
    V q = top, before{};
    for (int64_t l = m; l < L; ++l) {
      if (l > m) {
        const V raised = c.rise[l * L + m] * (d.z * q - c.fall[l * L + m] * before);
        before = q;
        q = raised;
      }
      store(Y + (l * l + l + m) * W, q * re);
      if (m > 0) store(Y + (l * l + l - m) * W, q * im);
    }
  }
}

// Derivative of <g, Y> by the unit vector, continued off the sphere as the formulas above do.
template <class real, int fixed>
void slopes_of(const Recurrence<real> &c, const Direction<typename Width<real>::V> &d, const real *g,
               typename Width<real>::V *slope) {
  typedef typename Width<real>::V V;
  constexpr int64_t W = Width<real>::bonds;
  const int64_t L = fixed ? fixed : c.degrees;
  V re = V{} + 1, im{}, top = re, gx{}, gy{}, gz{};
  for (int64_t m = 0; m < L; ++m) {
    const V lower_re = re, lower_im = im;  // powers of m - 1
    if (m > 0) {
      re = d.x * lower_re - d.y * lower_im;
      im = d.x * lower_im + d.y * lower_re;
      top *= c.sectoral[m];
    }
    V q = top, before{}, steep{}, steep_before{};
    V to_re{}, to_im{}, by_z_re{}, by_z_im{};  // owed to the powers, and the same with the slopes of Q
    for (int64_t l = m; l < L; ++l) {
      if (l > m) {
        const real rise = c.rise[l * L + m], fall = c.fall[l * L + m];
        const V steeper = rise * (q + d.z * steep - fall * steep_before);
        const V raised = rise * (d.z * q - fall * before);
        before = q, steep_before = steep;
        q = raised, steep = steeper;
      }
      if (l == 0) continue;  // Y_00 is constant
      const V of_re = load<V>(g + (l * l + l + m) * W);
      to_re += of_re * q;
      by_z_re += of_re * steep;
      if (m == 0) continue;
      const V of_im = load<V>(g + (l * l + l - m) * W);
      to_im += of_im * q;
      by_z_im += of_im * steep;
    }
    gz += by_z_re * re + by_z_im * im;
    if (m > 0) {
      gx += real(m) * (to_re * lower_re + to_im * lower_im);
      gy += real(m) * (to_im * lower_re - to_re * lower_im);
    }
  }
  slope[0] = gx, slope[1] = gy, slope[2] = gz;
}

// work(first, count, room) for vectors of bonds, the last of which may be filled in part.
template <class real, class Work>
void each_vector(int64_t bonds, int64_t components, int threads, Work work) {
  constexpr int64_t W = Width<real>::bonds;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<real> room(components * W);
#pragma omp for schedule(static)
    for (int64_t block = 0; block < (bonds + W - 1) / W; ++block)
      work(block * W, bonds - block * W < W ? bonds - block * W : W, room.data());
  }
}

template <class Work>
void by_degrees(int64_t degrees, Work work) {
  switch (degrees) {
    case 1: return work(std::integral_constant<int, 1>());
    case 2: return work(std::integral_constant<int, 2>());
    case 3: return work(std::integral_constant<int, 3>());
    case 4: return work(std::integral_constant<int, 4>());
    case 5: return work(std::integral_constant<int, 5>());
    case 6: return work(std::integral_constant<int, 6>());
    case 7: return work(std::integral_constant<int, 7>());
    case 8: return work(std::integral_constant<int, 8>());
    default: return work(std::integral_constant<int, 0>());
  }
}

template <class real>
void geometry_forward(int64_t bonds, int64_t degrees, const real *vector, real *r, real *Y, int threads) {
  constexpr int64_t W = Width<real>::bonds;
  const Recurrence<real> constants(degrees);
  by_degrees(degrees, [&](auto L) {
    const int64_t LM = L ? L * L : degrees * degrees;
    each_vector<real>(bonds, LM, threads, [&](int64_t e, int64_t count, real *room) {
      const auto d = direction(vector + 3 * e, count);
      harmonics_of<real, L>(constants, d, room);
      for (int64_t b = 0; b < count; ++b) r[e + b] = d.r[b];
      for (int64_t b = 0; b < count; ++b)
        for (int64_t i = 0; i < LM; ++i) Y[(e + b) * LM + i] = room[i * W + b];
    });
  });
}

template <class real>
void geometry_backward(int64_t bonds, int64_t degrees, const real *g_r, const real *g_Y, const real *vector,
                       real *out, int threads) {
  typedef typename Width<real>::V V;
  constexpr int64_t W = Width<real>::bonds;
  const Recurrence<real> constants(degrees);
  by_degrees(degrees, [&](auto L) {
    const int64_t LM = L ? L * L : degrees * degrees;
    each_vector<real>(bonds, LM, threads, [&](int64_t e, int64_t count, real *room) {
      for (int64_t b = 0; b < count; ++b)
        for (int64_t i = 0; i < LM; ++i) room[i * W + b] = g_Y[(e + b) * LM + i];
      const auto d = direction(vector + 3 * e, count);
      V g[3], owed{};
      slopes_of<real, L>(constants, d, room, g);
      for (int64_t b = 0; b < count; ++b) owed[b] = g_r[e + b];
      // the harmonics do not change along the bond
      const V along = owed - (g[0] * d.x + g[1] * d.y + g[2] * d.z) * d.inverse;
      const V by_x = along * d.x + g[0] * d.inverse, by_y = along * d.y + g[1] * d.inverse;
      const V by_z = along * d.z + g[2] * d.inverse;
      for (int64_t b = 0; b < count; ++b) {
        real *to = out + 3 * (e + b);
        to[0] = by_x[b], to[1] = by_y[b], to[2] = by_z[b];
      }
    });
  });
}

// Screened repulsion of a bond (gace/potential/zbl.py) or its derivative; called within its range, u < 1.
template <class real, bool derivative>
inline real repulsion_of(real r, real u, real charges, real inverse_length, real inverse_range) {
  constexpr real amplitude[4] = {real(0.18175), real(0.50986), real(0.28022), real(0.02817)};
  constexpr real decay[4] = {real(3.19980), real(0.94229), real(0.40290), real(0.20162)};
  const real x = r * inverse_length, y = u * u, power = y * y * u;
  const real switched = 1 - power * u * (28 - u * (48 - 21 * u));
  real screening = 0, steep = 0;
  for (int k = 0; k < 4; ++k) {
    const real term = amplitude[k] * std::exp(-decay[k] * x);
    screening += term;
    steep -= decay[k] * term;
  }
  if (!derivative) return charges / r * screening * switched;
  const real of_switch = -168 * power * (1 - u) * (1 - u) * inverse_range;
  return charges / r * ((steep * inverse_length - screening / r) * switched + screening * of_switch);
}

struct Sums {
  int64_t atoms, slots, elements, power;
  bool repulsion, inner;
  const int64_t *centre, *neighbour;
};

template <class V>
inline V raised(V x, int64_t power) {
  V y = V{} + 1;
  for (; power > 0; power /= 2, x *= x)
    if (power % 2) y *= x;
  return y;
}

// What the polynomials of some bonds depend on: the share of the cutoff, at most 1, and the inner cutoff's u,
// at least 0. Comparisons are such that what is not a number stays so. each(b, constants, share of the range)
// is called for the bonds that feel the repulsion.
template <class real, class Each>
void arguments(const Sums &d, const real *constants, int64_t n, int64_t e, int64_t count, const real *r,
               real *share, real *inner, Each each) {
  constexpr int64_t W = Width<real>::bonds;
  for (int64_t b = count; b < W; ++b) share[b] = 1, inner[b] = 0;
  for (int64_t b = 0; b < count; ++b) {
    const real *c = constants + (d.centre[n] * d.elements + d.neighbour[e + b]) * 6;
    const real u = r[e + b] * c[0], w = c[4] - r[e + b] * c[5], v = r[e + b] * c[3];
    share[b] = u > 1 ? 1 : u;
    inner[b] = w < 0 ? 0 : w;
    if (d.repulsion && !(v >= 1)) each(b, c, v);
  }
}

template <class real>
void sums_forward(const Sums &d, const real *constants, const real *r, real *out, int threads) {
  typedef typename Width<real>::V V;
  constexpr int64_t W = Width<real>::bonds;
  const real p = d.power, a = (p + 1) * (p + 2) / 2, b = p * (p + 2), c = p * (p + 1) / 2;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t n = 0; n < d.atoms; ++n) {
    V coordination{}, close{};
    real core = 0;
    for (int64_t e = n * d.slots; e < (n + 1) * d.slots; e += W) {
      const int64_t left = (n + 1) * d.slots - e, count = left < W ? left : W;
      real share[W], inner[W];
      arguments(d, constants, n, e, count, r, share, inner, [&](int64_t k, const real *of, real v) {
        core += repulsion_of<real, false>(r[e + k], v, of[1], of[2], of[3]);
      });
      const V u = load<V>(share), w = load<V>(inner);
      coordination += 1 - raised(u, d.power) * (a - u * (b - u * c));
      close += raised(w, 6);
    }
    out[3 * n] = total<real>(coordination);
    out[3 * n + 1] = core;
    out[3 * n + 2] = d.inner ? total<real>(close) : 0;
  }
}

template <class real>
void sums_backward(const Sums &d, const real *constants, const real *g, const real *r, real *out,
                   int threads) {
  typedef typename Width<real>::V V;
  constexpr int64_t W = Width<real>::bonds;
  const real p = d.power, steep = -p * (p + 1) * (p + 2) / 2;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t n = 0; n < d.atoms; ++n) {
    const real of_coordination = steep * g[3 * n], of_core = g[3 * n + 1];
    const real of_close = d.inner ? -6 * g[3 * n + 2] : 0;
    for (int64_t e = n * d.slots; e < (n + 1) * d.slots; e += W) {
      const int64_t left = (n + 1) * d.slots - e, count = left < W ? left : W;
      real share[W], inner[W], core[W] = {};
      arguments(d, constants, n, e, count, r, share, inner, [&](int64_t k, const real *of, real v) {
        core[k] = of_core * repulsion_of<real, true>(r[e + k], v, of[1], of[2], of[3]);
      });
      const V u = load<V>(share), w = load<V>(inner);
      const V by_share = of_coordination * (raised(u, d.power - 1) * (1 - u) * (1 - u));
      const V by_inner = of_close * raised(w, 5);
      for (int64_t k = 0; k < count; ++k) {
        const real *of = constants + (d.centre[n] * d.elements + d.neighbour[e + k]) * 6;
        out[e + k] = by_share[k] * of[0] + by_inner[k] * of[5] + core[k];
      }
    }
  }
}

// Forces (atom, axis) and virials (structure, axis, axis) from the derivative of the energy by the bonds.
template <class real>
void forces(int64_t atoms, int64_t slots, int64_t structures, const int64_t *neighbour, const int64_t *structure,
            const real *vector, const real *slope, real *force, real *virial) {
  std::fill(force, force + 3 * atoms, real(0));
  std::fill(virial, virial + 9 * structures, real(0));
  for (int64_t n = 0; n < atoms; ++n) {
    real own[3] = {}, stretched[9] = {};
    for (int64_t e = n * slots; e < (n + 1) * slots; ++e) {
      const real *v = vector + 3 * e, *g = slope + 3 * e;
      real *other = force + 3 * neighbour[e];
      for (int a = 0; a < 3; ++a) {
        own[a] += g[a];
        other[a] -= g[a];
        for (int b = 0; b < 3; ++b) stretched[3 * a + b] += v[a] * g[b];
      }
    }
    real *to = virial + 9 * structure[n];
    for (int a = 0; a < 3; ++a) {
      force[3 * n + a] += own[a];
      for (int b = 0; b < 3; ++b) to[3 * a + b] += real(0.5) * (stretched[3 * a + b] + stretched[3 * b + a]);
    }
  }
}

inline Sums sums(const int64_t *s, const int64_t *centre, const int64_t *neighbour) {
  return {s[0], s[1], s[2], s[3], s[4] != 0, s[5] != 0, centre, neighbour};
}

}  // namespace

// size: bonds and degrees; or atoms, slots, elements, power of the cutoff, and whether there are repulsion
// and inner cutoffs; or (forces) atoms, slots, structures
#define ENTRY(real)                                                                                          \
  void geometry_forward_##real(const int64_t *size, const real *vector, real *r, real *Y, int threads) {     \
    geometry_forward(size[0], size[1], vector, r, Y, threads);                                               \
  }                                                                                                          \
  void geometry_backward_##real(const int64_t *size, const real *g_r, const real *g_Y, const real *vector,   \
                                real *out, int threads) {                                                    \
    geometry_backward(size[0], size[1], g_r, g_Y, vector, out, threads);                                     \
  }                                                                                                          \
  void bond_sums_forward_##real(const int64_t *size, const int64_t *centre, const int64_t *neighbour,        \
                                const real *constants, const real *r, real *out, int threads) {              \
    sums_forward(sums(size, centre, neighbour), constants, r, out, threads);                                 \
  }                                                                                                          \
  void bond_sums_backward_##real(const int64_t *size, const int64_t *centre, const int64_t *neighbour,       \
                                 const real *constants, const real *g, const real *r, real *out,             \
                                 int threads) {                                                              \
    sums_backward(sums(size, centre, neighbour), constants, g, r, out, threads);                             \
  }                                                                                                          \
  void forces_##real(const int64_t *size, const int64_t *neighbour, const int64_t *structure,                \
                     const real *vector, const real *slope, real *force, real *virial, int) {                \
    forces(size[0], size[1], size[2], neighbour, structure, vector, slope, force, virial);                   \
  }

extern "C" {
ENTRY(float)
ENTRY(double)
}
