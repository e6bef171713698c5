// What the sum over neighbours consists of, whether its radial functions are given or read off a table:
//
//   A[lm, c](n, k) = sum_j Y[lm](n, j) R[l, k](n, j) I[c, k](neighbour(n, j))
//
// Without messages I there is one c, and I = 1.
#pragma once

#include <cstring>
#include <memory>

#include "vectors.h"

namespace {

struct Shape {
  // degrees = l_max + 1, sources = rows of I, harmonics = stored for each bond, from l = 0 on
  int64_t atoms, slots, degrees, components, channels, sources, harmonics;
};

// The bonds of an atom: all its slots, radial functions stored by bond; or those listed, stored by place in the list.
struct Bonds {
  int64_t first, count;
  const int64_t *listed;
  int64_t bond(int64_t j) const { return listed ? listed[j] : first + j; }
  int64_t row(int64_t j) const { return listed ? j : first + j; }
};

// A few channels of an atom, V being a vector or a single number.
template <class real, class V, int U>
struct Channels {
  typedef V Value;
  static constexpr int64_t step = sizeof(V) / sizeof(real);

  // out[lm * C + c] += sum_j (Y s + Yu s2) with s = R I and s2 its tangent; Yu, Ru, Iu null: values alone
  template <bool carried, bool tangent>
  static void sum(const Shape &d, int64_t n, const Bonds &bonds, int64_t k, const int64_t *index, const real *Y, const real *R,
                  const real *I, const real *Yu, const real *Ru, const real *Iu, real *out) {
    for (int64_t l = 0; l < d.degrees; ++l)
      for (int64_t c = 0; c < d.components; ++c)
        for (int64_t m0 = 0; m0 < 2 * l + 1; m0 += 8)
          switch (2 * l + 1 - m0) {
            case 1: part<carried, tangent, 1>(d, n, bonds, k, l, c, m0, index, Y, R, I, Yu, Ru, Iu, out); break;
            case 3: part<carried, tangent, 3>(d, n, bonds, k, l, c, m0, index, Y, R, I, Yu, Ru, Iu, out); break;
            case 5: part<carried, tangent, 5>(d, n, bonds, k, l, c, m0, index, Y, R, I, Yu, Ru, Iu, out); break;
            case 7: part<carried, tangent, 7>(d, n, bonds, k, l, c, m0, index, Y, R, I, Yu, Ru, Iu, out); break;
            default: part<carried, tangent, 8>(d, n, bonds, k, l, c, m0, index, Y, R, I, Yu, Ru, Iu, out);
          }
  }

  template <bool carried, bool tangent, int M>
  static void part(const Shape &d, int64_t n, const Bonds &bonds, int64_t k, int64_t l, int64_t c, int64_t m0, const int64_t *index,
                   const real *Y, const real *R, const real *I, const real *Yu, const real *Ru, const real *Iu,
                   real *out) {
    const int64_t K = d.channels, L = d.degrees, LM = L * L, C = d.components, lm = l * l + m0;
    V sum[M][U] = {};
    for (int64_t j = 0; j < bonds.count; ++j) {
      const int64_t e = bonds.bond(j), r = (bonds.row(j) * L + l) * K + k;
      const int64_t i = carried ? ((index ? index[e] : e) * C + c) * K + k : 0;
      const real *y = Y + e * d.harmonics + lm, *yu = tangent ? Yu + e * d.harmonics + lm : nullptr;
      for (int u = 0; u < U; ++u) {
        const int64_t o = u * step;
        V s = load<V>(R + r + o), su{};
        if (tangent) {
          su = load<V>(Ru + r + o);
          if (carried) su = su * load<V>(I + i + o) + s * load<V>(Iu + i + o);
        }
        if (carried) s = s * load<V>(I + i + o);
        for (int m = 0; m < M; ++m) {
          if (tangent)
            sum[m][u] += yu[m] * s + y[m] * su;
          else
            sum[m][u] += y[m] * s;
        }
      }
    }
    for (int m = 0; m < M; ++m)
      for (int u = 0; u < U; ++u)
        store(out + ((n * LM + lm + m) * C + c) * K + k + u * step, sum[m][u]);
  }

  // derivatives by Y, R and I of <g, sum>, or (tangent) of <g, its tangent>; two bonds share what is read of g
  template <bool carried, bool tangent>
  static void back(const Shape &d, int64_t n, const Bonds &bonds, int64_t k, const int64_t *index, const real *g,
                   const real *Y, const real *R, const real *I, const real *Yu, const real *Ru, const real *Iu,
                   real *dY, real *dR, real *dI, V *along) {
    int64_t j = 0;
    for (; j + 2 <= bonds.count; j += 2)
      some<carried, tangent, 2>(d, n, bonds, j, k, index, g, Y, R, I, Yu, Ru, Iu, dY, dR, dI, along);
    if (j < bonds.count)
      some<carried, tangent, 1>(d, n, bonds, j, k, index, g, Y, R, I, Yu, Ru, Iu, dY, dR, dI, along);
  }

