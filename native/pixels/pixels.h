/**
 * Pixels of 8 bits: resampling and changes of colour, each equal to its TypeScript reference
 * (src/data/image/resample.ts, src/data/colour.ts) to the last bit.
 *
 * Equality is by construction: whole numbers where the reference has them; single and double precision in the same
 * places and the same order elsewhere, compiled without contraction into fused multiply-adds. Nothing here calls the
 * mathematics library: what needs exp or log is computed in TypeScript and handed over. Results therefore depend
 * neither on the machine nor on which of the two ran.
 */
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

// One version of a function for each generation of x86, chosen when the addon is loaded; elsewhere the compiler's own
// target serves. Sanitizers are not ready when that choice is made.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && !defined(__SANITIZE_ADDRESS__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

namespace pixels {

/** An image in memory, [height, width, 3]. */
struct Picture {
  const uint8_t* data;
  int64_t width;
  int64_t height;
};

/** A rectangle of whole pixels. */
struct Box {
  int64_t x;
  int64_t y;
  int64_t width;
  int64_t height;
};

/** Memory that grows and is kept while it is small; its content is undefined after `need`. */
class Buffer {
 public:
  uint8_t* need(size_t bytes) {
    if (bytes > size_) {
      room_.reset();
      size_ = 0;
      room_.reset(new uint8_t[bytes]);
      size_ = bytes;
    }
    return room_.get();
  }
  template <typename T>
  T* of(size_t count) {
    return reinterpret_cast<T*>(need(count * sizeof(T)));
  }
  /** Lets go of what only a very large image needs. */
  void trim(size_t most) {
    if (size_ > most) {
      room_.reset();
      size_ = 0;
    }
  }

 private:
  std::unique_ptr<uint8_t[]> room_;
  size_t size_ = 0;
};

/** Working memory of one thread. */
struct Scratch {
  Buffer between, quad, lines, planes, blurred, padded, view;
  void trim() {
    for (Buffer* buffer : {&between, &quad, &lines, &planes, &blurred, &padded, &view}) buffer->trim(16 << 20);
  }
};

/**
 * Cuts `view` out of the image, resizes it to width × height by Pillow's bicubic rule, mirrors it where asked, and
 * writes the `window` of that to `out`, [window.height, window.width, 3]. All rectangles must lie inside what they are
 * parts of.
 */
void resample(Scratch& scratch, const Picture& image, const Box& view, int64_t width, int64_t height, const Box& window, bool flip, uint8_t* out);

/** A picture as three planes of `count` bytes each: what the changes of colour work on. */
struct Planes {
  uint8_t* r;
  uint8_t* g;
  uint8_t* b;
  int64_t count;
};

void split(const uint8_t* pixels, const Planes& planes);
void join(const Planes& planes, uint8_t* pixels);

void adjustBrightness(const Planes& planes, float factor);
void adjustContrast(const Planes& planes, float factor);
void adjustSaturation(const Planes& planes, float factor);
/** `shift`: the turn in 255ths of the circle, 0 … 255. */
void adjustHue(const Planes& planes, int shift);
void toGrey(const Planes& planes);
void solarize(const Planes& planes, int threshold);
/** `kernel`: the middle weight and the four beside it. The side must exceed four pixels. */
void gaussianBlur(Scratch& scratch, const Planes& planes, int64_t side, const double kernel[5]);

}  // namespace pixels
