/**
 * Self-attention over packed sequences in bfloat16, for processors that multiply it (AVX512-BF16).
 *
 * One (sequence, head) is one task: keys and values are packed once, then six query rows at a time go through
 * scores, softmax and the weighted sum without leaving the first-level cache, so that no matrix of scores ever reaches
 * memory. Sums are float32. Where the processor lacks the instructions, `dinov2::attention_ready` says so and the
 * caller takes two batched products instead.
 *
 * The backward half goes the same way: scores and weights are computed anew, six query rows at a time; weights and
 * their gradients are kept for one head as pairs of rows in bfloat16, which is what the sums over queries (of keys and
 * values) want.
 *
 * qkv is [T, 3C]: queries, keys, values side by side, each head by head; head width K = C / heads, a multiple of 16 up
 * to 128.
 */
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "simd.h"

namespace {

using namespace dinov2;

bool attentionReady(int64_t width) {
#ifdef DINOV2_BF16
  return __builtin_cpu_supports("avx512bf16") && width % 16 == 0 && width <= 128;
#else
  return false;
#endif
}

#ifdef DINOV2_BF16

/**
 * out[R][16·V] = Σ over pairs of row(r, pair) · b[pair][16·V], the inner product that both halves share: `row` gives
 * one packed pair of bfloat16, `b` holds packed pairs, `pairs` of them, each `ldb` wide.
 */
template <int R, int V, typename Row>
DINOV2_BF16 inline void accumulate(const Row& row, const uint32_t* b, int64_t ldb, int64_t pairs, __m512 (&sum)[R][V]) {
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sum[r][v] = _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; p++) {
    __m512bh column[V];
    for (int v = 0; v < V; v++) column[v] = (__m512bh)_mm512_loadu_si512(b + p * ldb + 16 * v);
    for (int r = 0; r < R; r++) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(row(r, p));
      for (int v = 0; v < V; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], pair, column[v]);
    }
  }
}

/**
 * out[R][16·V] = Σ over pairs of a[r][pair] · b[pair][16·V]; `a` holds rows of bfloat16 pairs, `lda` elements a row.
 */
template <int R, int V>
DINOV2_BF16 inline void multiply(const bf16* a, int64_t lda, const uint32_t* b, int64_t ldb, int64_t pairs, __m512 (&sum)[R][V]) {
  const auto row = [=](int r, int64_t p) DINOV2_BF16 {
    int32_t two;
    __builtin_memcpy(&two, a + r * lda + 2 * p, 4);
    return two;
  };
  accumulate<R, V>(row, b, ldb, pairs, sum);
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
  std::vector<bf16> weights;
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
    bf16* weight = s.weights.data() + r * padded;
    for (int64_t j = 0; j < padded; j += 16) {
      __m512 p = exponential(_mm512_fmsub_ps(_mm512_loadu_ps(line + j), by, top));
      if (j >= whole) p = _mm512_maskz_mov_ps(j == whole ? tail : 0, p);
      total = _mm512_add_ps(total, p);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(weight + j), (__m256i)_mm512_cvtneps_pbh(p));
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
      multiply<R, 4>(s.weights.data(), padded, s.values.data() + d, width, padded / 2, sum);
      write(sum);
      d += 64;
    } else {
      __m512 sum[R][1];
      multiply<R, 1>(s.weights.data(), padded, s.values.data() + d, width, padded / 2, sum);
      write(sum);
      d += 16;
    }
  }
}

/**
 * Packs rows of bfloat16 by pairs of channels, out[pair][row], `padded` rows of which n are there; sixteen rows
 * gathered at once.
 */
DINOV2_BF16 void packByChannels(const bf16* x, int64_t ld, int64_t n, int64_t padded, int64_t width, uint32_t* out) {
  const __m512i steps = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(static_cast<int>(ld / 2)));
  for (int64_t j = 0; j < padded; j += 16) {
    const __mmask16 there = static_cast<__mmask16>(n - j >= 16 ? 0xffff : n > j ? (1u << (n - j)) - 1 : 0);
    for (int64_t p = 0; p < width / 2; p++)
      _mm512_storeu_si512(out + p * padded + j, _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), there, steps, x + j * ld + 2 * p, 4));
  }
}

