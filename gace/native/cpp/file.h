// A file of safetensors: arrays by name. Nothing in it is executed, and whatever does not add up is refused.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace gace {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An array in memory of its own, which starts with a cache line.
struct Array {
  std::string dtype;
  std::vector<int64_t> shape;
  std::shared_ptr<char> memory;
  int64_t bytes = 0;

  int64_t count() const;
};

class File {
 public:
  explicit File(const std::string &path);

  // Arrays that lie in memory already, and stay there; `path` names them in errors.
  File(const std::string &path, std::map<std::string, Array> arrays) : path(path), arrays(std::move(arrays)) {}

  bool has(const std::string &name) const { return arrays.count(name) > 0; }

  // The array of that name and type.
  template <class T>
  const T *get(const std::string &name) const {
    return reinterpret_cast<const T *>(typed(name, type_name(T())).memory.get());
  }

  template <class T>
  const T *get_or_null(const std::string &name) const {
    return has(name) ? get<T>(name) : nullptr;
  }

  // The same, which has to hold so many numbers.
  template <class T>
  const T *get(const std::string &name, int64_t count) const {
    expect(name, count);
    return get<T>(name);
  }

  const Array &array(const std::string &name) const;
  int64_t count(const std::string &name) const { return array(name).count(); }
  std::vector<int64_t> integers(const std::string &name) const;
  void expect(const std::string &name, int64_t count) const;

 private:
  std::string path;
  std::map<std::string, Array> arrays;

  static const char *type_name(float) { return "F32"; }
  static const char *type_name(double) { return "F64"; }
  static const char *type_name(int64_t) { return "I64"; }
  static const char *type_name(int32_t) { return "I32"; }
  const Array &typed(const std::string &name, const char *dtype) const;
};

}  // namespace gace
