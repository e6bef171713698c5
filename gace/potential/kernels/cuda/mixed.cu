// Channels of each irrep mixed: a matrix product per irrep, and the one with the transposed matrices; see ../mixed.py.
//
// A block has one job (blockIdx.y) and `each` atoms, whose matrix it keeps in shared memory. Its warps go through rows,
// ROWS for each group of KB lanes at a time, which come to shared memory while those before them are multiplied: a lane
// has one channel of what is formed, and all lanes of a group read the same numbers of the other factor.
//
// Numbers defined in front: KIN, KOUT channels of what is read and written, KB of the latter for a block (the rest is
// blockIdx.z's), WARPS of a block, ROWS, IN and OUT rows of an atom, TRANSPOSED, MOST rows read for each; JOBS[i] =
// {rows per atom, first row read, step from one to the next, rows read for each, first row written, step, first matrix}.
// `real` is float or double.

constexpr int WIDE = 32 / KB, TURN = ROWS * WIDE, LONGEST = MOST * KIN, Q = 16 / sizeof(real);

// Reads rows first … first + TURN of a block's `count` to shared memory, LONGEST numbers apart.
__device__ __forceinline__ void fetch(real *to, const real *in, const int *job, int n0, int first, int count, int lane) {
  const int length = job[3] * KIN, quarters = length / Q;
  for (int i = lane; i < TURN * quarters; i += 32) {
    const int b = i / quarters, j = i % quarters * Q, row = first + b;
    if (row < count)
      copy_later(reinterpret_cast<Vector<real, Q> *>(to + b * LONGEST + j),
                 reinterpret_cast<const Vector<real, Q> *>(
                     in + ((long long)(n0 + row / job[0]) * IN + job[1] + row % job[0] * job[2]) * KIN + j));
  }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    mixed(const real *__restrict__ in, const real *__restrict__ weights, real *__restrict__ out, int atoms, int each) {
  alignas(16) __shared__ real W[LONGEST * KB];
  alignas(16) __shared__ real rows[WARPS][2][TURN * LONGEST];
  const int *job = JOBS[blockIdx.y];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / KB, k = lane % KB;
  const int dim = job[0], length = job[3] * KIN, piece = blockIdx.z * KB, n0 = blockIdx.x * each;
  const int count = (atoms - n0 < each ? atoms - n0 : each) * dim, step = WARPS * TURN;
  fetch(rows[warp][0], in, job, n0, warp * TURN, count, lane);
  const real *matrix = weights + (long long)job[6] * KIN * KOUT;
  for (int i = threadIdx.x; i < length * KB; i += 32 * WARPS) {
    // read in the order of the matrix
    const int j = TRANSPOSED ? i % length : i / KB, to = TRANSPOSED ? i / length : i % KB;
    W[j * KB + to] = TRANSPOSED ? matrix[(long long)(piece + to) * KIN + j] : matrix[(long long)j * KOUT + piece + to];
  }
  copied();
  together_all();
  for (int first = warp * TURN, turn = 0; first < count; first += step, turn ^= 1) {
    fetch(rows[warp][turn ^ 1], in, job, n0, first + step, count, lane);
    const real *x = rows[warp][turn] + group * LONGEST;
    real sum[ROWS];
#pragma unroll
    for (int b = 0; b < ROWS; ++b) sum[b] = 0;
#pragma unroll 2
    for (int j = 0; j < length; j += Q) {
      Vector<real, Q> of_row[ROWS];
#pragma unroll
      for (int b = 0; b < ROWS; ++b) of_row[b] = load<real, Q>(x + b * WIDE * LONGEST + j);
#pragma unroll
      for (int u = 0; u < Q; ++u) {
        const real w = W[(j + u) * KB + k];
#pragma unroll
        for (int b = 0; b < ROWS; ++b) sum[b] += of_row[b].v[u] * w;
      }
    }
#pragma unroll
    for (int b = 0; b < ROWS; ++b) {
      const int i = first + b * WIDE + group;
      if (i < count)
        out[((long long)(n0 + i / dim) * OUT + job[4] + i % dim * job[5]) * KOUT + piece + k] = sum[b];
    }
    copied();
    together();
  }
}
