/**
 * Bicubic resampling after Pillow; rules and reasons stand in the reference, src/data/image/resample.ts.
 *
 * Columns are squeezed four rows at a time: the rows are laid side by side, pixel by pixel with a fourth channel to
 * fill up, so that one tap is one load and one multiplication of sixteen lanes. Rows are squeezed along the line,
 * sixteen bytes to a lane.
 */
#include <algorithm>
#include <cstring>

#include "pixels.h"

namespace pixels {
namespace {

constexpr int kBits = 22;
constexpr int32_t kHalf = 1 << (kBits - 1);
constexpr double kSupport = 2;

typedef int32_t Lanes __attribute__((vector_size(64)));
typedef uint16_t Shorts __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(16)));

/** Sixteen bytes as whole numbers; in two steps, since g++ turns one step of fourfold width into scalar code. */
#define WIDE(bytes) __builtin_convertvector(__builtin_convertvector(bytes, Shorts), Lanes)

/** Sums with a fraction of kBits bits → sixteen bytes, held within their range. */
#define NARROW(sum, bytes)                                                          \
  {                                                                                 \
    Lanes whole = (sum) >> kBits;                                                   \
    whole = whole < 0 ? whole - whole : whole;                                      \
    whole = whole > 255 ? whole - whole + 255 : whole;                              \
    bytes = __builtin_convertvector(__builtin_convertvector(whole, Shorts), Bytes); \
  }

/**
 * Weights of one axis: output i sums `taps` samples from `first[i]`, weights at i · taps; samples used lie in
 * [low, high).
 */
struct Weights {
  std::vector<int64_t> first;
  std::vector<int32_t> values;
  int64_t taps = 1;
  int64_t low = 0;
  int64_t high = 0;
};

