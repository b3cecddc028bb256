#pragma once
#include <chrono>
namespace gloo {
class Context {
 public:
  virtual ~Context();
  std::chrono::milliseconds getTimeout() const;
  void setTimeout(std::chrono::milliseconds timeout);
};
}  // namespace gloo
