// One model of a potential, evaluated with its pass back written out. Threads may share it.
#pragma once

#include <memory>
#include <string>

#include "arena.h"
#include "file.h"

namespace gace {

// What is evaluated: atoms, and what they see.
template <class real>
struct Atoms {
  int64_t own, all, slots;   // atoms evaluated; those and the ghosts behind them; neighbours of an atom at most
  const int64_t *species;    // element (all)
  const int64_t *neighbour;  // one of all (own, slots); an empty slot holds the atom itself
  const real *vector;        // neighbour minus atom, Å (own, slots, 3); an empty slot lies beyond the cutoff
  int threads;
};

// Hands what belongs to atoms between processes: rows of `width` numbers of all atoms.
template <class real>
struct Exchange {
  virtual ~Exchange() = default;
  virtual void forward(real *rows, int64_t width) = 0;  // ghosts get what their atoms have
  virtual void reverse(real *rows, int64_t width) = 0;  // what ghosts hold is added to their atoms
};

template <class real>
struct Result {
  real *energy;    // eV, without the isolated atom's (own)
  real *slope;     // derivative of all energies by the vectors, eV/Å (own, slots, 3)
  real *features;  // invariants (own, features()), or null: not wanted
};

template <class real>
class Member {
 public:
  virtual ~Member() = default;

  // Invariants of an atom.
  virtual int64_t features() const = 0;

  // Numbers that atoms hand to ghosts at once, at most.
  virtual int64_t width() const = 0;

  // `exchange` is null where there are no ghosts.
  virtual void evaluate(const Atoms<real> &atoms, Exchange<real> *exchange, const Result<real> &result) = 0;
};

// The member whose arrays' names begin with `prefix`; Error where they do not fit each other.
template <class real>
std::unique_ptr<Member<real>> graph_member(const File &file, const std::string &prefix, int64_t elements);
template <class real>
std::unique_ptr<Member<real>> linear_member(const File &file, const std::string &prefix, int64_t elements);

// The member of that kind.
enum Kind : int64_t { GRAPH = 0, LINEAR = 1 };
template <class real>
std::unique_ptr<Member<real>> member_of(int64_t kind, const File &file, const std::string &prefix, int64_t elements) {
  if (kind == GRAPH) return graph_member<real>(file, prefix, elements);
  if (kind == LINEAR) return linear_member<real>(file, prefix, elements);
  throw Error("a model of an unknown kind: this gace is older than the file");
}

// What goes through an evaluation at once: bonds up to which a graph ACE makes nothing twice, of a part where there are
// more, and atoms of a linear ACE. To be set by tests.
struct Portions {
  int64_t most_bonds = 400000, part_bonds = 150000, atoms = 1024;
};
extern Portions portions;

}  // namespace gace
