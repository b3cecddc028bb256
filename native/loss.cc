/**
 * Loops of the heads and their losses, where rows are K prototypes wide (65,536 in Meta's recipes) and every pass over
 * memory counts.
 *
 * Each operator is one that TypeScript writes as a reference implementation (`loss/cross-entropy.ts`,
 * `loss/targets.ts`, `model/head.ts`). They are given chunks of k of the K columns, which stay in the cache from one
 * loop to the next. Scores may be bfloat16 or float32; sums, exponentials and norms are float32. R student rows, n
 * teacher rows, D width of the bottleneck.
 */
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "simd.h"

namespace {

using namespace dinov2;

// ------------------------------------------------------------------------------------------------------------
// normalizers

/** log Σ exp(s/τ − v) of one row of k scores; v may be absent. */
template <typename S>
DINOV2_INLINE float logSumRowBody(const S* s, const float* v, int64_t k, float inverse) {
  float most = -INFINITY, total = 0;
  if (v) {
#pragma omp simd reduction(max : most)
    for (int64_t j = 0; j < k; j++) {
      const float x = load(s + j) * inverse - v[j];
      most = x > most ? x : most;
    }
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < k; j++) total += exponential(load(s + j) * inverse - v[j] - most);
  } else {
#pragma omp simd reduction(max : most)
    for (int64_t j = 0; j < k; j++) {
      const float x = load(s + j);
      most = x > most ? x : most;
    }
    most *= inverse;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < k; j++) total += exponential(load(s + j) * inverse - most);
  }
  return most + std::log(total);
}
DINOV2_LOOP(logSumRow)

/** log Σ exp(s/τ − v) by rows of a chunk [R, k] → [R]. */
at::Tensor logSumOfRows(const at::Tensor& s, const std::optional<at::Tensor>& v, double temperature) {
  TORCH_CHECK(plain(s) && s.dim() == 2 && (!v || (plain(*v) && v->numel() == s.size(1))), "expected scores by rows");
  const int64_t R = s.size(0), k = s.size(1);
  auto out = at::empty({R}, s.options().dtype(at::kFloat));
  float* const to = out.mutable_data_ptr<float>();
  const float* const off = v ? v->const_data_ptr<float>() : nullptr;
  typed(s, [&](auto* from) {
    using S = std::remove_pointer_t<decltype(from)>;
    at::parallel_for(0, R, 8, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) to[r] = logSumRow(static_cast<const S*>(from + r * k), off, k, static_cast<float>(1 / temperature));
    });
  });
  return out;
}

// ----------------------------------------------------------------------------------------------------------------
// Sinkhorn

constexpr int64_t kBlock = 128;  // columns at once: the exponentials of a block stay in the second-level cache
constexpr float kLeast = 1e-37f;

/** The largest s/τ of each of `width` columns. */
template <typename S>
DINOV2_INLINE void columnMostBody(const S* s, int64_t n, int64_t k, int64_t width, float inverse, float* most) {
  for (int64_t j = 0; j < width; j++) most[j] = -INFINITY;
  for (int64_t i = 0; i < n; i++) {
    const S* row = s + i * k;
#pragma omp simd
    for (int64_t j = 0; j < width; j++) {
      const float x = load(row + j);
      most[j] = x > most[j] ? x : most[j];
    }
  }
#pragma omp simd
  for (int64_t j = 0; j < width; j++) most[j] *= inverse;
}
DINOV2_LOOP(columnMost)

/**
 * A turn for one block of columns: their totals of p = exp(s/τ − v − u) over `share` = n/K go into v by their
 * logarithms, and what the block then adds to the total of each row into `part` [n]. `p` [n, width] and `totals`
 * [width] are scratch.
 */
