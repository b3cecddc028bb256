/**
 * Self-attention over packed sequences in bfloat16, for processors that multiply it (AVX512-BF16).
 *
 * One (sequence, head) is one piece of work: keys and values are packed once, then six query rows at a time go through scores, softmax
 * and the weighted sum without leaving the first-level cache, so that no matrix of scores ever reaches memory. Sums are float32. Where
 * the processor lacks the instructions, `dinov2::attention_ready` says so and the caller takes two batched products instead.
 *
 * qkv is [T, 3C]: queries, keys, values side by side, each head by head; head width K = C / heads, a multiple of 16 up to 128.
 */
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define DINOV2_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))
#endif

namespace {

bool attentionReady(int64_t width) {
#ifdef DINOV2_BF16
  return __builtin_cpu_supports("avx512bf16") && width % 16 == 0 && width <= 128;
#else
  return false;
#endif
}

#ifdef DINOV2_BF16

using bf16 = uint16_t;

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

/**
 * out[R][16·V] = Σ over pairs of a[r][pair] · b[pair][16·V]: the inner product both halves share. `a` holds rows of bfloat16 pairs with
 * the given stride (in elements), `b` packed pairs, `pairs` of them, each `ldb` wide.
 */
template <int R, int V>
DINOV2_BF16 inline void multiply(const bf16* a, int64_t lda, const uint32_t* b, int64_t ldb, int64_t pairs, __m512 (&sum)[R][V]) {
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sum[r][v] = _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; p++) {
    __m512bh column[V];
    for (int v = 0; v < V; v++) column[v] = (__m512bh)_mm512_loadu_si512(b + p * ldb + 16 * v);
    for (int r = 0; r < R; r++) {
      int32_t two;
      __builtin_memcpy(&two, a + r * lda + 2 * p, 4);
      const __m512bh row = (__m512bh)_mm512_set1_epi32(two);
      for (int v = 0; v < V; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], row, column[v]);
    }
  }
}

template <int R, int V>
DINOV2_BF16 inline void scores(const bf16* q, int64_t ldq, const uint32_t* keys, int64_t padded, int64_t pairs, int64_t column, float* out) {
  __m512 sum[R][V];
  multiply<R, V>(q, ldq, keys + column, padded, pairs, sum);
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) _mm512_storeu_ps(out + r * padded + column + 16 * v, sum[r][v]);
}

struct Scratch {
  std::vector<uint32_t> keys, values;
  std::vector<float> scores;
  std::vector<bf16> chances;
};

/** Rows `first … first + R` of one head. */
template <int R>
DINOV2_BF16 void rows(const bf16* q, int64_t ldq, int64_t n, int64_t padded, int64_t width, float scale, Scratch& s, bf16* out, int64_t ldo) {
  float* score = s.scores.data();
  int64_t column = 0;
  for (; column + 64 <= padded; column += 64) scores<R, 4>(q, ldq, s.keys.data(), padded, width / 2, column, score);
  for (; column < padded; column += 16) scores<R, 1>(q, ldq, s.keys.data(), padded, width / 2, column, score);

  float inverse[R];
  for (int r = 0; r < R; r++) {
    float* line = score + r * padded;
    const int64_t whole = n / 16 * 16;
    const __mmask16 tail = static_cast<__mmask16>((1u << (n - whole)) - 1);
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (int64_t j = 0; j < whole; j += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(line + j));
    if (tail) most = _mm512_mask_max_ps(most, tail, most, _mm512_loadu_ps(line + whole));
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most) * scale);
    const __m512 by = _mm512_set1_ps(scale);
    __m512 total = _mm512_setzero_ps();
    bf16* chance = s.chances.data() + r * padded;
    for (int64_t j = 0; j < padded; j += 16) {
      __m512 p = exponential(_mm512_fmsub_ps(_mm512_loadu_ps(line + j), by, top));
      if (j >= whole) p = _mm512_maskz_mov_ps(j == whole ? tail : 0, p);
      total = _mm512_add_ps(total, p);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(chance + j), (__m256i)_mm512_cvtneps_pbh(p));
    }
    inverse[r] = 1.0f / _mm512_reduce_add_ps(total);
  }

  for (int64_t d = 0; d < width;) {
    const auto write = [&]<int V>(__m512 (&sum)[R][V]) DINOV2_BF16 {
      for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * ldo + d + 16 * v), (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(sum[r][v], _mm512_set1_ps(inverse[r]))));
    };
    if (width - d >= 64) {
      __m512 sum[R][4];
      multiply<R, 4>(s.chances.data(), padded, s.values.data() + d, width, padded / 2, sum);
      write(sum);
      d += 64;
    } else {
      __m512 sum[R][1];
      multiply<R, 1>(s.chances.data(), padded, s.values.data() + d, width, padded / 2, sum);
      write(sum);
      d += 16;
    }
  }
}

