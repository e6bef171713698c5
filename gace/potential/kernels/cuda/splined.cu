// The density with radial functions read off a table, and its derivatives; see ../splined.cpp and ../triton/splined.py.
//
// A warp has one atom, or some of its bonds. Of up to 32 bonds at a time each lane first looks at one: where in the
// table it lies, and with which weights the six rows around it count; those inside the cutoff are then gone through,
// WIDE at a time, LANES lanes with V channels each for every one. Densities, or what they are owed, stay in registers.
//
// Numbers defined in front: L degrees, LM numbers per bond in Y, C components of the messages (1 if there are none),
// K channels, KB of them for a warp (the rest is another's: blockIdx.y), V channels a lane, WARPS of a block, BLOCKS
// that shall fit a multiprocessor; CARRIED: there are messages, GATHERED: by index. MODE 0: nothing is asked of
// messages; 1: stored bond by bond; 2: added where the message lies. `real` is float or double.

constexpr int LL = L * L, F = L * K, LANES = KB / V, WIDE = 32 / LANES;

// Numbers between bonds in shared memory: at least n, 16 bytes times an odd number, so that bonds lie in other banks.
__host__ __device__ constexpr int stride(int n) {
  constexpr int unit = 16 / sizeof(real);
  return ((n + unit - 1) / unit | 1) * unit;
}
constexpr int YS = stride(LL + 1), WS = stride(11);

// What a warp knows of its bonds: harmonics of all, the rest of those that count, in their order.
struct alignas(16) Bonds {
  real Y[32 * YS], w[32 * WS];
  int row[32], message[32], bond[32];
};

typedef Vector<real, V> Channels;

// Where a warp's bonds are.
struct Work {
  int lane, group, k, n, begin, end, centre;
};

__device__ __forceinline__ Work work_of(int warp, int J, int parts, const long long *centre) {
  const int lane = threadIdx.x % 32, part = warp % parts, share = (J + parts - 1) / parts, end = (part + 1) * share;
  return {lane,         lane / LANES,           (int)blockIdx.y * KB + lane % LANES * V, warp / parts,
          part * share, end < J ? end : J, (int)centre[warp / parts]};
}

// Looks at bonds base … base + 32 as far as there are, and says which of them are inside the cutoff.
template <bool slopes>
__device__ __forceinline__ unsigned look(Bonds &bonds, const Work &own, int base, int J, int elements, int intervals,
                                         const real *limits, const long long *neighbour, const real *distance,
                                         const long long *index, const real *Y) {
  const long long start = (long long)own.n * J + base, e = start + own.lane;
  const int present = own.end - base < 32 ? own.end - base : 32;
  for (int i = own.lane; i < present * LM; i += 32) {
    const int component = i % LM;
    if (component < LL) copy_later(bonds.Y + i / LM * YS + component, Y + start * LM + i);
  }
  // all that is read is asked for before any of it is looked at
  const bool known = own.lane < present;
  const real r = known ? distance[e] : limits[2];
  const int other = known ? (int)neighbour[e] : 0, message = known && GATHERED ? (int)index[e] : (int)e;
  const bool inside = r < limits[2];
  const unsigned all = ballot(inside);
  if (inside) {
    const int at = ones(all & ((1u << own.lane) - 1u));
    const real steps = (r - limits[0]) * limits[1];
    int interval = (int)steps;
    interval = interval < 0 ? 0 : interval < intervals ? interval : intervals - 1;
    const real x = steps - interval, y = x * x;
    bonds.row[at] = ((own.centre * elements + other) * (intervals + 1) + interval) * 3 * F;
    bonds.message[at] = message;
    bonds.bond[at] = own.lane;
    real *w = bonds.w + at * WS;
    w[0] = 1 + y * x * (-10 + x * (15 - 6 * x));
    w[1] = x + y * x * (-6 + x * (8 - 3 * x));
    w[2] = y * (real(0.5) + x * (real(-1.5) + x * (real(1.5) - real(0.5) * x)));
    w[3] = y * x * (10 + x * (-15 + 6 * x));
    w[4] = y * x * (-4 + x * (7 - 3 * x));
    w[5] = y * x * (real(0.5) + x * (-1 + real(0.5) * x));
    if (slopes) {  // times the step; that of the fourth is the first's with the other sign
      w[6] = y * (-30 + x * (60 - 30 * x));
      w[7] = 1 + y * (-18 + x * (32 - 15 * x));
      w[8] = x * (1 + x * (real(-4.5) + x * (6 - real(2.5) * x)));
      w[9] = y * (-12 + x * (28 - 15 * x));
      w[10] = y * (real(1.5) + x * (-4 + real(2.5) * x));
    }
  }
  copied();
  together();
  return all;
}

struct Messages {
  Channels c[CARRIED ? C : 1];
};

