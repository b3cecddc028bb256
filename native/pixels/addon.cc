/**
 * The door between Node and the pixels: all views of an image in one call, and one resize in one call. Depends on
 * nothing but Node.
 *
 * JavaScript says what is to be done (which rectangle, which factors, in which order); nothing random happens here.
 * Every size, place and length is checked before a byte is touched, since a mistake would otherwise be a crash; what
 * does not fit is thrown as a RangeError or TypeError. Each thread that loads the addon has working memory of its own.
 */
#include <node_api.h>

#include <cmath>
#include <new>
#include <string>

#include "pixels.h"

namespace {

using pixels::Box;
using pixels::Picture;
using pixels::Planes;
using pixels::Scratch;

/** Numbers that describe one view, in this order; see `ViewPlan` and `record` in src/data/native.ts. */
enum Field {
  kSize,
  kX,
  kY,
  kWidth,
  kHeight,
  kFlip,
  kSteps,  // five codes of what is done, in order; 0 for nothing
  kBrightness = kSteps + 5,
  kContrast,
  kSaturation,
  kHue,
  kBlur,  // 1 or 0, then five weights
  kWeights,
  kSolarize = kWeights + 5,  // a threshold; 256 for none
  kFields
};
enum Step { kNothing, kDoBrightness, kDoContrast, kDoSaturation, kDoHue, kDoGrey };

constexpr int64_t kMostPixels = int64_t{1} << 40;
constexpr double kMostSide = 1 << 24;

struct Mistake {
  bool range;
  std::string words;
};
[[noreturn]] void refuse(const std::string& words) { throw Mistake{true, words}; }
[[noreturn]] void refuseType(const std::string& words) { throw Mistake{false, words}; }

template <typename T>
struct View {
  T* data;
  size_t length;
};

template <typename T>
View<T> typed(napi_env env, napi_value value, napi_typedarray_type wanted, const char* name) {
  bool is = false;
  napi_typedarray_type type{};
  size_t length = 0;
  void* data = nullptr;
  if (napi_is_typedarray(env, value, &is) != napi_ok || !is ||
      napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr) != napi_ok || type != wanted)
    refuseType(std::string("Expected ") + name + (wanted == napi_uint8_array ? " as a Uint8Array." : " as a Float64Array."));
  return {static_cast<T*>(data), length};
}

int64_t whole(double value, double least, double most, const char* name) {
  if (!(value >= least && value <= most) || value != std::floor(value))
    refuse(std::string("Expected a whole number of ") + std::to_string(static_cast<int64_t>(least)) + " to " +
           std::to_string(static_cast<int64_t>(most)) + " for " + name + " but received " + std::to_string(value) + ".");
  return static_cast<int64_t>(value);
}

double number(double value, double least, double most, const char* name) {
  if (!(value >= least && value <= most))
    refuse(std::string("Expected a number of ") + std::to_string(least) + " to " + std::to_string(most) + " for " + name + " but received " +
           std::to_string(value) + ".");
  return value;
}

Box inside(const double* at, int64_t width, int64_t height, const char* name) {
  const Box box{whole(at[0], 0, kMostSide, name), whole(at[1], 0, kMostSide, name), whole(at[2], 1, kMostSide, name), whole(at[3], 1, kMostSide, name)};
  if (box.x + box.width > width || box.y + box.height > height)
    refuse(std::string("Expected the ") + name + " to lie within " + std::to_string(width) + " x " + std::to_string(height) + " but received " +
           std::to_string(box.width) + " x " + std::to_string(box.height) + " at (" + std::to_string(box.x) + ", " + std::to_string(box.y) + ").");
  return box;
}

Picture picture(napi_env env, napi_value value, double width, double height) {
  const auto bytes = typed<uint8_t>(env, value, napi_uint8_array, "the image");
  const Picture image{bytes.data, whole(width, 1, kMostSide, "the width"), whole(height, 1, kMostSide, "the height")};
  if (image.width * image.height > kMostPixels || bytes.length != static_cast<size_t>(3 * image.width * image.height))
    refuse("Expected " + std::to_string(3 * image.width * image.height) + " bytes for " + std::to_string(image.width) + " x " +
           std::to_string(image.height) + " pixels but received " + std::to_string(bytes.length) + ".");
  return image;
}

/** What a view costs in bytes, after all its numbers were found to be right. */
size_t checkView(const double* f, const Picture& image) {
  const int64_t size = whole(f[kSize], 1, 1 << 15, "the side of a view");
  inside(f + kX, image.width, image.height, "cut");
  whole(f[kFlip], 0, 1, "the flip");
  for (int i = 0; i < 5; i++) whole(f[kSteps + i], kNothing, kDoGrey, "a change");
  for (int i : {kBrightness, kContrast, kSaturation}) number(f[i], 0, 1e6, "a factor");
  whole(f[kHue], 0, 255, "the turn of the hue");
  if (whole(f[kBlur], 0, 1, "the blur") == 1) {
    if (size <= 4) refuse("Expected a side of more than 4 pixels for a blur of 9 taps but received " + std::to_string(size) + ".");
    double sum = f[kWeights];
    for (int i = 0; i < 5; i++) number(f[kWeights + i], 0, 1, "a weight of the blur");
    for (int i = 1; i < 5; i++) sum += 2 * f[kWeights + i];
    number(sum, 0, 1.001, "the sum of the weights of the blur");
  }
  whole(f[kSolarize], 0, 256, "the threshold of solarisation");
  return static_cast<size_t>(3 * size * size);
}

