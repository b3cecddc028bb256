/**
 * Changes of colour after Pillow and torchvision; rules and reasons stand in the reference, src/data/augment/color.ts.
 *
 * All work on planes, in plain loops that compilers turn into vector instructions. What a loop computes for one pixel
 * is, operation by operation, what the reference computes: `float` where that rounds with Math.fround, `double` where
 * it does not.
 */
#include <algorithm>
#include <cstring>

#include "pixels.h"

namespace pixels {
namespace {

/** As Pillow's `convert('L')`. */
inline int luma(int r, int g, int b) { return (19595 * r + 38470 * g + 7471 * b + 32768) >> 16; }

inline uint8_t byte(float x) {
  const int whole = static_cast<int>(x);
  return static_cast<uint8_t>(whole < 0 ? 0 : whole > 255 ? 255 : whole);
}

CLONES void blend(uint8_t* plane, int64_t count, float from, float factor) {
  for (int64_t i = 0; i < count; i++) plane[i] = byte(from + factor * (static_cast<float>(plane[i]) - from));
}

CLONES uint32_t lumaSum(const uint8_t* r, const uint8_t* g, const uint8_t* b, int64_t count) {
  uint32_t sum = 0;
  for (int64_t i = 0; i < count; i++) sum += static_cast<uint32_t>(luma(r[i], g[i], b[i]));
  return sum;
}

CLONES void saturate(uint8_t* __restrict r, uint8_t* __restrict g, uint8_t* __restrict b, int64_t count, float factor) {
  for (int64_t i = 0; i < count; i++) {
    const float y = static_cast<float>(luma(r[i], g[i], b[i]));
    r[i] = byte(y + factor * (static_cast<float>(r[i]) - y));
    g[i] = byte(y + factor * (static_cast<float>(g[i]) - y));
    b[i] = byte(y + factor * (static_cast<float>(b[i]) - y));
  }
}

inline double least(double a, double b) { return a < b ? a : b; }
inline double largest(double a, double b) { return a > b ? a : b; }
inline double unit(double x) { return least(largest(x, 0.0), 1.0); }

/** Some pixels of a plane at a time, so that what lies between the stages of the hue stays in the nearest cache. */
constexpr int64_t kBlock = 256;

CLONES void turnHue(uint8_t* __restrict r, uint8_t* __restrict g, uint8_t* __restrict b, int count, int shift) {
  int32_t most[kBlock], ranges[kBlock], hue[kBlock], saturation[kBlock], red[kBlock], green[kBlock], blue[kBlock];
  float sectors[kBlock], parts[kBlock], places[kBlock];
  for (int i = 0; i < count; i++) {
    const int x = r[i], y = g[i], z = b[i];
    const int high = x > y ? (x > z ? x : z) : (y > z ? y : z);
    const int low = x < y ? (x < z ? x : z) : (y < z ? y : z);
    most[i] = high;
    ranges[i] = high - low;
  }
  // To the hexcone. A quotient of small whole numbers is the same whether divided in single precision or in double and
  // then rounded.
  for (int i = 0; i < count; i++) {
    const int high = most[i];
    const float range = static_cast<float>(ranges[i] > 0 ? ranges[i] : 1);
    const float rc = static_cast<float>(high - r[i]) / range;
    const float gc = static_cast<float>(high - g[i]) / range;
    const float bc = static_cast<float>(high - b[i]) / range;
    const float warm = bc - gc;
    const float fresh = static_cast<float>(2.0 + static_cast<double>(rc) - static_cast<double>(bc));
    const float cold = static_cast<float>(4.0 + static_cast<double>(gc) - static_cast<double>(rc));
    sectors[i] = r[i] == high ? warm : g[i] == high ? fresh : cold;
  }
  for (int i = 0; i < count; i++) {
    const double turned = static_cast<double>(sectors[i]) / 6.0 + 1.0;
    const float circle = static_cast<float>(turned >= 1.0 ? turned - 1.0 : turned);
    hue[i] = (static_cast<int>(static_cast<double>(circle) * 255.0) + shift) & 255;
    const float part = static_cast<float>(ranges[i]) / static_cast<float>(most[i] > 0 ? most[i] : 1);
    saturation[i] = static_cast<int>(static_cast<double>(part) * 255.0);
  }
  for (int i = 0; i < count; i++) {
    parts[i] = static_cast<float>(saturation[i]) / 255.0f;
    places[i] = static_cast<float>(hue[i] * 6) / 255.0f;
  }
  // And back. How much of the saturation a channel feels rises and falls along the circle, in straight lines between 0
  // and 1; what the reference tells apart as six sectors are the pieces of these lines, and all of it is exact in
  // double precision.
  for (int i = 0; i < count; i++) {
    const double s = static_cast<double>(parts[i]);
    const double place = static_cast<double>(places[i]);
    const double top = static_cast<double>(most[i]);
    red[i] = static_cast<int>(top * (1.0 - s * unit(least(place - 1.0, 5.0 - place))) + 0.5);
    green[i] = static_cast<int>(top * (1.0 - s * unit(largest(1.0 - place, place - 3.0))) + 0.5);
    blue[i] = static_cast<int>(top * (1.0 - s * unit(largest(3.0 - place, place - 5.0))) + 0.5);
  }
  for (int i = 0; i < count; i++) {
    r[i] = static_cast<uint8_t>(ranges[i] == 0 ? most[i] : red[i]);
    g[i] = static_cast<uint8_t>(ranges[i] == 0 ? most[i] : green[i]);
    b[i] = static_cast<uint8_t>(ranges[i] == 0 ? most[i] : blue[i]);
  }
}

CLONES void greyOf(uint8_t* __restrict r, uint8_t* __restrict g, uint8_t* __restrict b, int64_t count) {
  for (int64_t i = 0; i < count; i++) r[i] = g[i] = b[i] = static_cast<uint8_t>(luma(r[i], g[i], b[i]));
}

CLONES void turnOver(uint8_t* plane, int64_t count, int threshold) {
  for (int64_t i = 0; i < count; i++) plane[i] = plane[i] >= threshold ? static_cast<uint8_t>(255 - plane[i]) : plane[i];
}

constexpr int64_t kReach = 4;

/** A line, padded on both sides by four → the weighted sums around each place, in single precision. */
CLONES void blurLine(const double* __restrict p, int64_t count, const double* __restrict w, float* __restrict out) {
  const double w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], w4 = w[4];
  for (int64_t i = 0; i < count; i++)
    out[i] = static_cast<float>(w0 * p[i + 4] + w1 * (p[i + 3] + p[i + 5]) + w2 * (p[i + 2] + p[i + 6]) + w3 * (p[i + 1] + p[i + 7]) +
                                w4 * (p[i] + p[i + 8]));
}

/** The same from line to line: `l[4]` is the middle; rounded to bytes, halves to even. */
CLONES void blurAcross(const float* const* l, int64_t count, const double* __restrict w, uint8_t* __restrict out) {
  const double w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], w4 = w[4];
  const float *a0 = l[0], *a1 = l[1], *a2 = l[2], *a3 = l[3], *a4 = l[4], *a5 = l[5], *a6 = l[6], *a7 = l[7], *a8 = l[8];
  const auto wide = [](float x) { return static_cast<double>(x); };
  for (int64_t i = 0; i < count; i++) {
    const double v = w0 * wide(a4[i]) + w1 * (wide(a3[i]) + wide(a5[i])) + w2 * (wide(a2[i]) + wide(a6[i])) + w3 * (wide(a1[i]) + wide(a7[i])) +
                     w4 * (wide(a0[i]) + wide(a8[i]));
    const double shifter = 6755399441055744.0;  // 1.5 · 2^52: adding it leaves no room for a fraction, so the sum is rounded as IEEE 754 rounds, halves to even
    out[i] = static_cast<uint8_t>(static_cast<int>((v + shifter) - shifter));
  }
}