  // The same for E bonds from the j-th on.
  template <bool carried, bool tangent, int E>
  static void some(const Shape &d, int64_t n, const Bonds &bonds, int64_t j, int64_t k, const int64_t *index,
                   const real *g, const real *Y, const real *R, const real *I, const real *Yu, const real *Ru,
                   const real *Iu, real *dY, real *dR, real *dI, V *along) {
    constexpr int64_t width = 64 / sizeof(real);
    const int64_t K = d.channels, L = d.degrees, LM = L * L, C = d.components;
    const int64_t whole = (LM + width - 1) / width * width;  // vectors of a bond in `along`
    int64_t row[E], from[E], at_Y[E];
    for (int b = 0; b < E; ++b) {
      const int64_t e = bonds.bond(j + b);
      row[b] = bonds.row(j + b) * L * K + k;
      from[b] = carried ? (index ? index[e] : e) * C * K + k : 0;
      at_Y[b] = e * d.harmonics;
    }
    for (int64_t l = 0; l < L; ++l) {
      const int64_t M = 2 * l + 1;
      V radial[E][U], radial_u[E][U] = {}, owed[E][U] = {};
      for (int b = 0; b < E; ++b)
        for (int u = 0; u < U; ++u) {
          radial[b][u] = load<V>(R + row[b] + l * K + u * step);
          if (tangent) radial_u[b][u] = load<V>(Ru + row[b] + l * K + u * step);
        }
      for (int64_t c = 0; c < C; ++c) {
        V s[E][U], a[E][U] = {}, t[E][U] = {}, message[E][U] = {}, message_u[E][U] = {};
        for (int b = 0; b < E; ++b)
          for (int u = 0; u < U; ++u) {
            s[b][u] = tangent ? radial_u[b][u] : radial[b][u];
            if (!carried) continue;
            message[b][u] = load<V>(I + from[b] + c * K + u * step);
            if (tangent) message_u[b][u] = load<V>(Iu + from[b] + c * K + u * step);
            s[b][u] = s[b][u] * message[b][u];
            if (tangent) s[b][u] += radial[b][u] * message_u[b][u];
          }
        const real *line = g + ((n * LM + l * l) * C + c) * K + k;
        for (int64_t m = 0; m < M; ++m, line += C * K) {
          V value[U];
          for (int u = 0; u < U; ++u) value[u] = load<V>(line + u * step);
          for (int b = 0; b < E; ++b) {
            const int64_t y = at_Y[b] + l * l + m;
            V sum = value[0] * s[b][0];
            for (int u = 1; u < U; ++u) sum += value[u] * s[b][u];
            V *to = along + b * whole + l * l + m;
            *to = c == 0 ? sum : *to + sum;
            for (int u = 0; u < U; ++u) {
              a[b][u] += Y[y] * value[u];
              if (tangent) t[b][u] += Yu[y] * value[u];
            }
          }
        }
        for (int b = 0; b < E; ++b)
          for (int u = 0; u < U; ++u) {
            if (!carried) {
              owed[b][u] += tangent ? t[b][u] : a[b][u];
              continue;
            }
            real *at = dI + from[b] + c * K + u * step;
            if (tangent) {
              owed[b][u] += t[b][u] * message[b][u] + a[b][u] * message_u[b][u];
              store(at, load<V>(at) + t[b][u] * radial[b][u] + a[b][u] * radial_u[b][u]);
            } else {
              owed[b][u] += a[b][u] * message[b][u];
              store(at, load<V>(at) + a[b][u] * radial[b][u]);
            }
          }
      }
      for (int b = 0; b < E; ++b)
        for (int u = 0; u < U; ++u) store(dR + row[b] + l * K + u * step, owed[b][u]);
    }
    for (int b = 0; b < E; ++b) add_totals<real>(along + b * whole, LM, dY + at_Y[b]);
  }
};

// work(piece, k) for pieces of the channels: pairs of vectors, then one vector, then single channels.
template <class real, class Work>
void each_piece(int64_t channels, Work work) {
  typedef typename vector_of<real>::type vec;
  constexpr int64_t width = 64 / sizeof(real);
  int64_t k = 0;
  for (; k + 2 * width <= channels; k += 2 * width) work(Channels<real, vec, 2>(), k);
  for (; k + width <= channels; k += width) work(Channels<real, vec, 1>(), k);
  for (; k < channels; ++k) work(Channels<real, real, 1>(), k);
}

// work(first, last, along, owed) for the atoms of each thread; dY and dI are zero before. What the messages are
// owed is added up thread by thread in a fixed order, so that a number of threads gives one result.
template <class real, bool carried, class Work>
void backwards(const Shape &d, const int64_t *index, real *dY, real *dI, int threads, Work work) {
  const int64_t LM = d.degrees * d.degrees, length = d.sources * d.components * d.channels;
  std::memset(dY, 0, sizeof(real) * d.atoms * d.slots * d.harmonics);
  if (carried) std::memset(dI, 0, sizeof(real) * length);
  const bool shared = carried && index != nullptr && threads > 1;
  std::unique_ptr<real[]> copies(shared ? new real[(threads - 1) * length]() : nullptr);
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; ++t) {
    constexpr int64_t width = 64 / sizeof(real);
    const int64_t whole = (LM + width - 1) / width * width;
    std::unique_ptr<real[]> raw(new real[2 * whole * width + width]());
    // vectors of the compiler's kind want their alignment
    real *along = reinterpret_cast<real *>((reinterpret_cast<uintptr_t>(raw.get()) + 63) & ~uintptr_t(63));
    work(d.atoms * t / threads, d.atoms * (t + 1) / threads, along,
         shared && t > 0 ? copies.get() + (t - 1) * length : dI);
  }
  for (int t = 1; shared && t < threads; ++t)
    for (int64_t k = 0; k < length; ++k) dI[k] += copies[(t - 1) * length + k];
}

inline Shape shape(const int64_t *s) { return {s[0], s[1], s[2], s[3], s[4], s[5], s[6]}; }

}  // namespace
