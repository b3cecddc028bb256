/**
 * What the native loops share: numbers as they are stored, an exponential that compilers vectorize, and the widest
 * instructions at hand.
 *
 * A loop is written once as a `…Body` template that is always inlined; `DINOV2_LOOP` makes three copies of it
 * (AVX-512, AVX2 and what the compiler takes for granted) and picks one when the program runs. Results may differ in
 * the last bit between processors, never between runs or numbers of threads: sums are cut at places that do not depend
 * on the number of threads.
 */
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <bit>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace dinov2 {

using bf16 = uint16_t;

#define DINOV2_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
inline int wide() {
  static const int level = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") ? 2
                           : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")                                                                                  ? 1
                                                                                                                                                                              : 0;
  return level;
}
#define DINOV2_LOOP(name)                                                                                                                              \
  template <typename... A>                                                                                                                             \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512"), noinline)) auto name##512(A... a) { return name##Body(a...); } \
  template <typename... A>                                                                                                                             \
  __attribute__((target("avx2,fma"), noinline)) auto name##256(A... a) { return name##Body(a...); }                                                    \
  template <typename... A>                                                                                                                             \
  auto name(A... a) {                                                                                                                                  \
    return wide() == 2 ? name##512(a...) : wide() == 1 ? name##256(a...) : name##Body(a...);                                                           \
  }
#else
#define DINOV2_LOOP(name)  \
  template <typename... A> \
  auto name(A... a) {      \
    return name##Body(a...); \
  }
#endif

DINOV2_INLINE float load(const float* x) { return *x; }
DINOV2_INLINE float load(const bf16* x) { return std::bit_cast<float>(static_cast<uint32_t>(*x) << 16); }
DINOV2_INLINE void store(float* to, float x) { *to = x; }
/** Rounds to the nearest, ties to even; not a number stays one. */
DINOV2_INLINE void store(bf16* to, float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  *to = static_cast<bf16>(x != x ? 0x7fc0 : rounded);
}

/** eˣ for x ≤ 88, to about two units in the last place; below −87 it stays what it is there, about 1.6e-38. */
DINOV2_INLINE float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // the whole number lands in the lowest bits
  const float n = shifted - 12582912.0f;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + (r + 1.0f);
  const uint32_t power = (std::bit_cast<uint32_t>(shifted) + 127u) << 23;  // 12582912 has no bits that survive the shift but those of n
  return y * std::bit_cast<float>(power);
}

/** Whether a tensor is laid out row by row on the CPU as bfloat16 or float32, as all these loops want it. */
inline bool plain(const at::Tensor& x) {
  return x.device().is_cpu() && x.is_contiguous() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

/** Calls `body` with a pointer of the type that the tensor holds. */
template <typename F>
auto typed(const at::Tensor& x, F&& body) {
  if (x.scalar_type() == at::kBFloat16) return body(reinterpret_cast<bf16*>(x.data_ptr<at::BFloat16>()));
  TORCH_CHECK(x.scalar_type() == at::kFloat, "expected float32 or bfloat16 but received ", x.scalar_type());
  return body(x.data_ptr<float>());
}

#if defined(__x86_64__) && defined(__GNUC__)
/** A function for processors that multiply bfloat16; call it only where they do. */
#define DINOV2_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))

/** eˣ for x ≤ 0, to about two units in the last place: 2ⁿ by scaling, the rest by a polynomial. */
DINOV2_BF16 inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 y = _mm512_set1_ps(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(c));
  y = _mm512_fmadd_ps(y, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(y, n);
}

/** Rounds sixteen numbers to the nearest bfloat16, ties to even. */
DINOV2_BF16 inline void round16(bf16* to, __m512 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x)); }
#endif

}  // namespace dinov2
