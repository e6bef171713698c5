// What the kernels of warps share. Compiled for a GPU it uses its own instructions; tests compile the same code for the
// processor, where they put this block's functions in front.

#ifdef __CUDACC__
#define ALL 0xffffffffu
template <class T>
__device__ __forceinline__ T shuffled_xor(T x, int other) {
  return __shfl_xor_sync(ALL, x, other);
}
__device__ __forceinline__ unsigned ballot(bool holds) { return __ballot_sync(ALL, holds); }
__device__ __forceinline__ void together() { __syncwarp(); }
__device__ __forceinline__ void together_all() { __syncthreads(); }
// A number on its way from global to shared memory past the registers, and the wait for all of this thread's.
template <class T>
__device__ __forceinline__ void copy_later(T *to, const T *from) {
#if __CUDA_ARCH__ >= 800
  const unsigned at = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(sizeof(T)) : "memory");
#else
  *to = *from;
#endif
}
__device__ __forceinline__ void copied() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
__device__ __forceinline__ int ones(unsigned bits) { return __popc(bits); }
#endif

// Numbers that are read and written at once.
template <class real, int n>
struct alignas(n * sizeof(real)) Vector {
  real v[n];
};

template <class real, int n>
__device__ __forceinline__ Vector<real, n> load(const real *p) {
  return *reinterpret_cast<const Vector<real, n> *>(p);
}

template <class real, int n>
__device__ __forceinline__ void store(real *p, const Vector<real, n> &x) {
  *reinterpret_cast<Vector<real, n> *>(p) = x;
}

template <int n>
struct Constant {
  static constexpr int value = n;
};

// f(0), f(1), … f(end - 1), each with a constant: loops whose bounds depend on another's are not unrolled for certain,
// and what they run over would not be in registers then.
template <int end, int first = 0, class Function>
__device__ __forceinline__ void unrolled(Function &&f) {
  if constexpr (first < end) {
    f(Constant<first>{});
    unrolled<end, first + 1>(f);
  }
}

// `count` numbers from shared memory, 16 bytes at a time; p is aligned to that.
template <class real, int count>
__device__ __forceinline__ void read(const real *p, real *out) {
  constexpr int n = 16 / sizeof(real);
#pragma unroll
  for (int i = 0; i < (count + n - 1) / n; ++i) {
    const Vector<real, n> x = load<real, n>(p + i * n);
#pragma unroll
    for (int u = 0; u < n; ++u)
      if (i * n + u < count) out[i * n + u] = x.v[u];
  }
}

// Totals of N numbers over 2 O lanes, shared out: lane by lane half of the numbers are handed over and the other half
// is kept. Afterwards v[0 … count) are those from number `first` on. A sum lane by lane would take log2(2 O) steps for
// each number, this takes one or two.
template <class real, int N, int O>
__device__ __forceinline__ void totals(real *v, int lane, int &first, int &count) {
  if constexpr (O > 0) {
    constexpr int half = (N + 1) / 2;
    const bool upper = (lane & O) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const real low = v[i], high = i + half < N ? v[i + half] : real(0);
      v[i] = (upper ? high : low) + shuffled_xor(upper ? low : high, O);
    }
    first += upper ? half : 0;
    count = upper ? count - half : count < half ? count : half;
    totals<real, half, O / 2>(v, lane, first, count);
  }
}

// How many numbers a lane has after totals<N, O>.
__host__ __device__ constexpr int shared_out(int n, int o) { return o == 0 ? n : shared_out((n + 1) / 2, o / 2); }

// x added to what lies at p, whoever else does so.
template <int n>
__device__ __forceinline__ void add_at(float *p, const Vector<float, n> &x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr bool one_by_one = n == 1;
  if constexpr (n == 4) {
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(x.v[0]), "f"(x.v[1]),
                 "f"(x.v[2]), "f"(x.v[3])
                 : "memory");
  }
  if constexpr (n == 2) {
    asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(p), "f"(x.v[0]), "f"(x.v[1]) : "memory");
  }
#else
  constexpr bool one_by_one = true;
#endif
  if constexpr (one_by_one) {
#pragma unroll
    for (int u = 0; u < n; ++u) atomicAdd(p + u, x.v[u]);
  }
}

template <int n>
__device__ __forceinline__ void add_at(double *p, const Vector<double, n> &x) {
#pragma unroll
  for (int u = 0; u < n; ++u) atomicAdd(p + u, x.v[u]);
}