void makeView(Scratch& scratch, const Picture& image, const double* f, uint8_t* out) {
  const auto size = static_cast<int64_t>(f[kSize]);
  const auto at = [f](int i) { return static_cast<int64_t>(f[i]); };
  const Box cut{at(kX), at(kY), at(kWidth), at(kHeight)};
  bool changes = f[kBlur] == 1 || f[kSolarize] < 256;
  for (int i = 0; i < 5; i++) changes = changes || f[kSteps + i] > 0;
  uint8_t* resized = changes ? scratch.view.need(3 * size * size) : out;
  pixels::resample(scratch, image, cut, size, size, {0, 0, size, size}, f[kFlip] == 1, resized);
  if (!changes) return;
  const int64_t count = size * size;
  uint8_t* room = scratch.planes.need(3 * count);
  const Planes planes{room, room + count, room + 2 * count, count};
  pixels::split(resized, planes);
  for (int i = 0; i < 5; i++) switch (static_cast<int>(f[kSteps + i])) {
      case kDoBrightness: pixels::adjustBrightness(planes, static_cast<float>(f[kBrightness])); break;
      case kDoContrast: pixels::adjustContrast(planes, static_cast<float>(f[kContrast])); break;
      case kDoSaturation: pixels::adjustSaturation(planes, static_cast<float>(f[kSaturation])); break;
      case kDoHue: pixels::adjustHue(planes, static_cast<int>(f[kHue])); break;
      case kDoGrey: pixels::toGrey(planes); break;
      default: break;
    }
  if (f[kBlur] == 1) pixels::gaussianBlur(scratch, planes, size, f + kWeights);
  if (f[kSolarize] < 256) pixels::solarize(planes, static_cast<int>(f[kSolarize]));
  pixels::join(planes, out);
}

/**
 * views(image, plan, out): plan is [width, height, then the fields of each view]; out holds all views, one after the
 * other.
 */
void views(napi_env env, Scratch& scratch, const napi_value* args) {
  const auto plan = typed<double>(env, args[1], napi_float64_array, "the plan");
  if (plan.length < 2 + kFields || (plan.length - 2) % kFields != 0)
    refuse("Expected a plan of 2 numbers and " + std::to_string(kFields) + " for each view but received " + std::to_string(plan.length) + ".");
  const Picture image = picture(env, args[0], plan.data[0], plan.data[1]);
  const auto out = typed<uint8_t>(env, args[2], napi_uint8_array, "the place for the views");
  size_t bytes = 0;
  for (size_t at = 2; at < plan.length; at += kFields) bytes += checkView(plan.data + at, image);
  if (bytes != out.length)
    refuse("Expected " + std::to_string(bytes) + " bytes to write the views to but received " + std::to_string(out.length) + ".");
  uint8_t* to = out.data;
  for (size_t at = 2; at < plan.length; at += kFields) {
    makeView(scratch, image, plan.data + at, to);
    to += static_cast<size_t>(3 * plan.data[at + kSize] * plan.data[at + kSize]);
  }
}

/** resize(image, geometry, out): geometry is [width, height, view (4), size (2), window (4), flip]. */
void resize(napi_env env, Scratch& scratch, const napi_value* args) {
  const auto geometry = typed<double>(env, args[1], napi_float64_array, "the geometry");
  if (geometry.length != 13) refuse("Expected a geometry of 13 numbers but received " + std::to_string(geometry.length) + ".");
  const double* g = geometry.data;
  const Picture image = picture(env, args[0], g[0], g[1]);
  const Box view = inside(g + 2, image.width, image.height, "view");
  const int64_t width = whole(g[6], 1, kMostSide, "the width to resize to");
  const int64_t height = whole(g[7], 1, kMostSide, "the height to resize to");
  const Box window = inside(g + 8, width, height, "window");
  const auto out = typed<uint8_t>(env, args[2], napi_uint8_array, "the place for the result");
  const bool flip = whole(g[12], 0, 1, "the flip") == 1;
  if (out.length != static_cast<size_t>(3 * window.width * window.height))
    refuse("Expected " + std::to_string(3 * window.width * window.height) + " bytes to write to but received " + std::to_string(out.length) + ".");
  pixels::resample(scratch, image, view, width, height, window, flip, out.data);
}

/** Calls `work` with three arguments; what it throws becomes an error of JavaScript. */
template <void (*work)(napi_env, Scratch&, const napi_value*)>
napi_value guarded(napi_env env, napi_callback_info info) {
  size_t count = 3;
  napi_value args[3];
  void* room = nullptr;
  napi_get_cb_info(env, info, &count, args, nullptr, nullptr);
  napi_get_instance_data(env, &room);
  Scratch& scratch = *static_cast<Scratch*>(room);
  try {
    if (count < 3) refuseType("Expected three arguments.");
    work(env, scratch, args);
  } catch (const Mistake& mistake) {
    (mistake.range ? napi_throw_range_error : napi_throw_type_error)(env, nullptr, mistake.words.c_str());
  } catch (const std::bad_alloc&) {
    napi_throw_range_error(env, nullptr, "Array buffer allocation failed"); // what JavaScript itself says where memory is short
  }
  scratch.trim();
  return nullptr;
}

void add(napi_env env, napi_value exports, const char* name, napi_callback call) {
  napi_value made;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, call, nullptr, &made);
  napi_set_named_property(env, exports, name, made);
}

}  // namespace

NAPI_MODULE_INIT() {
  napi_set_instance_data(env, new Scratch, [](napi_env, void* data, void*) { delete static_cast<Scratch*>(data); }, nullptr);
  add(env, exports, "views", guarded<views>);
  add(env, exports, "resize", guarded<resize>);
  return exports;
}
