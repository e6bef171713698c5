// Energy and forces of a molecule by a potential that `gace export` wrote as *.gace: no Python, no PyTorch.
//
//   native POTENTIAL.gace MOLECULE.xyz
//
// Built with the sources of gace/native/cpp and gace/potential/kernels (docs/engines.md has the line). Printed: the
// energy (eV, isolated atoms included), then the forces (eV/Å) atom by atom.

#include <cstdio>
#include <fstream>
#include <limits>
#include <map>
#include <string>

#include "potential.h"

namespace {

const std::map<std::string, int64_t> NUMBERS{{"H", 1}, {"C", 6}, {"N", 7}, {"O", 8}, {"Si", 14}};

}  // namespace

int main(int argc, char **argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: native POTENTIAL.gace MOLECULE.xyz\n");
    return 2;
  }
  const auto potential = gace::Potential::read(argv[1]);

  std::ifstream file(argv[2]);
  int64_t n = 0;
  file >> n;
  file.ignore(std::numeric_limits<std::streamsize>::max(), '\n').ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  std::vector<int64_t> species(n, -1);
  std::vector<double> x(3 * n);
  std::string symbol;
  for (int64_t i = 0; i < n; ++i) {
    file >> symbol >> x[3 * i] >> x[3 * i + 1] >> x[3 * i + 2];
    for (size_t z = 0; z < potential->elements.size(); ++z)
      if (NUMBERS.count(symbol) && potential->elements[z] == NUMBERS.at(symbol)) species[i] = z;
  }
  if (!file) throw gace::Error(std::string("cannot read ") + argv[2]);

  // all other atoms are candidates: what lies beyond the cutoff is left out by the evaluation
  const int64_t slots = n > 1 ? n - 1 : 1;
  std::vector<int64_t> neighbour(n * slots);
  std::vector<double> vector(3 * n * slots, 2 * potential->cutoff);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t e = 0; e < slots; ++e) {
      const int64_t j = n > 1 ? e + (e >= i) : i;
      neighbour[i * slots + e] = j;
      for (int a = 0; a < 3 && j != i; ++a) vector[3 * (i * slots + e) + a] = x[3 * j + a] - x[3 * i + a];
    }

  const int64_t members = potential->members(), bonds = n * slots;
  std::vector<double> energy(members * n), slope(members * 3 * bonds), force(3 * n, 0.0);
  potential->evaluate({n, n, slots, species.data(), neighbour.data(), vector.data(), 1}, nullptr, energy.data(),
                      slope.data(), nullptr);
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += potential->isolated[species[i]];
  for (int64_t m = 0; m < members; ++m) {
    const double share = potential->weights[m];
    for (int64_t i = 0; i < n; ++i) total += share * energy[m * n + i];
    for (int64_t e = 0; e < bonds; ++e)  // a vector from i to j: what it is owed pulls at either end
      for (int a = 0; a < 3; ++a) {
        const double g = share * slope[3 * (m * bonds + e) + a];
        force[3 * (e / slots) + a] += g;
        force[3 * neighbour[e] + a] -= g;
      }
  }
  std::printf("%.12f\n", total);
  for (int64_t i = 0; i < n; ++i) std::printf("%.12f %.12f %.12f\n", force[3 * i], force[3 * i + 1], force[3 * i + 2]);
  return 0;
} catch (const std::exception &error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