double cubic(double t) {
  const double x = t < 0 ? -t : t;
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

Weights weigh(int64_t length, int64_t outputs, int64_t from, int64_t count, bool flip) {
  // Pillow holds the extent in single precision.
  const double scale = static_cast<double>(static_cast<float>(length)) / static_cast<double>(outputs);
  const double stretch = std::max(scale, 1.0);
  const double support = kSupport * stretch;
  // Never more samples than support · 2 + 1 of them, nor than there are.
  const int64_t width = std::min(static_cast<int64_t>(support) * 2 + 3, length);
  Weights made;
  made.first.resize(count);
  std::vector<int32_t> values(count * width);
  std::vector<double> raw(width);
  std::vector<int64_t> used(count);
  for (int64_t i = 0; i < count; i++) {
    const int64_t place = flip ? outputs - 1 - (from + i) : from + i;
    const double center = (static_cast<double>(place) + 0.5) * scale;
    const int64_t low = std::max<int64_t>(0, static_cast<int64_t>(center - support + 0.5));
    const int64_t n = std::min(length, static_cast<int64_t>(center + support + 0.5)) - low;
    double sum = 0;
    for (int64_t t = 0; t < n; t++) sum += raw[t] = cubic((static_cast<double>(t + low) - center + 0.5) * (1 / stretch));
    made.first[i] = low;
    used[i] = n;
    made.taps = std::max(made.taps, n);
    for (int64_t t = 0; t < n; t++) {
      const double w = (sum != 0 ? raw[t] / sum : raw[t]) * (1 << kBits);
      values[i * width + t] = static_cast<int32_t>(w < 0 ? w - 0.5 : w + 0.5);
    }
  }
  // All outputs get the same number of taps: near the far rim the window moves inwards and the weights with it, padded
  // with zeros.
  made.values.assign(count * made.taps, 0);
  made.low = length;
  for (int64_t i = 0; i < count; i++) {
    const int64_t shift = std::max<int64_t>(0, made.first[i] + made.taps - length);
    made.first[i] -= shift;
    std::copy_n(&values[i * width], used[i], &made.values[i * made.taps + shift]);
    made.low = std::min(made.low, made.first[i]);
    made.high = std::max(made.high, made.first[i] + made.taps);
  }
  return made;
}

/** Weights that only turn a line round. */
Weights mirror(int64_t width, const Box& window) {
  Weights made;
  made.first.resize(window.width);
  for (int64_t i = 0; i < window.width; i++) made.first[i] = width - 1 - window.x - i;
  made.values.assign(window.width, 1 << kBits);
  made.high = width;
  return made;
}

/**
 * Four rows of `width` pixels, side by side and widened once for all taps: [width, 4 rows, RGB and one to fill up].
 * Reads nothing behind the rows.
 */
CLONES void interleave(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d, int64_t width, int32_t* quad) {
  for (int64_t x = 0; x < width; x++) {
    alignas(16) uint8_t packed[16];
    const int64_t most = x + 1 < width ? 4 : 3;
    if (most == 4) {
      std::memcpy(packed, a + 3 * x, 4);
      std::memcpy(packed + 4, b + 3 * x, 4);
      std::memcpy(packed + 8, c + 3 * x, 4);
      std::memcpy(packed + 12, d + 3 * x, 4);
    } else {
      std::memset(packed, 0, 16);
      std::memcpy(packed, a + 3 * x, 3);
      std::memcpy(packed + 4, b + 3 * x, 3);
      std::memcpy(packed + 8, c + 3 * x, 3);
      std::memcpy(packed + 12, d + 3 * x, 3);
    }
    Bytes bytes;
    std::memcpy(&bytes, packed, 16);
    const Lanes wide = WIDE(bytes);
    std::memcpy(quad + 16 * x, &wide, 64);
  }
}

/** Columns of four interleaved rows → four lines of 3 · count bytes and one more that is not used. */
CLONES void squeezeQuad(const int32_t* quad, const int64_t* first, const int32_t* values, int64_t taps, int64_t count, int64_t low, uint8_t* out,
                        int64_t pitch) {
  for (int64_t i = 0; i < count; i++) {
    const int32_t* p = quad + 16 * (first[i] - low);
    Lanes sum = {};
    sum += kHalf;
    for (int64_t t = 0; t < taps; t++) {
      Lanes sample;
      std::memcpy(&sample, p + 16 * t, 64);
      sum += sample * values[i * taps + t];
    }
    Bytes bytes;
    NARROW(sum, bytes)
    uint8_t packed[16];
    std::memcpy(packed, &bytes, 16);
    for (int r = 0; r < 4; r++) std::memcpy(out + r * pitch + 3 * i, packed + 4 * r, 4);
  }
}

/** Room for a line of so many bytes and the one behind it. */
int64_t pitchOf(int64_t line) { return (line + 1 + 63) / 64 * 64; }

/**
 * Columns of `rows` rows from `source` (the first sample of the view in the first row) → lines of 3 · count bytes at
 * `out`, `pitch` bytes apart; `exact` where nothing may be written behind a line.
 */
void squeezeColumns(Scratch& scratch, const uint8_t* source, int64_t sourcePitch, int64_t rows, const Weights& weights, uint8_t* out, int64_t pitch,
                    bool exact) {
  const int64_t count = weights.first.size();
  const int64_t width = weights.high - weights.low;
  const int64_t line = 3 * count;
  int32_t* quad = scratch.quad.of<int32_t>(16 * width);
  uint8_t* lines = exact ? scratch.lines.need(4 * pitchOf(line)) : nullptr;
  for (int64_t y = 0; y < rows; y += 4) {
    const uint8_t* four[4];
    for (int64_t r = 0; r < 4; r++) four[r] = source + std::min(y + r, rows - 1) * sourcePitch + 3 * weights.low;
    interleave(four[0], four[1], four[2], four[3], width, quad);
    if (!exact) {
      squeezeQuad(quad, weights.first.data(), weights.values.data(), weights.taps, count, weights.low, out + y * pitch, pitch);
      continue;
    }
    squeezeQuad(quad, weights.first.data(), weights.values.data(), weights.taps, count, weights.low, lines, pitchOf(line));
    for (int64_t r = 0; r < std::min<int64_t>(4, rows - y); r++) std::memcpy(out + (y + r) * pitch, lines + r * pitchOf(line), line);
  }
}

/** Rows: one output line of `line` bytes from `taps` source lines, the first at `source`. */
CLONES void squeezeLine(const uint8_t* source, int64_t pitch, const int32_t* values, int64_t taps, int64_t line, uint8_t* out) {
  int64_t x = 0;
  for (; x + 64 <= line; x += 64) {
    Lanes a = {};
    a += kHalf;
    Lanes b = a, c = a, d = a;
    for (int64_t t = 0; t < taps; t++) {
      const int32_t w = values[t];
      Bytes bytes[4];
      std::memcpy(bytes, source + t * pitch + x, 64);
      a += WIDE(bytes[0]) * w;
      b += WIDE(bytes[1]) * w;
      c += WIDE(bytes[2]) * w;
      d += WIDE(bytes[3]) * w;
    }
    Lanes* const sums[4] = {&a, &b, &c, &d};
    for (int k = 0; k < 4; k++) {
      Bytes bytes;
      NARROW(*sums[k], bytes)
      std::memcpy(out + x + 16 * k, &bytes, 16);
    }
  }
  for (; x < line; x++) {
    int32_t sum = kHalf;
    for (int64_t t = 0; t < taps; t++) sum += source[t * pitch + x] * values[t];
    sum >>= kBits;
    out[x] = static_cast<uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
  }
}

/**
 * Rows: `source` of lines `pitch` bytes apart whose first is number `base` → `out` of lines `outPitch` bytes apart.
 */
void squeezeRows(const uint8_t* source, int64_t pitch, int64_t line, int64_t base, const Weights& weights, uint8_t* out, int64_t outPitch) {
  const int64_t count = weights.first.size();
  for (int64_t i = 0; i < count; i++)
    squeezeLine(source + (weights.first[i] - base) * pitch, pitch, &weights.values[i * weights.taps], weights.taps, line, out + i * outPitch);
}

}  // namespace

