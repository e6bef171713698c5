// A potential that `gace export` wrote: members, their weights, isolated atoms, error bars and novelty grade.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "file.h"
#include "member.h"
#include "novelty.h"

namespace gace {

class Potential {
 public:
  virtual ~Potential() = default;

  std::vector<int64_t> elements;  // atomic numbers in the order of `species`
  std::vector<double> isolated;   // eV by element
  std::vector<double> weights;    // of the members in the mean; they sum to one
  double cutoff = 0;              // Å
  double energy_scale = 1, energy_floor = 0;  // from the members' spread to the energy's error bar
  bool single_precision = false;

  int64_t members() const { return weights.size(); }
  virtual bool has_novelty() const = 0;

  // Numbers that an exchange moves for an atom, at most.
  virtual int64_t width() const = 0;

  struct Input {
    int64_t own, all, slots;
    const int64_t *species, *neighbour;
    const double *vector;
    int threads;
  };

  // Moves rows between processes; given in double precision.
  struct Ghosts {
    virtual ~Ghosts() = default;
    virtual void forward(double *rows, int64_t width) = 0;
    virtual void reverse(double *rows, int64_t width) = 0;
  };

  // Energies of own atoms for each member, eV (members, own), without isolated atoms'; derivatives of their sum by the
  // vectors (members, own, slots, 3); novelty grades (own), or null: not wanted.
  virtual void evaluate(const Input &input, Ghosts *ghosts, double *energy, double *slope, double *gamma) = 0;

  static std::unique_ptr<Potential> read(const std::string &path);
};

}  // namespace gace
