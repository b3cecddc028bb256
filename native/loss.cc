/**
 * Loops of the heads and their losses, where rows are K prototypes wide (65,536 in Meta's recipes) and every pass over memory counts.
 *
 * Each operator is one that TypeScript writes as a plain twin (`loss/cross-entropy.ts`, `loss/sinkhorn.ts`, `model/head.ts`). Scores and targets may be bfloat16 or
 * float32; sums, exponentials and norms are float32. R student rows, n teacher rows, K prototypes, D width of the bottleneck.
 */
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "loops.h"

namespace {

using namespace dinov2;

// ----------------------------------------------------------------------------------------------------------- cross-entropy

/**
 * One row: s becomes the gradient of weight·(mass·logΣexp(s/τ) − Σ t·s/τ), where t is one row of targets or the sum of two. → the weighted loss.
 * Not a number anywhere in s or t comes out as a loss that is not a number.
 */
template <typename S, typename T>
DINOV2_INLINE float crossEntropyRowBody(S* s, const T* t, const T* u, int64_t K, float weight, float inverse) {
  float most = -INFINITY, mass = 0, along = 0, total = 0;
#pragma omp simd reduction(max : most)
  for (int64_t k = 0; k < K; k++) {
    const float x = load(s + k);
    most = x > most ? x : most;
  }
  if (u) {
#pragma omp simd reduction(+ : mass, along)
    for (int64_t k = 0; k < K; k++) {
      const float target = load(t + k) + load(u + k);
      mass += target;
      along += target * (load(s + k) - most);
    }
  } else {
#pragma omp simd reduction(+ : mass, along)
    for (int64_t k = 0; k < K; k++) {
      const float target = load(t + k);
      mass += target;
      along += target * (load(s + k) - most);
    }
  }
#pragma omp simd reduction(+ : total)
  for (int64_t k = 0; k < K; k++) total += exponential((load(s + k) - most) * inverse);
  const float by = weight * inverse;
  const float share = by * mass / total;
  if (u) {
#pragma omp simd
    for (int64_t k = 0; k < K; k++) store(s + k, exponential((load(s + k) - most) * inverse) * share - by * (load(t + k) + load(u + k)));
  } else {
#pragma omp simd
    for (int64_t k = 0; k < K; k++) store(s + k, exponential((load(s + k) - most) * inverse) * share - by * load(t + k));
  }
  return weight * (mass * std::log(total) - along * inverse);
}
DINOV2_LOOP(crossEntropyRow)

/**
 * Weighted cross-entropy of scores [R, K] with the rows `first` (and `second`, where given; int32 [R]) of targets [n, K].
 * The scores become the gradient of the weighted sum. → losses [R], float32.
 */
at::Tensor crossEntropy(at::Tensor& scores, const at::Tensor& targets, const at::Tensor& first, const std::optional<at::Tensor>& second, const at::Tensor& weights,
                        double temperature) {
  TORCH_CHECK(plain(scores) && plain(targets) && scores.dim() == 2 && targets.dim() == 2 && scores.size(1) == targets.size(1), "expected scores and targets by rows of one width");
  const int64_t R = scores.size(0), K = scores.size(1), n = targets.size(0);
  const auto a = first.contiguous(), b = second ? second->contiguous() : at::Tensor(), w = weights.contiguous();
  TORCH_CHECK(a.numel() == R && w.numel() == R && (!b.defined() || b.numel() == R), "expected a target and a weight for each of ", R, " rows");
  const int32_t* const one = a.const_data_ptr<int32_t>();
  const int32_t* const two = b.defined() ? b.const_data_ptr<int32_t>() : nullptr;
  const float* const weight = w.const_data_ptr<float>();
  for (int64_t r = 0; r < R; r++) TORCH_CHECK(one[r] >= 0 && one[r] < n && (!two || (two[r] >= 0 && two[r] < n)), "row ", r, " names a target beyond ", n);
  auto losses = at::empty({R}, scores.options().dtype(at::kFloat));
  float* const out = losses.mutable_data_ptr<float>();
  typed(scores, [&](auto* s) {
    typed(targets, [&](auto* t) {
      using T = std::remove_pointer_t<decltype(t)>;
      at::parallel_for(0, R, 1, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++)
          out[r] = crossEntropyRow(s + r * K, static_cast<const T*>(t + one[r] * K), static_cast<const T*>(two ? t + two[r] * K : nullptr), K, weight[r], static_cast<float>(1 / temperature));
      });
    });
  });
  return losses;
}

// ---------------------------------------------------------------------------------------------------------------- Sinkhorn

constexpr int64_t kBlock = 512;  // prototypes at once: the rows of a block stay in the second-level cache

