// A layer forwards and back: density, products, message.
#pragma once

#include <string>
#include <vector>

#include "arena.h"
#include "file.h"
#include "kernels.h"

namespace gace {

// The bonds of some atoms.
template <class real>
struct Bonds {
  int64_t atoms, slots, harmonics;
  int threads;
  const real *vector;                 // Å (atoms, slots, 3)
  const real *length, *Y;             // Å (atoms, slots); (atoms, slots, harmonics)
  const real *distance;               // the length, stretched where the pair has a cutoff of its own
  const real *stretch;                // by how much, or null
  const int64_t *neighbour;           // (atoms, slots)
  const int64_t *species, *of_neighbour;  // element of the atoms and of the neighbours

  int64_t count() const { return atoms * slots; }
};

// What a layer is given: a message, and its row for each neighbour.
template <class real>
struct Given {
  const real *rows;
  int64_t count;
  const int64_t *index;
};

template <class real>
class Layer {
 public:
  Layer(const File &file, const std::string &name, int64_t elements, bool first);

  int64_t invariants() const { return sizes[5]; }
  int64_t channels() const { return K; }
  int64_t incoming() const { return components; }  // of the message it is given
  int64_t outgoing() const { return sizes[6]; }    // of the one it makes
  int64_t densities() const { return sizes[2]; }
  int64_t rows() const { return sizes[5] + sizes[6] + sizes[7]; }

  // The message, or in the first layer what elements say.
  Given<real> given(const Bonds<real> &bonds, const real *message, int64_t all) const {
    if (indicator != nullptr) return {indicator, elements, bonds.of_neighbour};
    return {message, all, bonds.neighbour};
  }

  // Densities A (atoms, densities, K) and all rows of their products (atoms, rows, K).
  void forward(const Bonds<real> &bonds, const Given<real> &given, real *A, real *found, Arena &arena) const;

  // The rows once more from the densities.
  void expand(const Bonds<real> &bonds, const real *A, real *found) const;

  // The message before it fades (atoms, outgoing, K), from the rows.
  void speak(const Bonds<real> &bonds, const real *found, real *message, Arena &arena) const;

  // What is owed to harmonics, distances and the incoming rows, given what is to invariants and message (or null).
  void backward(const Bonds<real> &bonds, const Given<real> &given, const real *of_invariants, const real *of_message,
                const real *A, const real *found, real *of_Y, real *of_distance, real *of_incoming,
                Arena &arena) const;

 private:
  int64_t elements, degrees, components, K, intervals;
  const real *table, *range, *indicator = nullptr;
  // density: rows before channels are mixed, weights, and of each irrep components and paths
  const real *weights;
  std::vector<int64_t> dims, paths;
  int64_t mixed_rows = 0;
  // coupling of harmonics and message, from the second layer on
  bool coupled;
  const int32_t *raw_index = nullptr;
  const real *raw_value = nullptr;
  std::vector<int64_t> raw_size;
  std::vector<real> ones;
  // products
  std::vector<int64_t> sizes;  // channels, elements; density, scalars, direct; invariants, message, mixed; couplings
  const int64_t *target, *place[3] = {};
  const real *own, *value[3] = {}, *product_weights[3] = {};
  const int32_t *index[3] = {};
  // message
  std::vector<int64_t> message_dims, message_paths;
  const real *mixing = nullptr, *leaf = nullptr;

  int64_t summed() const { return degrees * degrees * components; }
  std::vector<int64_t> splined(const Bonds<real> &bonds, const Given<real> &given) const {
    return {bonds.atoms, bonds.slots, degrees, components, K, given.count, bonds.harmonics, intervals, elements};
  }
  std::vector<int64_t> raw(const Bonds<real> &bonds) const {
    std::vector<int64_t> size = raw_size;
    size.insert(size.end(), {bonds.atoms, K, elements});
    return size;
  }
  std::vector<int64_t> products(const Bonds<real> &bonds) const {
    std::vector<int64_t> size{bonds.atoms};
    size.insert(size.end(), sizes.begin(), sizes.end());
    return size;
  }
};

}  // namespace gace