CLONES void widen(const uint8_t* __restrict from, int64_t count, double* __restrict to) {
  for (int64_t i = 0; i < count; i++) to[i] = static_cast<double>(from[i]);
}

void blurPlane(Scratch& scratch, uint8_t* plane, int64_t side, const double kernel[5]) {
  float* rows = scratch.blurred.of<float>(side * side);
  double* padded = scratch.padded.of<double>(side + 2 * kReach);
  for (int64_t y = 0; y < side; y++) {
    double* line = padded + kReach;
    widen(plane + y * side, side, line);
    for (int64_t k = 1; k <= kReach; k++) {
      line[-k] = line[k];
      line[side - 1 + k] = line[side - 1 - k];
    }
    blurLine(padded, side, kernel, rows + y * side);
  }
  for (int64_t y = 0; y < side; y++) {
    const float* lines[2 * kReach + 1];
    for (int64_t k = -kReach; k <= kReach; k++) {
      const int64_t at = y + k < 0 ? -(y + k) : y + k >= side ? 2 * side - 2 - (y + k) : y + k;
      lines[k + kReach] = rows + at * side;
    }
    blurAcross(lines, side, kernel, plane + y * side);
  }
}

CLONES void splitBytes(const uint8_t* __restrict pixels, uint8_t* __restrict r, uint8_t* __restrict g, uint8_t* __restrict b, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    r[i] = pixels[3 * i];
    g[i] = pixels[3 * i + 1];
    b[i] = pixels[3 * i + 2];
  }
}

