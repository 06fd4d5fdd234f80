// Four numbers at once: WebAssembly's SIMD registers, by the vector types of clang, so that
// formulas look like formulas: a * b + c works on all four.
#pragma once

typedef float Vector __attribute__((vector_size(16), aligned(4), may_alias));
typedef int Whole __attribute__((vector_size(16), aligned(4), may_alias)); // also: all bits or none

static inline Vector load(const float *from) { return *(const Vector *)from; }
static inline void store(float *to, Vector x) { *(Vector *)to = x; }
static inline Vector all(float x) { return (Vector){x, x, x, x}; }
static inline float sum_of(Vector x) { return (x[0] + x[1]) + (x[2] + x[3]); }

// sum + a * b. Browsers that know WebAssembly's relaxed SIMD make that in one instruction, of which
// a processor rounds the end only, or the product too (tools/build_kernels).
static inline Vector sum_with_product(Vector sum, Vector a, Vector b) {
#ifdef FUSED
  return __builtin_wasm_relaxed_madd_f32x4(a, b, sum);
#else
  return sum + a * b;
#endif
}

static inline Vector choose(Whole which, Vector yes, Vector no) {
  return (Vector)(((Whole)yes & which) | ((Whole)no & ~which));
}

static inline Vector size_of(Vector x) { return (Vector)((Whole)x & 0x7fffffff); } // |x|

static inline Vector smaller(Vector a, Vector b) { return __builtin_wasm_pmin_f32x4(a, b); }
static inline Vector larger(Vector a, Vector b) { return __builtin_wasm_pmax_f32x4(a, b); }

// e^x to 1e-7, for x from -87 to 88; beyond that as at the ends. x = n ln 2 + rest; 2^n goes into
// the exponent's bits, and a polynomial is e^rest (Cephes, expf).
static inline Vector exponential(Vector x) {
  const float round = 12582912.f; // 1.5 * 2^23: behind it there is no room for a fraction
  x = larger(all(-87.f), smaller(all(88.f), x));
  Vector last_bits = x * 1.44269504088896341f + round; // n
  Vector n = last_bits - round;
  Vector rest = (x - n * 0.693359375f) + n * 2.12194440e-4f; // ln 2 in two parts
  Vector p = all(1.9875691500e-4f);
  p = p * rest + 1.3981999507e-3f;
  p = p * rest + 8.3334519073e-3f;
  p = p * rest + 4.1665795894e-2f;
  p = p * rest + 1.6666665459e-1f;
  p = p * rest + 5.0000001201e-1f;
  p = p * (rest * rest) + rest + 1.f;
  return (Vector)((Whole)p + ((Whole)last_bits << 23));
}
