/**
 * Loops over the rows of a pass: layer normalization, the gradient of GELU, and what stochastic depth does around
 * them.
 *
 * Each goes once over memory where libtorch's operators go two to five times, reads and writes bfloat16 or float32 as
 * it comes, and has a reference implementation in `src/tensor/ops`. Statistics and sums are float32; sums over rows
 * are cut into chunks of their own number, so that a result does not depend on how many threads there are. T rows, C
 * channels, n rows picked.
 */
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "simd.h"

namespace {

using namespace dinov2;

constexpr int64_t kChunks = 32;

/** Calls body(chunk, begin, end) for chunks of `count` rows, in parallel. */
template <typename F>
void inChunks(int64_t count, F&& body) {
  at::parallel_for(0, kChunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) body(p, count * p / kChunks, count * (p + 1) / kChunks);
  });
}

/** Adds up the chunks' lines [chunks, C] in order. */
at::Tensor joined(const std::vector<float>& lines, int64_t C, const at::TensorOptions& options) {
  auto out = at::empty({C}, options.dtype(at::kFloat));
  float* const to = out.mutable_data_ptr<float>();
  std::fill(to, to + C, 0.0f);
  for (int64_t p = 0; p < kChunks; p++)
    for (int64_t c = 0; c < C; c++) to[c] += lines[p * C + c];
  return out;
}

/** For each of T rows the place in `rows` [n] that names it, or −1; all in order where no rows are given. */
std::vector<int32_t> placesOf(const at::Tensor& rows, int64_t T) {
  std::vector<int32_t> out(T, -1);
  const auto list = rows.contiguous();
  const int32_t* const row = list.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < list.numel(); i++) {
    TORCH_CHECK(row[i] >= 0 && row[i] < T && out[row[i]] < 0, "rows must be different ones of ", T, " but place ", i, " names ", row[i]);
    out[row[i]] = static_cast<int32_t>(i);
  }
  return out;
}

/** A factor by row, or the same for all. */
struct Factor {
  at::Tensor held;
  const float* byRow = nullptr;
  float all;
  Factor(const std::optional<at::Tensor>& rows, double same, int64_t n) : all(static_cast<float>(same)) {
    if (!rows) return;
    TORCH_CHECK(rows->numel() == n, "expected a factor for each of ", n, " rows");
    held = rows->contiguous();
    byRow = held.const_data_ptr<float>();
  }
  float operator[](int64_t i) const { return byRow ? byRow[i] : all; }
};

// --------------------------------------------------------------------------------------------------------------------
// norm

struct RowStats {
  float mean, rstd;
};

template <typename X, typename Y>
DINOV2_INLINE RowStats normRowBody(const X* x, const float* w, const float* b, int64_t C, float eps, Y* y) {
  float sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < C; c++) sum += load(x + c);
  const float mean = sum / C;
#pragma omp simd reduction(+ : square)
  for (int64_t c = 0; c < C; c++) {
    const float d = load(x + c) - mean;
    square += d * d;
  }
  const float rstd = 1.0f / std::sqrt(square / C + eps);
#pragma omp simd
  for (int64_t c = 0; c < C; c++) store(y + c, (load(x + c) - mean) * rstd * w[c] + b[c]);
  return {mean, rstd};
}
DINOV2_LOOP(normRow)

/**
 * (x − mean)·rstd ⊙ w + b for the rows of x [T, C] → y (bfloat16 where `low`, else float32), mean [T, 1], rstd [T, 1].
 */
std::tuple<at::Tensor, at::Tensor, at::Tensor> layerNorm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps, bool low) {
  TORCH_CHECK(plain(x) && x.dim() == 2 && plain(weight) && plain(bias), "expected rows");
  const int64_t T = x.size(0), C = x.size(1);
  auto y = at::empty({T, C}, x.options().dtype(low ? at::kBFloat16 : at::kFloat));
  auto mean = at::empty({T, 1}, x.options().dtype(at::kFloat)), rstd = at::empty({T, 1}, x.options().dtype(at::kFloat));
  const float *const w = weight.const_data_ptr<float>(), *const b = bias.const_data_ptr<float>();
  float *const m = mean.mutable_data_ptr<float>(), *const r = rstd.mutable_data_ptr<float>();
  typed(x, [&](auto* from) {
    using X = std::remove_pointer_t<decltype(from)>;
    typed(y, [&](auto* to) {
      at::parallel_for(0, T, 64, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; t++) {
          const auto stats = normRow(static_cast<const X*>(from + t * C), w, b, C, static_cast<float>(eps), to + t * C);
          m[t] = stats.mean;
          r[t] = stats.rstd;
        }
      });
    });
  });
  return {y, mean, rstd};
}