/** Packs rows of bfloat16 by pairs of rows, out[pair][channel]; `padded` rows (even) of which n are there. */
DINOV2_BF16 void packByRows(const bf16* x, int64_t ld, int64_t n, int64_t padded, int64_t width, uint32_t* out) {
  for (int64_t j = 0; j < padded; j += 2)
    for (int64_t d = 0; d < width; d += 16) {
      const auto line = [&](int64_t row) DINOV2_BF16 {
        return row < n ? _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + row * ld + d))) : _mm512_setzero_si512();
      };
      _mm512_storeu_si512(out + j / 2 * width + d, _mm512_or_si512(line(j), _mm512_slli_epi32(line(j + 1), 16)));
    }
}

/** One head of one sequence of n rows; q, k, v point at its first row, `ld` elements apart. */
DINOV2_BF16 void head(const bf16* q, const bf16* k, const bf16* v, int64_t ld, int64_t n, int64_t width, float scale, Scratch& s, bf16* out, int64_t ldo) {
  constexpr int R = 6;
  const int64_t padded = (n + 15) / 16 * 16;
  s.keys.resize(width / 2 * padded);
  s.values.resize(padded / 2 * width);
  s.scores.resize(R * padded);
  s.weights.resize(R * padded);

  packByChannels(k, ld, n, padded, width, s.keys.data());
  packByRows(v, ld, n, padded, width, s.values.data());

  if (n < R) {
    for (int64_t i = 0; i < n; i++) rows<1>(q + i * ld, ld, n, padded, width, scale, s, out + i * ldo, ldo);
    return;
  }
  for (int64_t i = 0; i < n; i += R) {
    const int64_t first = std::min(i, n - R);  // the last rows may be done twice, to the same values
    rows<R>(q + first * ld, ld, n, padded, width, scale, s, out + first * ldo, ldo);
  }
}

/** out[R][16·V] = Σ over pairs of a[pair][r] · b[pair][16·V], where `a` holds packed pairs, `lda` of them a line. */
template <int R, int V>
DINOV2_BF16 inline void multiplyAcross(const uint32_t* a, int64_t lda, const uint32_t* b, int64_t ldb, int64_t pairs, __m512 (&sum)[R][V]) {
  accumulate<R, V>([=](int r, int64_t p) DINOV2_BF16 { return static_cast<int32_t>(a[p * lda + r]); }, b, ldb, pairs, sum);
}

struct GradScratch {
  std::vector<uint32_t> keys, values;                      // by pairs of channels: [K/2][padded]
  std::vector<uint32_t> keyRows, queryRows, gradRows;      // by pairs of rows: [rows/2][K]
  std::vector<bf16> queries, grads;                        // [rows, K], zero beyond n
  std::vector<float> scores, slopes;                       // [6, padded]
  std::vector<bf16> line;                                  // [6, padded], dS of six rows
  std::vector<uint32_t> weights, scoreGrads;             // by pairs of rows: [rows/2][padded]
};

/** rows `from … from + 6` of the products that end in a row of K channels: `write(r, d, sums)`. */
template <int R, typename Multiply, typename Write>
DINOV2_BF16 inline void acrossChannels(int64_t width, const Multiply& product, const Write& write) {
  for (int64_t d = 0; d < width;) {
    if (width - d >= 64) {
      __m512 sum[R][4];
      product(d, sum);
      for (int r = 0; r < R; r++)
        for (int v = 0; v < 4; v++) write(r, d + 16 * v, sum[r][v]);
      d += 64;
    } else {
      __m512 sum[R][1];
      product(d, sum);
      for (int r = 0; r < R; r++) write(r, d, sum[r][0]);
      d += 16;
    }
  }
}

