// The atomic density summed over neighbours, and its derivatives:
//
//   A[lm, c](n, k) = sum_j Y[lm](n, j) R[l, k](n, j) I[c, k](neighbour(n, j))
//
// Nothing is stored per bond but what goes in and comes out. Without messages I there is one c, and I = 1.

#include <cstring>
#include <memory>

#include "vectors.h"

namespace {

struct Shape {
  int64_t atoms, slots, degrees, components, channels, sources;  // degrees = l_max + 1, sources = rows of I
};

// A few channels of an atom, V being a vector or a single number.
template <class real, class V, int U>
struct Channels {
  typedef V Value;
  static constexpr int64_t step = sizeof(V) / sizeof(real);

  // out[lm * C + c] += sum_j (Y s + Yu s2) with s = R I and s2 its tangent; Yu, Ru, Iu null: values alone
  template <bool carried, bool tangent>
  static void sum(const Shape &d, int64_t n, int64_t k, const int64_t *index, const real *Y, const real *R,
                  const real *I, const real *Yu, const real *Ru, const real *Iu, real *out) {
    for (int64_t l = 0; l < d.degrees; ++l)
      for (int64_t c = 0; c < d.components; ++c)
        for (int64_t m0 = 0; m0 < 2 * l + 1; m0 += 8)
          switch (2 * l + 1 - m0) {
            case 1: part<carried, tangent, 1>(d, n, k, l, c, m0, index, Y, R, I, Yu, Ru, Iu, out); break;
            case 3: part<carried, tangent, 3>(d, n, k, l, c, m0, index, Y, R, I, Yu, Ru, Iu, out); break;
            case 5: part<carried, tangent, 5>(d, n, k, l, c, m0, index, Y, R, I, Yu, Ru, Iu, out); break;
            case 7: part<carried, tangent, 7>(d, n, k, l, c, m0, index, Y, R, I, Yu, Ru, Iu, out); break;
            default: part<carried, tangent, 8>(d, n, k, l, c, m0, index, Y, R, I, Yu, Ru, Iu, out);
          }
  }