template <typename S>
DINOV2_INLINE void sinkhornTurnBody(const S* s, int64_t n, int64_t k, int64_t width, float inverse, float share, const float* u, float* v, float* p, float* totals,
                                    float* part) {
  for (int64_t j = 0; j < width; j++) totals[j] = 0;
  for (int64_t i = 0; i < n; i++) {
    const S* row = s + i * k;
    float* to = p + i * width;
    const float off = u[i];
#pragma omp simd
    for (int64_t j = 0; j < width; j++) {
      const float x = exponential(load(row + j) * inverse - v[j] - off);
      to[j] = x;
      totals[j] += x;
    }
  }
  for (int64_t j = 0; j < width; j++) {
    const float total = (totals[j] < kLeast ? kLeast : totals[j]) / share;
    v[j] += std::log(total);
    totals[j] = 1.0f / total;
  }
  for (int64_t i = 0; i < n; i++) {
    const float* row = p + i * width;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < width; j++) sum += row[j] * totals[j];
    part[i] = sum;
  }
}
DINOV2_LOOP(sinkhornTurn)

/**
 * One turn of Sinkhorn–Knopp over a chunk of scores [n, k] of K prototypes: u [n], v [k] (absent before the first
 * turn) → the new v, and what the chunk adds to the total of each row [n].
 */
std::tuple<at::Tensor, at::Tensor> sinkhornTurns(const at::Tensor& s, const at::Tensor& u, const std::optional<at::Tensor>& v, int64_t prototypes, double temperature) {
  TORCH_CHECK(plain(s) && plain(u) && s.dim() == 2 && u.numel() == s.size(0) && (!v || v->numel() == s.size(1)), "expected scores by rows");
  const int64_t n = s.size(0), k = s.size(1), blocks = (k + kBlock - 1) / kBlock;
  const float inverse = static_cast<float>(1 / temperature), share = static_cast<float>(double(n) / double(prototypes));
  auto next = v ? v->clone() : at::empty({k}, u.options());
  auto sums = at::empty({n}, u.options());
  std::vector<float> parts(blocks * n);
  float* const to = next.mutable_data_ptr<float>();
  const float* const off = u.const_data_ptr<float>();
  typed(s, [&](auto* from) {
    using S = std::remove_pointer_t<decltype(from)>;
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> p(n * kBlock), totals(kBlock);
      for (int64_t b = begin; b < end; b++) {
        const int64_t at = b * kBlock, width = std::min(kBlock, k - at);
        if (!v) columnMost(static_cast<const S*>(from + at), n, k, width, inverse, to + at);
        sinkhornTurn(static_cast<const S*>(from + at), n, k, width, inverse, share, off, to + at, p.data(), totals.data(), parts.data() + b * n);
      }
    });
  });
  float* const sum = sums.mutable_data_ptr<float>();
  for (int64_t i = 0; i < n; i++) {
    double total = 0;
    for (int64_t b = 0; b < blocks; b++) total += parts[b * n + i];
    sum[i] = static_cast<float>(total);
  }
  return {next, sums};
}

// -----------------------------------------------------------------------------------------------------------
// cross-entropy

/** One row of teacher scores and what its targets exp(s/τ − u − v) need. */
template <typename T>
struct Teacher {
  const T* s;
  float u;
};

/**
 * One row and `k` columns: the gradient by s of weight·(mass·logΣexp(s/τ) − Σ t·s/τ), t being the targets of one
 * teacher row or the sum of two. → Σ t·s/τ.
 */
template <typename S, typename T>
DINOV2_INLINE float columnLossRowBody(S* gradient, const S* s, Teacher<T> a, Teacher<T> b, const float* v, int64_t k, float lse, float weight, float inverse, float inverseT) {
  const float by = weight * inverse;
  float along = 0;
  if (b.s) {
#pragma omp simd reduction(+ : along)
    for (int64_t j = 0; j < k; j++) {
      const float x = load(s + j) * inverse;
      const float t = exponential(load(a.s + j) * inverseT - v[j] - a.u) + exponential(load(b.s + j) * inverseT - v[j] - b.u);
      along += t * x;
      store(gradient + j, by * (2 * exponential(x - lse) - t));
    }
  } else {
#pragma omp simd reduction(+ : along)
    for (int64_t j = 0; j < k; j++) {
      const float x = load(s + j) * inverse;
      const float t = exponential(load(a.s + j) * inverseT - v[j] - a.u);
      along += t * x;
      store(gradient + j, by * (exponential(x - lse) - t));
    }
  }
  return along;
}
DINOV2_LOOP(columnLossRow)

