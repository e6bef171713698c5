// Channels of each irrep mixed: a matrix product per irrep, and the one with the transposed matrices; see ../mixed.py.
//
// A block has one job (blockIdx.y) and `each` atoms, whose matrix it keeps in shared memory. Of each row it forms a lane
// has one channel; rows of the other factor are read by all lanes of a group at once, 16 bytes at a time.
//
// Numbers defined in front: KIN, KOUT channels of what is read and written, KB of the latter for a block (the rest is
// blockIdx.z's), WARPS of a block, IN and OUT rows of an atom, TRANSPOSED, MOST rows read for each; JOBS[i] = {rows per atom, first row
// read, step from one to the next, rows read for each, first row written, step, first matrix}. `real` is float or double.

constexpr int WIDE = 32 / KB, ROWS = 8, LONGEST_ROW = MOST * KIN;

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    mixed(const real *__restrict__ in, const real *__restrict__ weights, real *__restrict__ out, int atoms, int each) {
  __shared__ real W[LONGEST_ROW * KB];
  const int *job = JOBS[blockIdx.y];
  const int dim = job[0], length = job[3] * KIN, piece = blockIdx.z * KB;
  const real *matrix = weights + (long long)job[6] * KIN * KOUT;
  for (int i = threadIdx.x; i < length * KB; i += 32 * WARPS) {
    // read in the order of the matrix
    const int j = TRANSPOSED ? i % length : i / KB, k = TRANSPOSED ? i / length : i % KB;
    W[j * KB + k] = TRANSPOSED ? matrix[(long long)(piece + k) * KIN + j] : matrix[(long long)j * KOUT + piece + k];
  }
  together_all();
  const int lane = threadIdx.x % 32, group = lane / KB, k = lane % KB;
  const int n0 = blockIdx.x * each, count = (atoms - n0 < each ? atoms - n0 : each) * dim;
  for (int first = threadIdx.x / 32 * ROWS * WIDE; first < count; first += WARPS * ROWS * WIDE) {
    const real *row[ROWS];
    real sum[ROWS];
#pragma unroll
    for (int b = 0; b < ROWS; ++b) {
      const int i = first + b * WIDE + group, at = i < count ? i : 0;
      row[b] = in + ((long long)(n0 + at / dim) * IN + job[1] + at % dim * job[2]) * KIN;
      sum[b] = 0;
    }
    constexpr int Q = 16 / sizeof(real);
    for (int j = 0; j < length; j += Q) {
      Vector<real, Q> x[ROWS];
#pragma unroll
      for (int b = 0; b < ROWS; ++b) x[b] = load<real, Q>(row[b] + j);
#pragma unroll
      for (int u = 0; u < Q; ++u) {
        const real w = W[(j + u) * KB + k];
#pragma unroll
        for (int b = 0; b < ROWS; ++b) sum[b] += x[b].v[u] * w;
      }
    }
#pragma unroll
    for (int b = 0; b < ROWS; ++b) {
      const int i = first + b * WIDE + group;
      if (i < count)
        out[((long long)(n0 + i / dim) * OUT + job[4] + i % dim * job[5]) * KOUT + piece + k] = sum[b];
    }
  }
}