/**
 * The gradient of one head of one sequence of n rows: dq, dk, dv `ldd` elements a row, for the gradient `g` of its
 * output, `ldg` elements a row.
 */
DINOV2_BF16 void headGrad(const bf16* g, int64_t ldg, const bf16* q, const bf16* k, const bf16* v, int64_t ld, int64_t n, int64_t width, float scale, GradScratch& s, bf16* dq, bf16* dk,
                          bf16* dv, int64_t ldd) {
  constexpr int R = 6;
  const int64_t padded = (n + 15) / 16 * 16;   // of keys
  const int64_t all = (n + R - 1) / R * R;     // of queries; an even number
  s.keys.resize(width / 2 * padded);
  s.values.resize(width / 2 * padded);
  s.keyRows.resize(padded / 2 * width);
  s.queryRows.resize(all / 2 * width);
  s.gradRows.resize(all / 2 * width);
  s.queries.resize(all * width);
  s.grads.resize(all * width);
  s.scores.resize(R * padded);
  s.slopes.resize(R * padded);
  s.line.resize(R * padded);
  s.weights.resize(all / 2 * padded);
  s.scoreGrads.resize(all / 2 * padded);

  packByChannels(k, ld, n, padded, width, s.keys.data());
  packByChannels(v, ld, n, padded, width, s.values.data());
  packByRows(k, ld, n, padded, width, s.keyRows.data());
  packByRows(q, ld, n, all, width, s.queryRows.data());
  packByRows(g, ldg, n, all, width, s.gradRows.data());
  for (int64_t i = 0; i < all; i++) {
    if (i < n) {
      std::copy(q + i * ld, q + i * ld + width, s.queries.data() + i * width);
      std::copy(g + i * ldg, g + i * ldg + width, s.grads.data() + i * width);
    } else {  // a query of zeros whose gradient is zero adds nothing to keys and values
      std::fill_n(s.queries.data() + i * width, width, bf16(0));
      std::fill_n(s.grads.data() + i * width, width, bf16(0));
    }
  }

  const int64_t whole = n / 16 * 16;
  const __mmask16 tail = static_cast<__mmask16>((1u << (n - whole)) - 1);
  for (int64_t first = 0; first < all; first += R) {
    // Scores and the gradients of the weights, row by row.
    int64_t column = 0;
    for (; column + 64 <= padded; column += 64) {
      scores<R, 4>(s.queries.data() + first * width, width, s.keys.data(), padded, width / 2, column, s.scores.data());
      scores<R, 4>(s.grads.data() + first * width, width, s.values.data(), padded, width / 2, column, s.slopes.data());
    }
    for (; column < padded; column += 16) {
      scores<R, 1>(s.queries.data() + first * width, width, s.keys.data(), padded, width / 2, column, s.scores.data());
      scores<R, 1>(s.grads.data() + first * width, width, s.values.data(), padded, width / 2, column, s.slopes.data());
    }
    for (int r = 0; r < R; r++) {
      float* const line = s.scores.data() + r * padded;
      float* const slope = s.slopes.data() + r * padded;
      __m512 most = _mm512_set1_ps(-INFINITY);
      for (int64_t j = 0; j < whole; j += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(line + j));
      if (tail) most = _mm512_mask_max_ps(most, tail, most, _mm512_loadu_ps(line + whole));
      const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most) * scale);
      const __m512 by = _mm512_set1_ps(scale);
      __m512 total = _mm512_setzero_ps(), along = _mm512_setzero_ps();
      for (int64_t j = 0; j < padded; j += 16) {
        __m512 p = exponential(_mm512_fmsub_ps(_mm512_loadu_ps(line + j), by, top));
        if (j >= whole) p = _mm512_maskz_mov_ps(j == whole ? tail : 0, p);
        total = _mm512_add_ps(total, p);
        along = _mm512_fmadd_ps(p, _mm512_loadu_ps(slope + j), along);  // values beyond n are zero, and so are their slopes
        _mm512_storeu_ps(line + j, p);
      }
      const float inverse = 1.0f / _mm512_reduce_add_ps(total);
      const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(along) * inverse);
      const __m512 share = _mm512_set1_ps(inverse), scaled = _mm512_set1_ps(inverse * scale);
      for (int64_t j = 0; j < padded; j += 16) {
        const __m512 p = _mm512_loadu_ps(line + j);
        _mm512_storeu_ps(slope + j, _mm512_mul_ps(_mm512_mul_ps(p, scaled), _mm512_sub_ps(_mm512_loadu_ps(slope + j), mean)));
        _mm512_storeu_ps(line + j, _mm512_mul_ps(p, share));
      }
    }
    // Two rows at a time into pairs; the gradients of the scores by rows as well.
    for (int r = 0; r < R; r += 2)
      for (int64_t j = 0; j < padded; j += 16) {
        const auto pair = [&](const float* x) DINOV2_BF16 {
          const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + r * padded + j)));
          const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + (r + 1) * padded + j)));
          return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
        };
        _mm512_storeu_si512(s.weights.data() + (first + r) / 2 * padded + j, pair(s.scores.data()));
        _mm512_storeu_si512(s.scoreGrads.data() + (first + r) / 2 * padded + j, pair(s.slopes.data()));
        round16(s.line.data() + r * padded + j, _mm512_loadu_ps(s.slopes.data() + r * padded + j));
        round16(s.line.data() + (r + 1) * padded + j, _mm512_loadu_ps(s.slopes.data() + (r + 1) * padded + j));
      }
    // dq = dS·k
    acrossChannels<R>(
        width, [&]<int V>(int64_t d, __m512 (&sum)[R][V]) DINOV2_BF16 { multiply<R, V>(s.line.data(), padded, s.keyRows.data() + d, width, padded / 2, sum); },
        [&](int r, int64_t d, __m512 x) DINOV2_BF16 {
          if (first + r < n) round16(dq + (first + r) * ldd + d, x);
        });
  }
  // dv = Pᵀ·g, dk = dSᵀ·q: rows of keys, six at a time; padded holds no multiple of six, so the last ones stop short.
  for (int64_t j = 0; j < n; j += R) {
    const int64_t from = std::min(j, padded - R);  // some may be done twice, to the same values
    const auto out = [&](bf16* to) {
      return [=](int r, int64_t d, __m512 x) DINOV2_BF16 {
        if (from + r < n) round16(to + (from + r) * ldd + d, x);
      };
    };
    acrossChannels<R>(
        width, [&]<int V>(int64_t d, __m512 (&sum)[R][V]) DINOV2_BF16 { multiplyAcross<R, V>(s.weights.data() + from, padded, s.gradRows.data() + d, width, all / 2, sum); }, out(dv));
    acrossChannels<R>(
        width, [&]<int V>(int64_t d, __m512 (&sum)[R][V]) DINOV2_BF16 { multiplyAcross<R, V>(s.scoreGrads.data() + from, padded, s.queryRows.data() + d, width, all / 2, sum); }, out(dk));
  }
}

