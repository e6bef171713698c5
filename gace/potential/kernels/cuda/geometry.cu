// Distances and real spherical harmonics of the bonds, and the derivative by the bond vectors; the recurrence is that of
// ../triton/geometry.py. A lane has a bond; what it finds goes through shared memory, so that a warp reads and writes
// numbers that lie side by side.
//
// Numbers defined in front: L degrees, WARPS of a block; RAISE[l][m] and LOWER[l][m], the factors of the recurrence in l,
// and TOP[m], that from Q[m-1, m-1] to Q[m, m]. `real` is float or double.

constexpr int LL = L * L, S = LL | 1;  // odd: lanes write to other banks

struct Direction {
  real x, y, z, r, inverse;
};

__device__ __forceinline__ Direction direction(const real *vector, long long e, bool here) {
  const real x = here ? vector[3 * e] : real(1), y = here ? vector[3 * e + 1] : real(0),
             z = here ? vector[3 * e + 2] : real(0), r = SQRT(x * x + y * y + z * z), inverse = 1 / r;
  return {x * inverse, y * inverse, z * inverse, r, inverse};
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    geometry_forward(const real *__restrict__ vector, real *__restrict__ distance, real *__restrict__ harmonics,
                     int bonds) {
  __shared__ real shared[WARPS][32 * S];
  const int lane = threadIdx.x % 32;
  real *Y = shared[threadIdx.x / 32];
  const long long start = ((long long)blockIdx.x * WARPS + threadIdx.x / 32) * 32, e = start + lane;
  if (start >= bonds) return;
  const bool here = e < bonds;
  const Direction d = direction(vector, e, here);
  if (here) distance[e] = d.r;
  real re = 1, im = 0, top = 1;  // Re and Im (x + iy)^m, and Q[m, m]
#pragma unroll
  for (int m = 0; m < L; ++m) {
    if (m > 0) {
      const real turned = d.x * im + d.y * re;
      re = d.x * re - d.y * im;
      im = turned;
      top *= TOP[m];
    }
    real q = top, before = 0;
#pragma unroll
    for (int l = m; l < L; ++l) {
      if (l > m) {
        const real raised = RAISE[l][m] * (d.z * q - LOWER[l][m] * before);
        before = q;
        q = raised;
      }
      Y[lane * S + l * l + l + m] = q * re;
      if (m > 0) Y[lane * S + l * l + l - m] = q * im;
    }
  }
  together();
  const int present = (bonds - start < 32 ? (int)(bonds - start) : 32) * LL;
  for (int i = lane; i < present; i += 32) harmonics[start * LL + i] = Y[i / LL * S + i % LL];
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    geometry_backward(const real *__restrict__ vector, const real *__restrict__ owed_r, const real *__restrict__ owed_Y,
                      real *__restrict__ out, int bonds) {
  __shared__ real shared[WARPS][32 * S];
  const int lane = threadIdx.x % 32;
  real *g = shared[threadIdx.x / 32];
  const long long start = ((long long)blockIdx.x * WARPS + threadIdx.x / 32) * 32, e = start + lane;
  if (start >= bonds) return;
  const bool here = e < bonds;
  const int left = bonds - start < 32 ? (int)(bonds - start) : 32;
  for (int i = lane; i < left * LL; i += 32) g[i / LL * S + i % LL] = owed_Y[start * LL + i];
  together();
  const Direction d = direction(vector, e, here);
  const real *own = g + (here ? lane : 0) * S;
  real gx = 0, gy = 0, gz = 0, re = 1, im = 0, top = 1;
#pragma unroll
  for (int m = 0; m < L; ++m) {
    const real lower_re = re, lower_im = im;  // powers of m - 1
    if (m > 0) {
      re = d.x * lower_re - d.y * lower_im;
      im = d.x * lower_im + d.y * lower_re;
      top *= TOP[m];
    }
    real q = top, before = 0, slope = 0, slope_before = 0;
    // what is owed to Re and Im (x + iy)^m, and the same with the slopes of Q
    real to_re = 0, to_im = 0, by_z_re = 0, by_z_im = 0;
#pragma unroll
    for (int l = m; l < L; ++l) {
      if (l > m) {
        const real steeper = RAISE[l][m] * (q + d.z * slope - LOWER[l][m] * slope_before);
        const real raised = RAISE[l][m] * (d.z * q - LOWER[l][m] * before);
        before = q;
        slope_before = slope;
        q = raised;
        slope = steeper;
      }
      if (l > 0) {  // Y_00 is constant
        const real h = own[l * l + l + m];
        to_re += h * q;
        by_z_re += h * slope;
        if (m > 0) {
          const real i = own[l * l + l - m];
          to_im += i * q;
          by_z_im += i * slope;
        }
      }
    }
    gz += by_z_re * re + by_z_im * im;
    if (m > 0) {
      gx += m * (to_re * lower_re + to_im * lower_im);
      gy += m * (to_im * lower_re - to_re * lower_im);
    }
  }
  if (!here) return;
  const real along = gx * d.x + gy * d.y + gz * d.z, radial = owed_r[e] - along * d.inverse;
  out[3 * e] = radial * d.x + gx * d.inverse;
  out[3 * e + 1] = radial * d.y + gy * d.inverse;
  out[3 * e + 2] = radial * d.z + gz * d.inverse;
}