/** exp((s − most of the prototype)/τ) into e, for one block of columns; `most` is scratch. */
template <typename S>
DINOV2_INLINE void sinkhornStartBody(const S* s, S* e, int64_t n, int64_t K, int64_t width, float inverse, float* most) {
  for (int64_t k = 0; k < width; k++) most[k] = -INFINITY;
  for (int64_t i = 0; i < n; i++) {
    const S* row = s + i * K;
#pragma omp simd
    for (int64_t k = 0; k < width; k++) {
      const float x = load(row + k);
      most[k] = x > most[k] ? x : most[k];
    }
  }
  for (int64_t i = 0; i < n; i++) {
    const S* row = s + i * K;
    S* to = e + i * K;
#pragma omp simd
    for (int64_t k = 0; k < width; k++) store(to + k, exponential((load(row + k) - most[k]) * inverse));
  }
}
DINOV2_LOOP(sinkhornStart)

/** A turn for one block: v = 1 / (K · Σᵢ uᵢ·e), and each row's share Σ e·v of the block into `part` [n]. */
template <typename S>
DINOV2_INLINE void sinkhornTurnBody(const S* e, int64_t n, int64_t K, int64_t width, const float* u, float* v, float* part) {
  for (int64_t k = 0; k < width; k++) v[k] = 0;
  for (int64_t i = 0; i < n; i++) {
    const S* row = e + i * K;
    const float by = u[i];
#pragma omp simd
    for (int64_t k = 0; k < width; k++) v[k] += by * load(row + k);
  }
  const float count = static_cast<float>(K);
#pragma omp simd
  for (int64_t k = 0; k < width; k++) v[k] = 1.0f / (count * v[k]);
  for (int64_t i = 0; i < n; i++) {
    const S* row = e + i * K;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < width; k++) sum += load(row + k) * v[k];
    part[i] = sum;
  }
}
DINOV2_LOOP(sinkhornTurn)

template <typename S>
DINOV2_INLINE void sinkhornEndBody(S* e, int64_t n, int64_t K, int64_t width, const float* u, const float* v) {
  for (int64_t i = 0; i < n; i++) {
    S* row = e + i * K;
    const float by = u[i];
#pragma omp simd
    for (int64_t k = 0; k < width; k++) store(row + k, load(row + k) * by * v[k]);
  }
}
DINOV2_LOOP(sinkhornEnd)

/**
 * Sinkhorn–Knopp of scores [n, K] → targets [n, K], held as the scores are. The matrix is exp(s/τ) between two vectors of factors, one for rows and one for prototypes;
 * a turn finds both in one pass over memory, block of prototypes by block.
 */
at::Tensor sinkhorn(const at::Tensor& scores, double temperature, int64_t iterations) {
  TORCH_CHECK(plain(scores) && scores.dim() == 2 && iterations >= 1, "expected scores by rows");
  const int64_t n = scores.size(0), K = scores.size(1), blocks = (K + kBlock - 1) / kBlock;
  auto out = at::empty_like(scores);
  std::vector<float> u(n, 1.0f), v(K), part(blocks * n);
  const auto each = [&](auto&& body) {
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; b++) body(b, b * kBlock, std::min(kBlock, K - b * kBlock));
    });
  };
  typed(scores, [&](auto* s) {
    using S = std::remove_pointer_t<decltype(s)>;
    S* const e = static_cast<S*>(out.mutable_data_ptr());
    for (int64_t turn = 0; turn < iterations; turn++) {
      each([&](int64_t b, int64_t at, int64_t width) {
        if (turn == 0) sinkhornStart(static_cast<const S*>(s + at), e + at, n, K, width, static_cast<float>(1 / temperature), v.data() + at);
        sinkhornTurn(static_cast<const S*>(e + at), n, K, width, static_cast<const float*>(u.data()), v.data() + at, part.data() + b * n);
      });
      for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int64_t b = 0; b < blocks; b++) sum += part[b * n + i];
        u[i] = static_cast<float>(1 / (turn + 1 < iterations ? sum * n : sum));
      }
    }
    each([&](int64_t, int64_t at, int64_t width) { sinkhornEnd(e + at, n, K, width, static_cast<const float*>(u.data()), static_cast<const float*>(v.data() + at)); });
  });
  return out;
}

// ---------------------------------------------------------------------------------------------------- weight normalisation

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
  library.def("cross_entropy_(Tensor(a!) scores, Tensor targets, Tensor first, Tensor? second, Tensor weights, float temperature) -> Tensor");
  library.def("sinkhorn(Tensor scores, float temperature, int iterations) -> Tensor");
  library.def("weight_norm(Tensor v, Tensor g, bool low) -> Tensor");
  library.def("weight_norm_grad(Tensor dw, Tensor v, Tensor g) -> (Tensor, Tensor)");
  library.def("loss_ready() -> bool", [] { return true; });
}
TORCH_LIBRARY_IMPL(dinov2, CPU, library) {
  library.impl("cross_entropy_", crossEntropy);
  library.impl("sinkhorn", sinkhorn);
  library.impl("weight_norm", weightNorm);
  library.impl("weight_norm_grad", weightNormGrad);
}

}  // namespace