/** One head of one sequence: its first row, how many rows, which head. */
struct HeadOfSequence {
  int64_t row, length, head;
};

std::vector<HeadOfSequence> headsOf(const at::Tensor& qkv, at::IntArrayRef counts, at::IntArrayRef lengths, int64_t heads) {
  std::vector<HeadOfSequence> items;
  int64_t row = 0;
  for (size_t g = 0; g < counts.size(); g++)
    for (int64_t i = 0; i < counts[g]; i++, row += lengths[g])
      for (int64_t h = 0; h < heads; h++) items.push_back({row, lengths[g], h});
  TORCH_CHECK(row == qkv.size(0), "the groups cover ", row, " rows of ", qkv.size(0));
  return items;
}

#endif

/**
 * Softmax(Q·Kᵀ/√K)·V within each sequence: counts[g] sequences of lengths[g] rows, one group behind the other. →
 * [T, C]
 */
at::Tensor attention(const at::Tensor& qkv, at::IntArrayRef counts, at::IntArrayRef lengths, int64_t heads) {
  const int64_t C = qkv.size(1) / 3;
  const int64_t width = C / heads;
  TORCH_CHECK(qkv.dim() == 2 && qkv.scalar_type() == at::kBFloat16 && qkv.is_contiguous(), "expected contiguous bfloat16 rows");
  TORCH_CHECK(attentionReady(width), "this processor or head width (", width, ") has no bfloat16 attention kernel");
  auto out = at::empty({qkv.size(0), C}, qkv.options());
#ifdef DINOV2_BF16
  const auto items = headsOf(qkv, counts, lengths, heads);
  const auto* in = reinterpret_cast<const bf16*>(qkv.const_data_ptr<at::BFloat16>());
  auto* to = reinterpret_cast<bf16*>(out.mutable_data_ptr<at::BFloat16>());
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  at::parallel_for(0, static_cast<int64_t>(items.size()), 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t i = begin; i < end; i++) {
      const auto& p = items[i];
      const bf16* base = in + p.row * 3 * C + p.head * width;
      head(base, base + C, base + 2 * C, 3 * C, p.length, width, scale, scratch, to + p.row * C + p.head * width, C);
    }
  });
