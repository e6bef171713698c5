// A linear ACE (gace/linear/listed.py), some atoms at a time: invariants of more leave the caches.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels.h"
#include "member.h"

namespace gace {

namespace {

template <class real>
class Linear : public Member<real> {
 public:
  Linear(const File &file, const std::string &prefix, int64_t elements)
      : elements(elements), bonds(file.integers(prefix + "bonds")), size(file.integers(prefix + "size")) {
    const std::vector<int64_t> sizes = file.integers(prefix + "sizes");
    if (sizes.size() != 3 || size.size() != 5 || bonds.size() < 6)
      throw Error("'" + prefix + "sizes' should hold three numbers");
    degrees = sizes[0], power = sizes[1], repulsion = sizes[2];
    of_atom = size[0], invariants = size[4];
    const int64_t base = size[1], pairs = size[2];
    pair = file.get<double>(prefix + "pair", elements * elements * 3);
    numbers = file.get<double>(prefix + "numbers", 3);
    constants = file.get<real>(prefix + "pair_constants", elements * elements * 6);
    column = file.get<int64_t>(prefix + "column", base);
    end = file.get<int64_t>(prefix + "end", pairs);
    factors = file.get<int64_t>(prefix + "factors");
    coupling = file.get<real>(prefix + "coupling");
    listed = file.get<int64_t>(prefix + "listed", invariants * 3);
    share = file.get<real>(prefix + "share", invariants);
    centre = file.get<real>(prefix + "centre", elements * base);
    stretch = file.get<real>(prefix + "stretch", elements * base);
    coefficients = file.get<real>(prefix + "coefficients", elements * invariants);
    rest = file.get<real>(prefix + "rest", elements * invariants);
    shift = file.get<real>(prefix + "shift", elements);
  }

  int64_t features() const override { return invariants; }
  int64_t width() const override { return 0; }

  void evaluate(const Atoms<real> &atoms, Exchange<real> *, const Result<real> &result) override {
    const Arenas::Borrowed borrowed(arenas);
    Arena &arena = *borrowed;
    for (int64_t first = 0; first < atoms.own; first += portions.atoms) {
      const Arena::Mark before = arena.mark();
      part(atoms, first, std::min(portions.atoms, atoms.own - first), result, arena);
      arena.release(before);
    }
  }

 private:
  int64_t elements, degrees, power, repulsion, of_atom, invariants;
  std::vector<int64_t> bonds, size;
  const double *pair, *numbers;
  const real *constants, *coupling, *share, *centre, *stretch, *coefficients, *rest, *shift;
  const int64_t *column, *end, *factors, *listed;
  Arenas arenas;

  void part(const Atoms<real> &atoms, int64_t first, int64_t n, const Result<real> &result, Arena &arena) {
    typedef Kernels<real> K;
    const int64_t J = atoms.slots, e = first * J, LM = degrees * degrees, count[] = {n * J, degrees};
    const int64_t *species = atoms.species + first;
    const real *vector = atoms.vector + 3 * e;
    real *energy = result.energy + first;
    int64_t *of_neighbour = arena.take<int64_t>(n * J);
    for (int64_t b = 0; b < n * J; ++b) of_neighbour[b] = atoms.species[atoms.neighbour[e + b]];
    real *r = arena.take<real>(n * J), *Y = arena.take<real>(n * J * LM), *sums = arena.take<real>(3 * n);
    K::geometry_forward(count, vector, r, Y, atoms.threads);
    const int64_t of_sums[] = {n, J, elements, power, repulsion, 0};
    K::bond_sums_forward(of_sums, species, of_neighbour, constants, r, sums, atoms.threads);
    std::vector<int64_t> shape{n, J};
    shape.insert(shape.end(), bonds.begin(), bonds.end());
    real *density = arena.take<real>(n * of_atom), *of_density = arena.take<real>(n * of_atom);
    K::density_forward(shape.data(), species, of_neighbour, pair, numbers, Y, r, density, atoms.threads);
    multiply_out(n, species, density, energy, result.features ? result.features + first * invariants : nullptr,
                 of_density, atoms.threads, arena);
    real *of_Y = arena.take<real>(n * J * LM), *of_r = arena.take<real>(n * J), *more = arena.take<real>(n * J);
    K::density_backward(shape.data(), species, of_neighbour, pair, numbers, of_density, Y, r, of_Y, of_r,
                        atoms.threads);
    for (int64_t i = 0; i < n; ++i) {  // the mean bonding energy fades in with the coordination
      const real level = std::tanh(sums[3 * i]), own = shift[species[i]];
      energy[i] += own * level + sums[3 * i + 1];
      sums[3 * i] = own * (1 - level * level), sums[3 * i + 1] = 1, sums[3 * i + 2] = 0;
    }
    K::bond_sums_backward(of_sums, species, of_neighbour, constants, sums, r, more, atoms.threads);
    for (int64_t b = 0; b < n * J; ++b) of_r[b] += more[b];
    K::geometry_backward(count, of_r, of_Y, vector, result.slope + 3 * e, atoms.threads);
  }

  // Fitted energies, invariants (n, invariants) if they are wanted, and what is owed to the density.
  void multiply_out(int64_t n, const int64_t *species, const real *density, real *energy, real *features,
                    real *of_density, int threads, Arena &arena) {
    int64_t *order = arena.take<int64_t>(n), *of_element = arena.take<int64_t>(elements);
    std::iota(order, order + n, 0);
    std::stable_sort(order, order + n, [&](int64_t a, int64_t b) { return species[a] < species[b]; });
    std::fill(of_element, of_element + elements, 0);
    for (int64_t i = 0; i < n; ++i) ++of_element[species[i]];
    std::vector<int64_t> shape{n};
    shape.insert(shape.end(), size.begin(), size.end());
    real *found = features == nullptr ? nullptr : arena.take<real>(invariants * n);
    Kernels<real>::invariants(shape.data(), order, of_element, column, centre, stretch, end, factors, coupling, listed,
                              share, coefficients, rest, density, energy, found, of_density, threads);
    if (features == nullptr) return;
    for (int64_t k = 0; k < invariants; ++k)
      for (int64_t i = 0; i < n; ++i) features[order[i] * invariants + k] = found[k * n + i];
  }
};

}  // namespace

template <class real>
std::unique_ptr<Member<real>> linear_member(const File &file, const std::string &prefix, int64_t elements) {
  return std::make_unique<Linear<real>>(file, prefix, elements);
}

template std::unique_ptr<Member<float>> linear_member(const File &, const std::string &, int64_t);
template std::unique_ptr<Member<double>> linear_member(const File &, const std::string &, int64_t);

}  // namespace gace