void resample(Scratch& scratch, const Picture& image, const Box& view, int64_t width, int64_t height, const Box& window, bool flip, uint8_t* out) {
  const int64_t line = window.width * 3;
  const int64_t pitch = image.width * 3;
  const bool sameColumns = width == view.width;
  const bool sameRows = height == view.height;
  Weights rows;
  rows.low = window.y;
  rows.high = window.y + window.height;
  if (!sameRows) rows = weigh(view.height, height, window.y, window.height, false);
  const uint8_t* top = image.data + (view.y + rows.low) * pitch + view.x * 3;
  if (sameColumns && !flip) {
    const uint8_t* source = top + window.x * 3;
    if (!sameRows) return squeezeRows(source, pitch, line, rows.low, rows, out, line);
    for (int64_t y = 0; y < window.height; y++) std::memcpy(out + y * line, source + y * pitch, line);
    return;
  }
  const Weights columns = sameColumns ? mirror(view.width, window) : weigh(view.width, width, window.x, window.width, flip);
  if (sameRows) return squeezeColumns(scratch, top, pitch, window.height, columns, out, line, true);
  const int64_t fewer = view.height - height;
  if (!sameColumns && fewer > 0 && fewer > 2 * (view.width - width)) {
    const int64_t across = (columns.high - columns.low) * 3;
    uint8_t* between = scratch.between.need(window.height * across);
    squeezeRows(top + columns.low * 3, pitch, across, rows.low, rows, between, across);
    squeezeColumns(scratch, between - 3 * columns.low, across, window.height, columns, out, line, true);
  } else {
    const int64_t apart = pitchOf(line);
    const int64_t tall = rows.high - rows.low;
    uint8_t* between = scratch.between.need((tall + 3) / 4 * 4 * apart);
    squeezeColumns(scratch, top, pitch, tall, columns, between, apart, false);
    squeezeRows(between, apart, line, rows.low, rows, out, line);
  }
}

}  // namespace pixels
