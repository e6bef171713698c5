// pair_style gace: a potential that `gace export` wrote as *.gace, on any number of MPI ranks.
//
//   pair_style gace
//   pair_coeff * * sic.gace Si C          (the element of each atom type)
#pragma once

#include <memory>
#include <vector>

#include "../potential.h"
#include "pair.h"

namespace LAMMPS_NS {

class PairGACE : public Pair {
 public:
  explicit PairGACE(LAMMPS *lmp);
  ~PairGACE() override;

  void compute(int eflag, int vflag) override;
  void settings(int narg, char **arg) override;
  void coeff(int narg, char **arg) override;
  void init_style() override;
  double init_one(int i, int j) override;
  void *extract(const char *name, int &dimension) override;
  void *extract_peratom(const char *name, int &columns) override;
  double memory_usage() override;

  int pack_forward_comm(int n, int *list, double *buffer, int, int *) override;
  void unpack_forward_comm(int n, int first, double *buffer) override;
  int pack_reverse_comm(int n, int first, double *buffer) override;
  void unpack_reverse_comm(int n, int *list, double *buffer) override;

 private:
  std::unique_ptr<gace::Potential> potential;
  std::vector<int64_t> element;  // of each type, from 1 on; -1 for NULL
  std::vector<int64_t> species, neighbour;
  std::vector<double> vector, energy, slope, grade;
  int64_t slots = 0;
  int wants_grade = 0;    // set by `fix pair` for steps at which it reads them
  bool grade_read = false, flag_read = false;  // whether somebody does, and sets that
  double *moved = nullptr;  // what is exchanged, and how many numbers of an atom
  int64_t width = 0;

  struct Ghosts;
  void collect();
  void spread();
  void tally_error_bar();
  void require_novelty();
};

}  // namespace LAMMPS_NS