/**
 * What a chunk of columns gives for rows that are compared with one set of targets: s [R, k] of the student with
 * temperature τ, lse and weights [R]; scores t [n, k], u [n] and v [k] of the teacher with its own τ; `first` and
 * `second` (int32 [R]) say which of its rows, row r where absent. Writes the gradient [R, k]; → Σ t·s/τ by rows,
 * float32.
 */
at::Tensor columnLoss(at::Tensor& gradient, const at::Tensor& s, const at::Tensor& lse, const at::Tensor& weights, const at::Tensor& t, const at::Tensor& u, const at::Tensor& v,
                      const std::optional<at::Tensor>& first, const std::optional<at::Tensor>& second, double temperature, double temperatureT) {
  TORCH_CHECK(plain(s) && plain(t) && plain(gradient) && gradient.sizes() == s.sizes() && gradient.scalar_type() == s.scalar_type() && s.size(1) == t.size(1),
              "expected scores by rows of one width");
  const int64_t R = s.size(0), k = s.size(1), n = t.size(0);
  const auto a = first ? first->contiguous() : at::Tensor(), b = second ? second->contiguous() : at::Tensor();
  TORCH_CHECK(lse.numel() == R && weights.numel() == R && u.numel() == n && v.numel() == k && (a.defined() ? a.numel() == R : n >= R) && (!b.defined() || b.numel() == R),
              "expected a target and a weight for each of ", R, " rows");
  const int32_t* const one = a.defined() ? a.const_data_ptr<int32_t>() : nullptr;
  const int32_t* const two = b.defined() ? b.const_data_ptr<int32_t>() : nullptr;
  for (int64_t r = 0; r < R; r++) TORCH_CHECK((!one || (one[r] >= 0 && one[r] < n)) && (!two || (two[r] >= 0 && two[r] < n)), "row ", r, " names a target beyond ", n);
  auto along = at::empty({R}, lse.options());
  float* const out = along.mutable_data_ptr<float>();
  const float *const total = lse.const_data_ptr<float>(), *const weight = weights.const_data_ptr<float>(), *const row = u.const_data_ptr<float>(),
                     *const column = v.const_data_ptr<float>();
  typed(s, [&](auto* from) {
    typed(t, [&](auto* teacher) {
      using S = std::remove_pointer_t<decltype(from)>;
      using T = std::remove_pointer_t<decltype(teacher)>;
      S* const to = static_cast<S*>(gradient.mutable_data_ptr());
      const auto pick = [&](int64_t i) { return Teacher<T>{teacher + i * k, row[i]}; };
      at::parallel_for(0, R, 4, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++)
          out[r] = columnLossRow(to + r * k, static_cast<const S*>(from + r * k), pick(one ? one[r] : r), two ? pick(two[r]) : Teacher<T>{nullptr, 0}, column, k, total[r],
                                 weight[r], static_cast<float>(1 / temperature), static_cast<float>(1 / temperatureT));
      });
    });
  });
  return along;
}

// ---------------------------------------------------------------------------------------------------- weight
// normalization

template <typename S>
DINOV2_INLINE void weightNormRowBody(const float* v, float g, int64_t D, S* out) {
  float square = 0;
#pragma omp simd reduction(+ : square)
  for (int64_t d = 0; d < D; d++) square += v[d] * v[d];
  const float by = g / std::sqrt(square);
#pragma omp simd
  for (int64_t d = 0; d < D; d++) store(out + d, v[d] * by);
}
DINOV2_LOOP(weightNormRow)