CLONES void joinBytes(const uint8_t* __restrict r, const uint8_t* __restrict g, const uint8_t* __restrict b, uint8_t* __restrict pixels, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    pixels[3 * i] = r[i];
    pixels[3 * i + 1] = g[i];
    pixels[3 * i + 2] = b[i];
  }
}

}  // namespace

void split(const uint8_t* pixels, const Planes& planes) { splitBytes(pixels, planes.r, planes.g, planes.b, planes.count); }
void join(const Planes& planes, uint8_t* pixels) { joinBytes(planes.r, planes.g, planes.b, pixels, planes.count); }

void adjustBrightness(const Planes& planes, float factor) {
  for (uint8_t* plane : {planes.r, planes.g, planes.b}) blend(plane, planes.count, 0, factor);
}

void adjustContrast(const Planes& planes, float factor) {
  uint64_t sum = 0;
  constexpr int64_t kPart = 1 << 20;  // pixels whose lumas add up within 32 bits
  for (int64_t at = 0; at < planes.count; at += kPart)
    sum += lumaSum(planes.r + at, planes.g + at, planes.b + at, std::min(kPart, planes.count - at));
  const auto mean = static_cast<int>(static_cast<double>(sum) / static_cast<double>(planes.count) + 0.5);
  for (uint8_t* plane : {planes.r, planes.g, planes.b}) blend(plane, planes.count, static_cast<float>(mean), factor);
}

void adjustSaturation(const Planes& planes, float factor) {
  if (factor != 1) saturate(planes.r, planes.g, planes.b, planes.count, factor);
}

void adjustHue(const Planes& planes, int shift) {
  for (int64_t at = 0; at < planes.count; at += kBlock)
    turnHue(planes.r + at, planes.g + at, planes.b + at, static_cast<int>(std::min(kBlock, planes.count - at)), shift);
}

void toGrey(const Planes& planes) { greyOf(planes.r, planes.g, planes.b, planes.count); }

void solarize(const Planes& planes, int threshold) {
  for (uint8_t* plane : {planes.r, planes.g, planes.b}) turnOver(plane, planes.count, threshold);
}

void gaussianBlur(Scratch& scratch, const Planes& planes, int64_t side, const double kernel[5]) {
  for (uint8_t* plane : {planes.r, planes.g, planes.b}) blurPlane(scratch, plane, side, kernel);
}

}  // namespace pixels
