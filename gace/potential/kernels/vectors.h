// Short vectors of the compiler's own kind: one code for every width of registers.
#pragma once

#include <cstdint>
#include <memory>

template <class real>
struct vector_of {
  typedef real type __attribute__((vector_size(64)));
};

template <class V, class real>
inline V load(const real *p) {
  V x;
  __builtin_memcpy(&x, p, sizeof(V));  // no alignment is asked for
  return x;
}

template <class V, class real>
inline void store(real *p, V x) {
  __builtin_memcpy(p, &x, sizeof(V));
}

// Sum over the elements of a vector in a fixed order.
template <class real, class V>
inline real total(const V &x) {
  constexpr int n = sizeof(V) / sizeof(real);
  real part[n];
  __builtin_memcpy(part, &x, sizeof(V));
  for (int half = n / 2; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) part[k] += part[k + half];
  return part[0];
}

#if defined(__GNUC__) && !defined(__clang__)
// Pairs of neighbours added up: those of a in the lower half, those of b in the upper.
template <class V, class I, int n>
inline V pairs(const V &a, const V &b) {
  I even, odd;
  for (int k = 0; k < n; ++k) even[k] = 2 * k, odd[k] = 2 * k + 1;
  return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
}

// Element k of the result is the total of x[k]; x is used up.
template <class V, class I, int n>
inline V totals(V *x) {
  for (int left = n / 2; left > 0; left /= 2)
    for (int k = 0; k < left; ++k) x[k] = pairs<V, I, n>(x[2 * k], x[2 * k + 1]);
  return x[0];
}

inline vector_of<float>::type totals_of(vector_of<float>::type *x) {
  typedef int32_t index __attribute__((vector_size(64)));
  return totals<vector_of<float>::type, index, 16>(x);
}

inline vector_of<double>::type totals_of(vector_of<double>::type *x) {
  typedef int64_t index __attribute__((vector_size(64)));
  return totals<vector_of<double>::type, index, 8>(x);
}
#else
inline vector_of<float>::type totals_of(vector_of<float>::type *x) {
  vector_of<float>::type sum;
  for (int k = 0; k < 16; ++k) sum[k] = total<float>(x[k]);
  return sum;
}

inline vector_of<double>::type totals_of(vector_of<double>::type *x) {
  vector_of<double>::type sum;
  for (int k = 0; k < 8; ++k) sum[k] = total<double>(x[k]);
  return sum;
}
#endif

// Totals of `count` vectors added to the numbers at `to`; x has room for whole vectors of totals.
template <class real>
inline void add_totals(typename vector_of<real>::type *x, int64_t count, real *to) {
  constexpr int64_t n = 64 / sizeof(real);
  for (int64_t first = 0; first < count; first += n) {
    const typename vector_of<real>::type sum = totals_of(x + first);
    const int64_t end = count - first < n ? count - first : n;
    for (int64_t k = 0; k < end; ++k) to[first + k] += sum[k];
  }
}

// Single numbers are their own totals.
template <class real>
inline void add_totals(real *x, int64_t count, real *to) {
  for (int64_t k = 0; k < count; ++k) to[k] += x[k];
}

// Room of so many numbers that starts with a cache line: vectors that straddle two take twice the time.
template <class real>
class Room {
 public:
  explicit Room(int64_t size) : whole(new real[size + 64 / sizeof(real)]) {
    const uintptr_t past = reinterpret_cast<uintptr_t>(whole.get()) % 64;
    first = whole.get() + (past ? (64 - past) / sizeof(real) : 0);
  }
  real *get() const { return first; }

 private:
  std::unique_ptr<real[]> whole;
  real *first;
};