/** One row of the gradient; `onto` may be null, `dx` may be `onto`. dw and db are added to. */
template <typename D, typename X, typename Y>
DINOV2_INLINE void normGradRowBody(const D* dy, const X* x, RowStats stats, const float* w, int64_t C, const float* onto, Y* dx, float* dw, float* db) {
  float first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
  for (int64_t c = 0; c < C; c++) {
    const float d = load(dy + c), normal = (load(x + c) - stats.mean) * stats.rstd, slope = d * w[c];
    first += slope;
    second += slope * normal;
    dw[c] += d * normal;
    db[c] += d;
  }
  const float a = first / C, b = second / C;
  if (onto) {
#pragma omp simd
    for (int64_t c = 0; c < C; c++) store(dx + c, (load(dy + c) * w[c] - a - (load(x + c) - stats.mean) * stats.rstd * b) * stats.rstd + onto[c]);
  } else {
#pragma omp simd
    for (int64_t c = 0; c < C; c++) store(dx + c, (load(dy + c) * w[c] - a - (load(x + c) - stats.mean) * stats.rstd * b) * stats.rstd);
  }
}
DINOV2_LOOP(normGradRow)

/**
 * Gradients of `layer_norm` for dy [n, C]: of x, weight and bias, float32. Where `onto` [T, C] is given (float32), the
 * first is added to it: row i to row rows[i], or to row i where no rows are given (then T = n); the rows that nothing
 * is added to are copied.
 */
std::tuple<at::Tensor, at::Tensor, at::Tensor> layerNormGrad(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd, const at::Tensor& weight,
                                                             const std::optional<at::Tensor>& onto, const std::optional<at::Tensor>& rows) {
  TORCH_CHECK(plain(dy) && plain(x) && dy.sizes() == x.sizes() && plain(weight) && (!onto || (plain(*onto) && onto->scalar_type() == at::kFloat)), "expected rows");
  TORCH_CHECK(!rows || onto, "rows say where the gradient is added");
  const int64_t n = x.size(0), C = x.size(1), T = onto ? onto->size(0) : n;
  TORCH_CHECK(rows ? rows->numel() == n : T == n, "expected a place for each of ", n, " rows");
  const auto places = rows ? placesOf(*rows, T) : std::vector<int32_t>();
  auto dx = at::empty({T, C}, x.options().dtype(at::kFloat));
  const float *const m = mean.const_data_ptr<float>(), *const r = rstd.const_data_ptr<float>(), *const w = weight.const_data_ptr<float>();
  const float* const base = onto ? onto->const_data_ptr<float>() : nullptr;
  float* const to = dx.mutable_data_ptr<float>();
  std::vector<float> dw(kChunks * C), db(kChunks * C);
  typed(dy, [&](auto* grad) {
    using D = std::remove_pointer_t<decltype(grad)>;
    typed(x, [&](auto* from) {
      using X = std::remove_pointer_t<decltype(from)>;
      inChunks(T, [&](int64_t chunk, int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; t++) {
          const int64_t i = rows ? places[t] : t;
          if (i < 0) {
            std::copy(base + t * C, base + (t + 1) * C, to + t * C);
            continue;
          }
          normGradRow(static_cast<const D*>(grad + i * C), static_cast<const X*>(from + i * C), RowStats{m[i], r[i]}, w, C, base ? base + t * C : nullptr, to + t * C,
                      dw.data() + chunk * C, db.data() + chunk * C);
        }
      });
    });
  });
  return {dx, joined(dw, C, x.options()), joined(db, C, x.options())};
}

// ------------------------------------------------------------------------------------------------------- picking and
// adding

template <typename X, typename Y>
DINOV2_INLINE void scaleRowBody(const X* x, float by, int64_t C, Y* y) {
#pragma omp simd
  for (int64_t c = 0; c < C; c++) store(y + c, load(x + c) * by);
}
DINOV2_LOOP(scaleRow)

/** factor·x[rows] → [n, C], bfloat16 where `low`, else float32; a factor by row is [n, 1]. */
at::Tensor takeRows(const at::Tensor& x, const at::Tensor& rows, const std::optional<at::Tensor>& factors, double factor, bool low) {
  TORCH_CHECK(plain(x) && x.dim() == 2, "expected rows");
  const int64_t T = x.size(0), C = x.size(1), n = rows.numel();
  const auto list = rows.contiguous();
  const int32_t* const row = list.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < n; i++) TORCH_CHECK(row[i] >= 0 && row[i] < T, "row ", row[i], " of ", T);
  const Factor by(factors, factor, n);
  auto out = at::empty({n, C}, x.options().dtype(low ? at::kBFloat16 : at::kFloat));
  typed(x, [&](auto* from) {
    using X = std::remove_pointer_t<decltype(from)>;
    typed(out, [&](auto* to) {
      at::parallel_for(0, n, 128, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) scaleRow(static_cast<const X*>(from + row[i] * C), by[i], C, to + i * C);
      });
    });
  });
  return out;
}