#endif
  return out;
}

/** The gradient of `attention` for dy [T, C] → [T, 3C]. */
at::Tensor attentionGrad(const at::Tensor& dy, const at::Tensor& qkv, at::IntArrayRef counts, at::IntArrayRef lengths, int64_t heads) {
  const int64_t C = qkv.size(1) / 3;
  const int64_t width = C / heads;
  TORCH_CHECK(qkv.dim() == 2 && qkv.scalar_type() == at::kBFloat16 && qkv.is_contiguous() && dy.scalar_type() == at::kBFloat16 && dy.is_contiguous() && dy.size(0) == qkv.size(0) &&
                  dy.size(1) == C,
              "expected contiguous bfloat16 rows");
  TORCH_CHECK(attentionReady(width), "this processor or head width (", width, ") has no bfloat16 attention kernel");
  auto out = at::empty_like(qkv);
#ifdef DINOV2_BF16
  const auto items = headsOf(qkv, counts, lengths, heads);
  const auto* in = reinterpret_cast<const bf16*>(qkv.const_data_ptr<at::BFloat16>());
  const auto* grad = reinterpret_cast<const bf16*>(dy.const_data_ptr<at::BFloat16>());
  auto* to = reinterpret_cast<bf16*>(out.mutable_data_ptr<at::BFloat16>());
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  at::parallel_for(0, static_cast<int64_t>(items.size()), 1, [&](int64_t begin, int64_t end) {
    GradScratch scratch;
    for (int64_t i = begin; i < end; i++) {
      const auto& p = items[i];
      const int64_t at = p.row * 3 * C + p.head * width;
      headGrad(grad + p.row * C + p.head * width, C, in + at, in + at + C, in + at + 2 * C, 3 * C, p.length, width, scale, scratch, to + at, to + at + C, to + at + 2 * C, 3 * C);
    }
  });
#endif
  return out;
}

TORCH_LIBRARY(dinov2, library) {
  library.def("attention_grad(Tensor dy, Tensor qkv, int[] counts, int[] lengths, int heads) -> Tensor");
  library.def("attention(Tensor qkv, int[] counts, int[] lengths, int heads) -> Tensor");
  library.def("attention_ready(int width) -> bool", attentionReady);
}
TORCH_LIBRARY_IMPL(dinov2, CPU, library) { 
  library.impl("attention", attention);
  library.impl("attention_grad", attentionGrad);
}

}  // namespace
