// Sums over bonds of functions of the distance and the two elements: coordination, core repulsion, close density; see
// ../sums.py. A warp has an atom; the derivative is a thread's per bond.
//
// Numbers defined in front: POWER of the cutoff function, WARPS of a block, REPULSION and INNER (whether there are such),
// CONSTANTS (how many per pair). `real` is float or double.

// 1 at u = 0, 0 from u = 1 on, and its derivative.
__device__ __forceinline__ real smooth(real u, int p, real &slope) {
  if (u >= 1) return slope = 0;
  real high = 1;
  for (int i = 1; i < p; ++i) high *= u;
  // u^(p-1) so far; the slope is -p (p+1) (p+2) / 2 u^(p-1) (1 - u)²
  const real a = real((p + 1) * (p + 2)) / 2, b = p * (p + 2), c = real(p * (p + 1)) / 2;
  slope = -p * a * high * (1 - u) * (1 - u);
  return 1 - high * u * (a - u * (b - u * c));
}

struct Three {
  real of[3], slope[3];
};

__device__ __forceinline__ Three functions(real r, const real *constants) {
  Three found = {};
  real slope;
  found.of[0] = smooth(r * constants[0], POWER, slope);
  found.slope[0] = slope * constants[0];
  if (REPULSION && r * constants[3] < 1 && constants[1] != 0) {
    const real amplitude[4] = {real(0.18175), real(0.50986), real(0.28022), real(0.02817)},
               decay[4] = {real(3.19980), real(0.94229), real(0.40290), real(0.20162)}, x = r * constants[2];
    real screening = 0, falling = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const real part = amplitude[i] * EXP(-decay[i] * x);
      screening += part;
      falling -= decay[i] * part;
    }
    const real switched = smooth(r * constants[3], 6, slope), factor = constants[1] / r;
    found.of[1] = factor * screening * switched;
    found.slope[1] = factor * (falling * constants[2] * switched + screening * slope * constants[3]) - found.of[1] / r;
  }
  if (INNER) {
    const real u = constants[4] - r * constants[5];
    if (u > 0) {
      const real high = u * u * u * u * u;
      found.of[2] = high * u;
      found.slope[2] = -6 * high * constants[5];
    }
  }
  return found;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    sums_forward(const real *__restrict__ distance, const long long *__restrict__ centre,
                 const long long *__restrict__ neighbour, const real *__restrict__ constants, real *__restrict__ out,
                 int atoms, int J, int elements) {
  const int lane = threadIdx.x % 32, n = blockIdx.x * WARPS + threadIdx.x / 32;
  if (n >= atoms) return;
  const real *of_centre = constants + centre[n] * elements * CONSTANTS;
  real sum[3] = {0, 0, 0};
  for (int j = lane; j < J; j += 32) {
    const long long e = (long long)n * J + j;
    const Three found = functions(distance[e], of_centre + neighbour[e] * CONSTANTS);
#pragma unroll
    for (int i = 0; i < 3; ++i) sum[i] += found.of[i];
  }
#pragma unroll
  for (int i = 0; i < 3; ++i) {
#pragma unroll
    for (int other = 16; other > 0; other /= 2) sum[i] += shuffled_xor(sum[i], other);
    if (lane == i) out[(long long)n * 3 + i] = sum[i];
  }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    sums_backward(const real *__restrict__ g, const real *__restrict__ distance, const long long *__restrict__ centre,
                  const long long *__restrict__ neighbour, const real *__restrict__ constants, real *__restrict__ out,
                  int atoms, int J, int elements) {
  const long long e = (long long)blockIdx.x * 32 * WARPS + threadIdx.x;
  if (e >= (long long)atoms * J) return;
  const long long n = e / J;
  const Three found = functions(distance[e], constants + (centre[n] * elements + neighbour[e]) * CONSTANTS);
  real slope = 0;
#pragma unroll
  for (int i = 0; i < 3; ++i) slope += g[n * 3 + i] * found.slope[i];
  out[e] = slope;
}