template <typename Y>
DINOV2_INLINE void addRowBody(const float* x, const Y* y, float by, int64_t C, float* out) {
#pragma omp simd
  for (int64_t c = 0; c < C; c++) out[c] = x[c] + by * load(y + c);
}
DINOV2_LOOP(addRow)

/** x [T, C] float32 with factor·y [n, C] added at `rows`, which are different ones; a factor by row is [n, 1]. */
at::Tensor addRows(const at::Tensor& x, const at::Tensor& rows, const at::Tensor& y, const std::optional<at::Tensor>& factors, double factor) {
  TORCH_CHECK(plain(x) && x.scalar_type() == at::kFloat && plain(y) && x.dim() == 2 && y.dim() == 2 && x.size(1) == y.size(1) && y.size(0) == rows.numel(), "expected rows of one width");
  const int64_t T = x.size(0), C = x.size(1), n = rows.numel();
  const auto places = placesOf(rows, T);
  const Factor by(factors, factor, n);
  auto out = at::empty_like(x);
  const float* const from = x.const_data_ptr<float>();
  float* const to = out.mutable_data_ptr<float>();
  typed(y, [&](auto* more) {
    using Y = std::remove_pointer_t<decltype(more)>;
    at::parallel_for(0, T, 128, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; t++) {
        const int64_t i = places[t];
        if (i < 0) std::copy(from + t * C, from + (t + 1) * C, to + t * C);
        else addRow(from + t * C, static_cast<const Y*>(more + i * C), by[i], C, to + t * C);
      }
    });
  });
  return out;
}

template <typename X>
DINOV2_INLINE void addColumnsBody(const X* x, int64_t rows, int64_t C, float* sum) {
  int64_t t = 0;
  for (; t + 4 <= rows; t += 4) {  // four rows at a time, so that the sums travel less
    const X *const a = x + t * C, *const b = a + C, *const c = b + C, *const d = c + C;
#pragma omp simd
    for (int64_t i = 0; i < C; i++) sum[i] += (load(a + i) + load(b + i)) + (load(c + i) + load(d + i));
  }
  for (; t < rows; t++) {
#pragma omp simd
    for (int64_t i = 0; i < C; i++) sum[i] += load(x + t * C + i);
  }
}
DINOV2_LOOP(addColumns)

/** Σ over the rows of x [T, C] → [C] float32. */
at::Tensor columnSums(const at::Tensor& x) {
  TORCH_CHECK(plain(x) && x.dim() == 2, "expected rows");
  const int64_t T = x.size(0), C = x.size(1);
  std::vector<float> lines(kChunks * C);
  typed(x, [&](auto* from) {
    using X = std::remove_pointer_t<decltype(from)>;
    inChunks(T, [&](int64_t chunk, int64_t begin, int64_t end) { addColumns(static_cast<const X*>(from + begin * C), end - begin, C, lines.data() + chunk * C); });
  });
  return joined(lines, C, x.options());
}

// --------------------------------------------------------------------------------------------------------------------
// GELU

/**
 * One half and an odd function that reaches ±½: ½ + x·P(t), t = 2x²/5.5² − 1, for |x| ≤ 5.5 and constant beyond;
 * coefficients from the highest power.
 */
template <typename... C>
DINOV2_INLINE float halfAndOdd(float x, C... coefficients) {
  const float near = x < -5.5f ? -5.5f : x > 5.5f ? 5.5f : x;
  const float t = near * near * (2.0f / 30.25f) - 1.0f;
  float sum = 0;
  ((sum = sum * t + coefficients), ...);
  return 0.5f + near * sum;
}

/**
 * Φ(x) + x·φ(x), the slope of x·Φ(x), to 2e-6 by a polynomial fitted at Chebyshev's points: enough for bfloat16 and no
 * more.
 */
DINOV2_INLINE float slope(float x) {
  return halfAndOdd(x, 0.00966670932f, -0.0236102507f, 0.0120747759f, -0.00388559542f, 0.0394454146f, -0.0699665696f, 0.0669821464f, -0.066588844f, 0.073322425f, -0.0700658358f, 0.0604891475f, -0.0536250905f, 0.0536540991f, -0.0657425388f, 0.128759318f);
}

DINOV2_INLINE void geluGradBody(const bf16* dy, const bf16* x, int64_t count, bf16* dx) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) store(dx + i, load(dy + i) * slope(load(x + i)));
}
DINOV2_LOOP(geluGrad)

bf16* numbers(const at::Tensor& x) {
  TORCH_CHECK(plain(x) && x.scalar_type() == at::kBFloat16, "expected contiguous bfloat16");
  return reinterpret_cast<bf16*>(x.data_ptr<at::BFloat16>());
}