  template <bool carried, bool tangent, int M>
  static void part(const Shape &d, int64_t n, int64_t k, int64_t l, int64_t c, int64_t m0, const int64_t *index,
                   const real *Y, const real *R, const real *I, const real *Yu, const real *Ru, const real *Iu,
                   real *out) {
    const int64_t K = d.channels, L = d.degrees, LM = L * L, C = d.components, J = d.slots, lm = l * l + m0;
    V sum[M][U] = {};
    for (int64_t j = 0; j < J; ++j) {
      const int64_t e = n * J + j, r = (e * L + l) * K + k;
      const int64_t i = carried ? ((index ? index[e] : e) * C + c) * K + k : 0;
      const real *y = Y + e * LM + lm, *yu = tangent ? Yu + e * LM + lm : nullptr;
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

  // derivatives by Y, R and I of <g, sum>, or (tangent) of <g, its tangent>
  template <bool carried, bool tangent>
  static void back(const Shape &d, int64_t n, int64_t k, const int64_t *index, const real *g, const real *Y,
                   const real *R, const real *I, const real *Yu, const real *Ru, const real *Iu, real *dY, real *dR,
                   real *dI, V *along) {
    const int64_t K = d.channels, L = d.degrees, LM = L * L, C = d.components, J = d.slots;
    for (int64_t j = 0; j < J; ++j) {
      const int64_t e = n * J + j, i0 = carried ? (index ? index[e] : e) * C * K + k : 0;
      for (int64_t lm = 0; lm < LM; ++lm) along[lm] = V{};
      for (int64_t l = 0; l < L; ++l) {
        const int64_t r = (e * L + l) * K + k, M = 2 * l + 1;
        const real *y = Y + e * LM + l * l, *yu = tangent ? Yu + e * LM + l * l : nullptr;
        V radial[U], radial_u[U] = {}, owed[U] = {};
        V *of_m = along + l * l;
        for (int u = 0; u < U; ++u) {
          radial[u] = load<V>(R + r + u * step);
          if (tangent) radial_u[u] = load<V>(Ru + r + u * step);
        }
        for (int64_t c = 0; c < C; ++c) {
          V s[U], a[U] = {}, b[U] = {}, message[U] = {}, message_u[U] = {};
          for (int u = 0; u < U; ++u) {
            if (carried) {
              message[u] = load<V>(I + i0 + c * K + u * step);
              if (tangent) message_u[u] = load<V>(Iu + i0 + c * K + u * step);
              s[u] = tangent ? radial_u[u] * message[u] + radial[u] * message_u[u] : radial[u] * message[u];
            } else {
              s[u] = tangent ? radial_u[u] : radial[u];
            }
          }
          for (int64_t m = 0; m < M; ++m) {
            const real *line = g + ((n * LM + l * l + m) * C + c) * K + k;
            V sum{};
            for (int u = 0; u < U; ++u) {
              const V value = load<V>(line + u * step);
              sum += value * s[u];
              a[u] += y[m] * value;
              if (tangent) b[u] += yu[m] * value;
            }
            of_m[m] += sum;
          }
          for (int u = 0; u < U; ++u) {
            if (!carried) {
              owed[u] += tangent ? b[u] : a[u];
              continue;
            }
            real *at = dI + i0 + c * K + u * step;
            if (tangent) {
              owed[u] += b[u] * message[u] + a[u] * message_u[u];
              store(at, load<V>(at) + b[u] * radial[u] + a[u] * radial_u[u]);
            } else {
              owed[u] += a[u] * message[u];
              store(at, load<V>(at) + a[u] * radial[u]);
            }
          }
        }
        for (int u = 0; u < U; ++u) store(dR + r + u * step, owed[u]);
      }
      add_totals<real>(along, LM, dY + e * LM);
    }
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

template <class real, bool carried, bool tangent>
void forward(const Shape &d, const int64_t *index, const real *Y, const real *R, const real *I, const real *Yu,
             const real *Ru, const real *Iu, real *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t n = 0; n < d.atoms; ++n)
    each_piece<real>(d.channels, [&](auto piece, int64_t k) {
      decltype(piece)::template sum<carried, tangent>(d, n, k, index, Y, R, I, Yu, Ru, Iu, out);
    });
}

// dI is added up thread by thread in a fixed order, so that a number of threads gives one result.
template <class real, bool carried, bool tangent>
void backward(const Shape &d, const int64_t *index, const real *g, const real *Y, const real *R, const real *I,
              const real *Yu, const real *Ru, const real *Iu, real *dY, real *dR, real *dI, int threads) {
  const int64_t LM = d.degrees * d.degrees, length = d.sources * d.components * d.channels;
  std::memset(dY, 0, sizeof(real) * d.atoms * d.slots * LM);
  if (carried) std::memset(dI, 0, sizeof(real) * length);
  const bool shared = carried && index != nullptr && threads > 1;
  std::unique_ptr<real[]> copies(shared ? new real[(threads - 1) * length]() : nullptr);
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; ++t) {
    constexpr int64_t width = 64 / sizeof(real);
    const int64_t whole = (LM + width - 1) / width * width;
    std::unique_ptr<real[]> raw(new real[whole * width + width]());
    // vectors of the compiler's kind want their alignment
    real *along = reinterpret_cast<real *>((reinterpret_cast<uintptr_t>(raw.get()) + 63) & ~uintptr_t(63));
    real *own = shared && t > 0 ? copies.get() + (t - 1) * length : dI;
    for (int64_t n = d.atoms * t / threads; n < d.atoms * (t + 1) / threads; ++n)
      each_piece<real>(d.channels, [&](auto piece, int64_t k) {
        typedef decltype(piece) P;
        P::template back<carried, tangent>(d, n, k, index, g, Y, R, I, Yu, Ru, Iu, dY, dR, own,
                                           reinterpret_cast<typename P::Value *>(along));
      });
  }
  for (int t = 1; shared && t < threads; ++t)
    for (int64_t k = 0; k < length; ++k) dI[k] += copies[(t - 1) * length + k];
}

Shape shape(const int64_t *s) { return {s[0], s[1], s[2], s[3], s[4], s[5]}; }

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