/** One head of one sequence of n rows; q, k, v point at its first row, `ld` elements apart. */
DINOV2_BF16 void head(const bf16* q, const bf16* k, const bf16* v, int64_t ld, int64_t n, int64_t width, float scale, Scratch& s, bf16* out, int64_t ldo) {
  constexpr int R = 6;
  const int64_t padded = (n + 15) / 16 * 16;
  s.keys.resize(width / 2 * padded);
  s.values.resize(padded / 2 * width);
  s.scores.resize(R * padded);
  s.chances.resize(R * padded);

  // Keys by pairs of channels: keys[pair][row], sixteen rows gathered at once.
  const int64_t pairs = width / 2;
  const __m512i steps = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(static_cast<int>(ld / 2)));
  for (int64_t j = 0; j < padded; j += 16) {
    const __mmask16 there = static_cast<__mmask16>(n - j >= 16 ? 0xffff : (1u << (n - j)) - 1);
    for (int64_t p = 0; p < pairs; p++) {
      const __m512i sixteen = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), there, steps, k + j * ld + 2 * p, 4);
      _mm512_storeu_si512(s.keys.data() + p * padded + j, sixteen);
    }
  }
  // Values by pairs of rows: values[pair][channel].
  for (int64_t j = 0; j < padded; j += 2) {
    uint32_t* target = s.values.data() + j / 2 * width;
    for (int64_t d = 0; d < width; d += 16) {
      const auto line = [&](int64_t row) DINOV2_BF16 {
        return row < n ? _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(v + row * ld + d))) : _mm512_setzero_si512();
      };
      _mm512_storeu_si512(target + d, _mm512_or_si512(line(j), _mm512_slli_epi32(line(j + 1), 16)));
    }
  }

  if (n < R) {
    for (int64_t i = 0; i < n; i++) rows<1>(q + i * ld, ld, n, padded, width, scale, s, out + i * ldo, ldo);
    return;
  }
  for (int64_t i = 0; i < n; i += R) {
    const int64_t first = std::min(i, n - R);  // the last rows may be done twice, to the same values
    rows<R>(q + first * ld, ld, n, padded, width, scale, s, out + first * ldo, ldo);
  }
}

#endif

/** Softmax(Q·Kᵀ/√K)·V within each sequence: counts[g] sequences of lengths[g] rows, one group behind the other. → [T, C] */
at::Tensor attention(const at::Tensor& qkv, at::IntArrayRef counts, at::IntArrayRef lengths, int64_t heads) {
  const int64_t C = qkv.size(1) / 3;
  const int64_t width = C / heads;
  TORCH_CHECK(qkv.dim() == 2 && qkv.scalar_type() == at::kBFloat16 && qkv.is_contiguous(), "expected contiguous bfloat16 rows");
  TORCH_CHECK(attentionReady(width), "this processor or head width (", width, ") has no bfloat16 attention kernel");
  auto out = at::empty({qkv.size(0), C}, qkv.options());
#ifdef DINOV2_BF16
  struct Piece {
    int64_t row, length, head;
  };
  std::vector<Piece> pieces;
  int64_t row = 0;
  for (size_t g = 0; g < counts.size(); g++)
    for (int64_t i = 0; i < counts[g]; i++, row += lengths[g])
      for (int64_t h = 0; h < heads; h++) pieces.push_back({row, lengths[g], h});
  TORCH_CHECK(row == qkv.size(0), "the groups cover ", row, " rows of ", qkv.size(0));
  const auto* in = reinterpret_cast<const bf16*>(qkv.const_data_ptr<at::BFloat16>());
  auto* to = reinterpret_cast<bf16*>(out.mutable_data_ptr<at::BFloat16>());
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  at::parallel_for(0, static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t i = begin; i < end; i++) {
      const auto& p = pieces[i];
      const bf16* base = in + p.row * 3 * C + p.head * width;
      head(base, base + C, base + 2 * C, 3 * C, p.length, width, scale, scratch, to + p.row * C + p.head * width, C);
    }
  });
#endif
  return out;
}

TORCH_LIBRARY(dinov2, library) {
  library.def("attention(Tensor qkv, int[] counts, int[] lengths, int heads) -> Tensor");
  library.def("attention_ready(int width) -> bool", attentionReady);
}
TORCH_LIBRARY_IMPL(dinov2, CPU, library) { library.impl("attention", attention); }

}  // namespace