__device__ __forceinline__ Messages messages_of(const real *I, int row, int k) {
  Messages found;
  if constexpr (CARRIED) {
#pragma unroll
    for (int c = 0; c < C; ++c) found.c[c] = load<real, V>(I + ((long long)row * C + c) * K + k);
  }
  return found;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    splined_forward(const real *__restrict__ table, const real *__restrict__ limits,
                    const long long *__restrict__ centre, const long long *__restrict__ neighbour,
                    const real *__restrict__ distance, const long long *__restrict__ index,
                    const real *__restrict__ Y, const real *__restrict__ I, real *__restrict__ out, int atoms, int J,
                    int parts, int elements, int intervals) {
  __shared__ Bonds shared[WARPS];
  Bonds &bonds = shared[threadIdx.x / 32];
  const int warp = blockIdx.x * WARPS + threadIdx.x / 32;
  if (warp >= atoms * parts) return;
  const Work own = work_of(warp, J, parts, centre);
  Channels sum[LL * C];
#pragma unroll
  for (int i = 0; i < LL * C; ++i)
#pragma unroll
    for (int u = 0; u < V; ++u) sum[i].v[u] = 0;
  for (int base = own.begin; base < own.end; base += 32) {
    const int count =
        ones(look<false>(bonds, own, base, J, elements, intervals, limits, neighbour, distance, index, Y));
    if (count == 0) {
      together();
      continue;
    }
    Messages next = messages_of(I, bonds.message[own.group < count ? own.group : 0], own.k);
    for (int first = 0; first < count; first += WIDE) {
      const bool counts = first + own.group < count;
      const int q = counts ? first + own.group : 0, then = q + WIDE < count ? q + WIDE : q;
      const Messages message = next;
      next = messages_of(I, bonds.message[then], own.k);  // of the bonds to come: memory is far
      real w[6], y[LL];
      read<real, 6>(bonds.w + q * WS, w);
      read<real, LL>(bonds.Y + bonds.bond[q] * YS, y);
      if (WIDE > 1 && !counts)
#pragma unroll
        for (int i = 0; i < 6; ++i) w[i] = 0;
      const real *at = table + bonds.row[q] + own.k;
      real s[V];
      const auto radial = [&](int l) {
#pragma unroll
        for (int u = 0; u < V; ++u) s[u] = 0;
#pragma unroll
        for (int i = 0; i < 6; ++i) {
          const Channels t = load<real, V>(at + i * F + l * K);
#pragma unroll
          for (int u = 0; u < V; ++u) s[u] += w[i] * t.v[u];
        }
        if (C == 1 && CARRIED)
#pragma unroll
          for (int u = 0; u < V; ++u) s[u] *= message.c[0].v[u];
      };
      unrolled<L>([&](auto degree) {
        constexpr int l = decltype(degree)::value;
        radial(l);
        unrolled<2 * l + 1>([&](auto order) {
          constexpr int m = l * l + decltype(order)::value;
#pragma unroll
          for (int u = 0; u < V; ++u) {
            const real p = y[m] * s[u];
#pragma unroll
            for (int c = 0; c < C; ++c) sum[m * C + c].v[u] += C == 1 ? p : p * message.c[c].v[u];
          }
        });
      });
    }
    together();
  }
#pragma unroll
  for (int i = 0; i < LL * C; ++i) {
#pragma unroll
    for (int u = 0; u < V; ++u)
#pragma unroll
      for (int other = LANES; other < 32; other *= 2) sum[i].v[u] += shuffled_xor(sum[i].v[u], other);
    if (i % WIDE == own.group)
      store<real, V>(out + (((long long)(warp % parts) * atoms + own.n) * LL * C + i) * K + own.k, sum[i]);
  }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    splined_backward(const real *__restrict__ table, const real *__restrict__ limits,
                     const long long *__restrict__ centre, const long long *__restrict__ neighbour,
                     const real *__restrict__ distance, const long long *__restrict__ index,
                     const real *__restrict__ Y, const real *__restrict__ I, const real *__restrict__ g,
                     real *__restrict__ dY, real *__restrict__ dr, real *__restrict__ dI, int atoms, int J, int parts,
                     int elements, int intervals) {
  __shared__ Bonds shared[WARPS];
  Bonds &bonds = shared[threadIdx.x / 32];
  const int warp = blockIdx.x * WARPS + threadIdx.x / 32;
  if (warp >= atoms * parts) return;
  const Work own = work_of(warp, J, parts, centre);
  const real per_step = limits[1];
  dY += (long long)blockIdx.y * atoms * J * LM;
  dr += (long long)blockIdx.y * atoms * J;
  // a message of one component that nothing is asked of may as well be part of the radial functions
  constexpr bool folded = C == 1 && MODE == 0;
  Channels owed[LL * C];
#pragma unroll
  for (int i = 0; i < LL * C; ++i) owed[i] = load<real, V>(g + ((long long)own.n * LL * C + i) * K + own.k);
  for (int base = own.begin; base < own.end; base += 32) {
    const unsigned all =
        look<true>(bonds, own, base, J, elements, intervals, limits, neighbour, distance, index, Y);
    const int count = ones(all);
    Messages next;
    if (count > 0) next = messages_of(I, bonds.message[own.group < count ? own.group : 0], own.k);
    for (int first = 0; first < count; first += WIDE) {
      const bool counts = first + own.group < count;
      const int q = counts ? first + own.group : 0, then = q + WIDE < count ? q + WIDE : q;
      const Messages message = next;
      next = messages_of(I, bonds.message[then], own.k);
      const int row = bonds.message[q], bond = bonds.bond[q];
      real w[11], y[LL], owed_bond[LL + 1];
      read<real, 11>(bonds.w + q * WS, w);
      read<real, LL>(bonds.Y + bond * YS, y);
      Channels of_message[C];
      if (MODE > 0)
#pragma unroll
        for (int c = 0; c < C; ++c)
#pragma unroll
          for (int u = 0; u < V; ++u) of_message[c].v[u] = 0;
      const real *at = table + bonds.row[q] + own.k;
      real of_r = 0, s[V], slope[V], of_s[V];
      const auto radial = [&](int l) {
        Channels t[6];
#pragma unroll
        for (int i = 0; i < 6; ++i) t[i] = load<real, V>(at + i * F + l * K);
#pragma unroll
        for (int u = 0; u < V; ++u) {
          s[u] = w[0] * t[0].v[u] + w[1] * t[1].v[u] + w[2] * t[2].v[u] + w[3] * t[3].v[u] + w[4] * t[4].v[u] +
                 w[5] * t[5].v[u];
          slope[u] = w[6] * (t[0].v[u] - t[3].v[u]) + w[7] * t[1].v[u] + w[8] * t[2].v[u] + w[9] * t[4].v[u] +
                     w[10] * t[5].v[u];
          if (folded && CARRIED) s[u] *= message.c[0].v[u], slope[u] *= message.c[0].v[u];
          of_s[u] = 0;
        }
      };
      unrolled<L>([&](auto degree) {
        constexpr int l = decltype(degree)::value;
        radial(l);
        unrolled<2 * l + 1>([&](auto order) {
          constexpr int m = l * l + decltype(order)::value;
          real of_y = 0;
#pragma unroll
          for (int u = 0; u < V; ++u) {
            real p = owed[m * C].v[u];
            if constexpr (!folded && CARRIED) {
              p *= message.c[0].v[u];
#pragma unroll
              for (int c = 1; c < C; ++c) p += owed[m * C + c].v[u] * message.c[c].v[u];
            }
            of_y += p * s[u];
            of_s[u] += y[m] * p;
            if (MODE > 0) {
              const real ys = y[m] * s[u];
#pragma unroll
              for (int c = 0; c < C; ++c) of_message[c].v[u] += ys * owed[m * C + c].v[u];
            }
          }
          owed_bond[m] = of_y;
        });
#pragma unroll
        for (int u = 0; u < V; ++u) of_r += of_s[u] * slope[u];
      });
      owed_bond[LL] = of_r * per_step;
      int begin = 0, mine = LL + 1;
      totals<real, LL + 1, LANES / 2>(owed_bond, own.lane, begin, mine);
      together();  // all have read this bond's harmonics, in whose place comes what they are owed
      if (counts) {
#pragma unroll
        for (int i = 0; i < shared_out(LL + 1, LANES / 2); ++i)
          if (i < mine) bonds.Y[bond * YS + begin + i] = owed_bond[i];
        if (MODE > 0) {
          const long long to = MODE == 2 ? row : (long long)own.n * J + base + bond;
#pragma unroll
          for (int c = 0; c < C; ++c) {
            if (MODE == 1)
              store<real, V>(dI + (to * C + c) * K + own.k, of_message[c]);
            else
              add_at<V>(dI + (to * C + c) * K + own.k, of_message[c]);
          }
        }
      }
    }
    together();
    const long long start = (long long)own.n * J + base;
    const int present = own.end - base < 32 ? own.end - base : 32;
    for (int i = own.lane; i < present * LM; i += 32) {
      const int bond = i / LM, component = i % LM;
      dY[start * LM + i] = (all >> bond & 1u) && component < LL ? bonds.Y[bond * YS + component] : real(0);
    }
    if (own.lane < present) dr[start + own.lane] = all >> own.lane & 1u ? bonds.Y[own.lane * YS + LL] : real(0);
    together();
  }
}