/** dy·(Φ(x) + x·φ(x)) of bfloat16. */
at::Tensor geluBackward(const at::Tensor& dy, const at::Tensor& x) {
  TORCH_CHECK(dy.sizes() == x.sizes(), "expected a gradient of the size of the input");
  auto dx = at::empty_like(x);
  const bf16 *const grad = numbers(dy), *const from = numbers(x);
  bf16* const to = numbers(dx);
  at::parallel_for(0, x.numel(), 16384, [&](int64_t begin, int64_t end) { geluGrad(grad + begin, from + begin, end - begin, to + begin); });
  return dx;
}

// ---------------------------------------------------------------------------------------------------------------
// LayerScale

template <typename W, typename G>
DINOV2_INLINE float scaledGradRowBody(const W* w, const G* g, float by, int64_t I, float* out) {
  float along = 0;
#pragma omp simd reduction(+ : along)
  for (int64_t i = 0; i < I; i++) along += load(w + i) * load(g + i);
#pragma omp simd
  for (int64_t i = 0; i < I; i++) out[i] = by * load(g + i);
  return along;
}
DINOV2_LOOP(scaledGradRow)

/** Of γ ⊙ (a·Wᵀ + b), from G = dyᵀ·a [O, I] and s = Σ dy [O]: γ ⊙ G, γ ⊙ s and Σᵢ W ⊙ G + b ⊙ s, all float32. */
std::tuple<at::Tensor, at::Tensor, at::Tensor> scaledGrad(const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& gamma, const at::Tensor& gradWeight,
                                                          const at::Tensor& gradBias) {
  TORCH_CHECK(plain(weight) && plain(gradWeight) && weight.sizes() == gradWeight.sizes(), "expected a gradient of the size of the weights");
  const int64_t O = weight.size(0), I = weight.size(1);
  const auto options = gamma.options().dtype(at::kFloat);
  auto dw = at::empty({O, I}, options), db = at::empty({O}, options), dgamma = at::empty({O}, options);
  const auto b = bias.to(at::kFloat).contiguous(), by = gamma.to(at::kFloat).contiguous(), s = gradBias.to(at::kFloat).contiguous();
  const float *const bs = b.const_data_ptr<float>(), *const gs = by.const_data_ptr<float>(), *const sums = s.const_data_ptr<float>();
  float *const toWeight = dw.mutable_data_ptr<float>(), *const toBias = db.mutable_data_ptr<float>(), *const toGamma = dgamma.mutable_data_ptr<float>();
  typed(weight, [&](auto* w) {
    using W = std::remove_pointer_t<decltype(w)>;
    typed(gradWeight, [&](auto* g) {
      using G = std::remove_pointer_t<decltype(g)>;
      at::parallel_for(0, O, 16, [&](int64_t begin, int64_t end) {
        for (int64_t o = begin; o < end; o++) {
          toGamma[o] = scaledGradRow(static_cast<const W*>(w + o * I), static_cast<const G*>(g + o * I), gs[o], I, toWeight + o * I) + bs[o] * sums[o];
          toBias[o] = gs[o] * sums[o];
        }
      });
    });
  });
  return {dw, db, dgamma};
}

TORCH_LIBRARY_FRAGMENT(dinov2, library) {
  library.def("layer_norm(Tensor x, Tensor weight, Tensor bias, float eps, bool low) -> (Tensor, Tensor, Tensor)");
  library.def("layer_norm_grad(Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor weight, Tensor? onto, Tensor? rows) -> (Tensor, Tensor, Tensor)");
  library.def("take_rows(Tensor x, Tensor rows, Tensor? factors, float factor, bool low) -> Tensor");
  library.def("add_rows(Tensor x, Tensor rows, Tensor y, Tensor? factors, float factor) -> Tensor");
  library.def("column_sums(Tensor x) -> Tensor");
  library.def("gelu_grad(Tensor dy, Tensor x) -> Tensor");
  library.def("scaled_grad(Tensor weight, Tensor bias, Tensor gamma, Tensor grad_weight, Tensor grad_bias) -> (Tensor, Tensor, Tensor)");
  library.def("norm_ready() -> bool", [] { return true; });
  library.def("rows_ready() -> bool", [] { return true; });
  library.def("gelu_ready() -> bool", [] { return true; });
  library.def("sums_ready() -> bool", [] { return true; });
}
TORCH_LIBRARY_IMPL(dinov2, CPU, library) {
  library.impl("layer_norm", layerNorm);
  library.impl("layer_norm_grad", layerNormGrad);
  library.impl("take_rows", takeRows);
  library.impl("add_rows", addRows);
  library.impl("column_sums", columnSums);
  library.impl("gelu_grad", geluBackward);
  library.impl("scaled_grad", scaledGrad);
}

}  // namespace