/** g·v/‖v‖ by rows; v [K, D], g [K, 1] float32 → [K, D] float32, or bfloat16 where `low`. */
at::Tensor weightNorm(const at::Tensor& v, const at::Tensor& g, bool low) {
  TORCH_CHECK(plain(v) && plain(g) && v.dim() == 2 && g.numel() == v.size(0), "expected directions by rows and a gain for each");
  const int64_t K = v.size(0), D = v.size(1);
  auto out = at::empty({K, D}, v.options().dtype(low ? at::kBFloat16 : at::kFloat));
  const float* const from = v.const_data_ptr<float>();
  const float* const gain = g.const_data_ptr<float>();
  typed(out, [&](auto* to) {
    at::parallel_for(0, K, 256, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; k++) weightNormRow(from + k * D, gain[k], D, to + k * D);
    });
  });
  return out;
}

/** dw may be dv: each row is read before it is written. → the gradient of the gain. */
template <typename S>
DINOV2_INLINE float weightNormGradRowBody(const S* dw, const float* v, float g, int64_t D, float* dv) {
  float square = 0, along = 0;
#pragma omp simd reduction(+ : square, along)
  for (int64_t d = 0; d < D; d++) {
    square += v[d] * v[d];
    along += load(dw + d) * v[d];
  }
  const float inverse = 1.0f / std::sqrt(square);
  along *= inverse;
  const float by = g * inverse, back = along * inverse;
#pragma omp simd
  for (int64_t d = 0; d < D; d++) dv[d] = by * (load(dw + d) - back * v[d]);
  return along;
}
DINOV2_LOOP(weightNormGradRow)

/** Gradients of gain [K, 1] and direction [K, D], float32, for dw [K, D] of g·v/‖v‖. */
std::tuple<at::Tensor, at::Tensor> weightNormGrad(const at::Tensor& dw, const at::Tensor& v, const at::Tensor& g) {
  TORCH_CHECK(plain(dw) && plain(v) && plain(g) && dw.sizes() == v.sizes() && g.numel() == v.size(0), "expected a gradient of the size of the directions");
  const int64_t K = v.size(0), D = v.size(1);
  auto dg = at::empty_like(g);
  auto dv = at::empty_like(v);
  const float* const direction = v.const_data_ptr<float>();
  const float* const gain = g.const_data_ptr<float>();
  float* const toGain = dg.mutable_data_ptr<float>();
  float* const toDirection = dv.mutable_data_ptr<float>();
  typed(dw, [&](auto* from) {
    using S = std::remove_pointer_t<decltype(from)>;
    at::parallel_for(0, K, 256, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; k++) toGain[k] = weightNormGradRow(static_cast<const S*>(from + k * D), direction + k * D, gain[k], D, toDirection + k * D);
    });
  });
  return {dg, dv};
}

TORCH_LIBRARY_FRAGMENT(dinov2, library) {
  library.def("log_sum_of_rows(Tensor s, Tensor? v, float temperature) -> Tensor");
  library.def("sinkhorn_turn(Tensor s, Tensor u, Tensor? v, int prototypes, float temperature) -> (Tensor, Tensor)");
  library.def(
      "column_loss(Tensor(a!) gradient, Tensor s, Tensor lse, Tensor weights, Tensor t, Tensor u, Tensor v, Tensor? first, Tensor? second, float temperature, float "
      "temperature_t) -> Tensor");
  library.def("weight_norm(Tensor v, Tensor g, bool low) -> Tensor");
  library.def("weight_norm_grad(Tensor dw, Tensor v, Tensor g) -> (Tensor, Tensor)");
  library.def("loss_ready() -> bool", [] { return true; });
}
TORCH_LIBRARY_IMPL(dinov2, CPU, library) {
  library.impl("log_sum_of_rows", logSumOfRows);
  library.impl("sinkhorn_turn", sinkhornTurns);
  library.impl("column_loss", columnLoss);
  library.impl("weight_norm", weightNorm);
  library.impl("weight_norm_grad", weightNormGrad);
}

}  // namespace
