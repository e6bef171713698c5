// Energy and forces of a structure by an exported potential, without Python.
//
//   evaluate POTENTIAL.pt2 STRUCTURE
//
// STRUCTURE is plain text: a line with the number of atoms and of neighbour slots (both at least 2); then a line for
// each atom: index of its element in the potential's `elements`; then, for each atom and slot, a line: index of the
// neighbour, and the vector to it in Å. A slot without neighbour holds the atom itself and a vector of twice the cutoff.
// Printed: what the package says of itself, the energy of each atom (eV, without the isolated atom's) with its forces
// (eV/Å), and the sum over the atoms of the virial (eV).

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <cstdio>
#include <fstream>
#include <iostream>

int main(int argc, char **argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: evaluate POTENTIAL.pt2 STRUCTURE\n");
    return 2;
  }
  c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader potential(argv[1]);
  const auto described = potential.get_metadata().at("gace");
  const bool single = described.find("\"dtype\": \"float32\"") != std::string::npos;
  std::printf("%s\n", described.c_str());

  std::ifstream file(argv[2]);
  int64_t atoms = 0, slots = 0;
  file >> atoms >> slots;
  auto species = torch::empty({atoms}, torch::kInt64);
  auto neighbour = torch::empty({atoms, slots}, torch::kInt64);
  auto vector = torch::empty({atoms, slots, 3}, torch::kFloat64);
  for (int64_t n = 0; n < atoms; ++n) file >> species.data_ptr<int64_t>()[n];
  for (int64_t e = 0; e < atoms * slots; ++e) {
    file >> neighbour.data_ptr<int64_t>()[e];
    for (int64_t a = 0; a < 3; ++a) file >> vector.data_ptr<double>()[3 * e + a];
  }
  if (!file) {
    std::fprintf(stderr, "error: %s ends too early or does not exist\n", argv[2]);
    return 1;
  }
  const auto found = potential.run({species, neighbour, vector.to(single ? torch::kFloat32 : torch::kFloat64)});
  const auto energy = found[0].to(torch::kFloat64), forces = found[1].to(torch::kFloat64);
  const auto virial = found[2].to(torch::kFloat64).sum(0);
  for (int64_t n = 0; n < atoms; ++n)
    std::printf("%.15g %.15g %.15g %.15g\n", energy[n].item<double>(), forces[n][0].item<double>(),
                forces[n][1].item<double>(), forces[n][2].item<double>());
  for (int64_t a = 0; a < 3; ++a)
    std::printf("%.15g %.15g %.15g\n", virial[a][0].item<double>(), virial[a][1].item<double>(),
                virial[a][2].item<double>());
  return 0;
}
