#include "layer.h"

#include <algorithm>

namespace gace {

template <class real>
Layer<real>::Layer(const File &file, const std::string &name, int64_t elements, bool first)
    : elements(elements), coupled(!first) {
  const std::string at = name + ".";
  const std::vector<int64_t> shape = file.integers(at + "shape");
  if (shape.size() != 4) throw Error("'" + at + "shape' should hold four numbers");
  degrees = shape[0], components = shape[1], K = shape[2], intervals = shape[3];
  table = file.get<real>(at + "table", elements * elements * (intervals + 1) * 3 * degrees * K);
  range = file.get<real>(at + "range", 3);
  if (first) indicator = file.get<real>(at + "indicator", elements * K);
  dims = file.integers(at + "dims"), paths = file.integers(at + "paths");
  if (dims.size() != paths.size()) throw Error("'" + at + "dims' and 'paths' differ in length");
  int64_t all_paths = 0;
  for (size_t i = 0; i < dims.size(); ++i) mixed_rows += dims[i] * paths[i], all_paths += paths[i];
  weights = file.get<real>(at + "density", all_paths * K * K);
  sizes = file.integers(at + "products.size");
  if (sizes.size() != 38) throw Error("'" + at + "products.size' should hold 38 numbers");
  if (coupled) {
    raw_index = file.get<int32_t>(at + "raw.index");
    raw_value = file.get<real>(at + "raw.value");
    raw_size = file.integers(at + "raw.size");
    if (raw_size.size() != 9) throw Error("'" + at + "raw.size' should hold nine numbers");
    ones.assign(elements * K, 1);
  }
  target = file.get<int64_t>(at + "products.target", sizes[4]);
  own = file.get<real>(at + "products.own", elements * sizes[4] * K);
  const char *const names[] = {"pair", "triple", "quadruple"};
  for (int p = 0; p < 3; ++p) {
    const std::string of = at + names[p] + ".";
    if (!file.has(of + "index")) continue;
    index[p] = file.get<int32_t>(of + "index"), value[p] = file.get<real>(of + "value");
    product_weights[p] = file.get<real>(of + "weights", sizes[8 + 10 * p + 1] * elements * K);
    place[p] = file.get<int64_t>(of + "place", sizes[8 + 10 * p + 4]);
  }
  if (outgoing() > 0) {
    message_dims = file.integers(at + "message.dims");
    message_paths.assign(message_dims.size(), 1);
    mixing = file.get<real>(at + "message.mixing", message_dims.size() * K * K);
    leaf = file.get<real>(at + "message.leaf", elements * K);
  }
}

template <class real>
void Layer<real>::forward(const Bonds<real> &bonds, const Given<real> &given, real *A, real *found,
                          Arena &arena) const {
  const Arena::Mark before = arena.mark();
  real *rows = arena.take<real>(bonds.atoms * summed() * K);
  Kernels<real>::splined_forward(splined(bonds, given).data(), table, range, bonds.species, bonds.of_neighbour,
                                 given.index, bonds.Y, bonds.distance, given.rows, rows, bonds.threads);
  if (coupled) {
    real *second = arena.take<real>(bonds.atoms * K), *out = arena.take<real>(bonds.atoms * mixed_rows * K);
    std::fill(second, second + bonds.atoms * K, real(1));
    Kernels<real>::coupling_forward(raw_index, raw_value, raw(bonds).data(), bonds.species, rows, second, ones.data(),
                                    out, bonds.threads);
    rows = out;
  }
  const int64_t size[] = {bonds.atoms, static_cast<int64_t>(dims.size()), mixed_rows, densities(), K, K, 0};
  Kernels<real>::mixed_forward(size, dims.data(), paths.data(), nullptr, rows, weights, nullptr, A, nullptr,
                               bonds.threads);
  arena.release(before);
  expand(bonds, A, found);
}

#define PRODUCTS                                                                                                     \
  products(bonds).data(), bonds.species, target, own, index[0], value[0], product_weights[0], place[0], index[1],   \
      value[1], product_weights[1], place[1], index[2], value[2], product_weights[2], place[2]

template <class real>
void Layer<real>::expand(const Bonds<real> &bonds, const real *A, real *found) const {
  Kernels<real>::expansion_forward(PRODUCTS, A, found, bonds.threads);
}

template <class real>
void Layer<real>::speak(const Bonds<real> &bonds, const real *found, real *message, Arena &arena) const {
  const Arena::Mark before = arena.mark();
  const int64_t width = outgoing() * K;
  real *parts = arena.take<real>(bonds.atoms * width);
  for (int64_t n = 0; n < bonds.atoms; ++n) {
    const real *from = found + (n * rows() + invariants()) * K;
    std::copy(from, from + width, parts + n * width);
  }
  const int64_t irreps = message_dims.size(), size[] = {bonds.atoms, irreps, outgoing(), outgoing(), K, K, 0};
  Kernels<real>::mixed_forward(size, message_dims.data(), message_paths.data(), bonds.species, parts, mixing, leaf,
                               message, nullptr, bonds.threads);
  arena.release(before);
}

template <class real>
void Layer<real>::backward(const Bonds<real> &bonds, const Given<real> &given, const real *of_invariants,
                           const real *of_message, const real *A, const real *found, real *of_Y, real *of_distance,
                           real *of_incoming, Arena &arena) const {
  const Arena::Mark before = arena.mark();
  const int64_t n = bonds.atoms;
  real *of_sums = nullptr;
  if (of_message != nullptr) {
    of_sums = arena.take<real>(n * outgoing() * K);
    const int64_t irreps = message_dims.size(), size[] = {n, irreps, outgoing(), outgoing(), K, K, 0};
    Kernels<real>::mixed_backward(size, message_dims.data(), message_paths.data(), of_message, nullptr, mixing,
                                  of_sums, bonds.threads);
  }
  real *of_A = arena.take<real>(n * densities() * K), *slope = arena.take<real>(n * mixed_rows * K);
  Kernels<real>::expansion_backward(PRODUCTS, of_invariants, of_sums, A, found, of_A, bonds.threads);
  const int64_t size[] = {n, static_cast<int64_t>(dims.size()), mixed_rows, densities(), K, K, 0};
  Kernels<real>::mixed_backward(size, dims.data(), paths.data(), of_A, nullptr, weights, slope, bonds.threads);
  if (coupled) {
    // linear: the first factor's values do not matter
    real *x = arena.take<real>(n * summed() * K), *second = arena.take<real>(n * K);
    real *of_x = arena.take<real>(n * summed() * K);
    std::fill(x, x + n * summed() * K, real(0));
    std::fill(second, second + n * K, real(1));
    Kernels<real>::coupling_backward(raw_index, raw_value, raw(bonds).data(), bonds.species, slope, x, second,
                                     ones.data(), nullptr, of_x, nullptr, bonds.threads);
    slope = of_x;
  }
  Kernels<real>::splined_backward(splined(bonds, given).data(), table, range, bonds.species, bonds.of_neighbour,
                                  given.index, slope, bonds.Y, bonds.distance, given.rows, of_Y, of_distance,
                                  of_incoming, bonds.threads);
  arena.release(before);
}

template class Layer<float>;
template class Layer<double>;

}  // namespace gace
