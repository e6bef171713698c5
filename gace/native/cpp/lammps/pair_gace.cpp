#include "pair_gace.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "symbols.h"
#include "update.h"

using namespace LAMMPS_NS;

// What belongs to ghosts goes through LAMMPS' communication.
struct PairGACE::Ghosts : gace::Potential::Ghosts {
  PairGACE &pair;

  explicit Ghosts(PairGACE &pair) : pair(pair) {}

  // How many numbers of an atom are moved: before 2025 LAMMPS takes it from the style alone.
  struct Sized {
    PairGACE &pair;
    const int most;

    Sized(PairGACE &pair, double *rows, int64_t numbers) : pair(pair), most(pair.comm_forward) {
      pair.moved = rows, pair.width = numbers;
      pair.comm_forward = pair.comm_reverse = static_cast<int>(numbers);
    }
    ~Sized() { pair.comm_forward = pair.comm_reverse = most; }
  };

  void forward(double *rows, int64_t numbers) override {
    const Sized size(pair, rows, numbers);
    pair.comm->forward_comm(&pair);
  }
  void reverse(double *rows, int64_t numbers) override {
    const Sized size(pair, rows, numbers);
    pair.comm->reverse_comm(&pair);
  }
};

PairGACE::PairGACE(LAMMPS *lmp) : Pair(lmp) {
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  centroidstressflag = CENTROID_NOTAVAIL;
  nextra = 1;  // compute pair: the energy's standard deviation
  pvector = new double[nextra]();
}

PairGACE::~PairGACE() {
  delete[] pvector;
  if (!allocated) return;
  memory->destroy(setflag);
  memory->destroy(cutsq);
}

void PairGACE::settings(int narg, char **) {
  if (narg > 0) error->all(FLERR, "pair_style gace takes no arguments: the file stands in pair_coeff");
}

void PairGACE::coeff(int narg, char **arg) {
  const int types = atom->ntypes;
  if (narg < 3 || std::strcmp(arg[0], "*") != 0 || std::strcmp(arg[1], "*") != 0)
    error->all(FLERR, "pair_style gace wants: pair_coeff * * FILE.gace ELEMENT ... (of each atom type)");
  if (narg != 3 + types)
    error->all(FLERR, "pair_coeff of gace names {} elements where there are {} atom types", narg - 3, types);
  std::string reason;
  try {
    potential = gace::Potential::read(arg[2]);
  } catch (const std::exception &failure) {
    reason = failure.what();
  }
  int failed = !reason.empty(), everywhere = 0;  // a file may be missing on one node only
  MPI_Allreduce(&failed, &everywhere, 1, MPI_INT, MPI_MIN, world);
  if (!reason.empty()) reason += " (pair_style gace wants: pair_coeff * * FILE.gace ELEMENT ... of each atom type)";
  if (everywhere) error->all(FLERR, "{}", reason);
  if (failed) error->one(FLERR, "{}", reason);
  element.assign(types + 1, -1);
  std::string known;
  for (int64_t number : potential->elements) known += (known.empty() ? "" : ", ") + gace::symbol(number);
  for (int type = 1; type <= types; ++type) {
    if (std::strcmp(arg[2 + type], "NULL") == 0) continue;  // another style's, in a hybrid one
    for (size_t z = 0; z < potential->elements.size(); ++z)
      if (gace::symbol(potential->elements[z]) == arg[2 + type]) element[type] = z;
    if (element[type] < 0)
      error->all(FLERR, "{} has no parameters for element '{}': it knows {}", arg[2], arg[2 + type], known);
  }
  if (!allocated) {
    allocated = 1;
    memory->create(setflag, types + 1, types + 1, "pair:setflag");
    memory->create(cutsq, types + 1, types + 1, "pair:cutsq");
  }
  for (int i = 1; i <= types; ++i)
    for (int j = i; j <= types; ++j) setflag[i][j] = element[i] >= 0 && element[j] >= 0;
}

void PairGACE::init_style() {
  if (std::strcmp(update->unit_style, "metal") != 0) error->all(FLERR, "pair_style gace wants units metal");
  if (force->newton_pair == 0) error->all(FLERR, "pair_style gace wants newton on");
  neighbor->add_request(this, NeighConst::REQ_FULL);
  comm_forward = comm_reverse = static_cast<int>(potential->width());
  // a hybrid style has asked before there was a file, and LAMMPS makes room for what the outermost style wants
  Pair *outer = force->pair;
  outer->comm_forward = std::max(outer->comm_forward, comm_forward);
  outer->comm_reverse = std::max(outer->comm_reverse, comm_reverse);
}

double PairGACE::init_one(int, int) { return potential->cutoff; }

// Atoms, and the neighbours that lie within the cutoff.
void PairGACE::collect() {
  const int own = atom->nlocal, all = own + atom->nghost;
  const double limit = potential->cutoff * potential->cutoff;
  double **x = atom->x;
  species.resize(all);
  // an atom that is not ours has no neighbours, and is nobody's: its element does not matter
  for (int i = 0; i < all; ++i) species[i] = std::max<int64_t>(element[atom->type[i]], 0);
  const auto ours = [&](int i) { return element[atom->type[i]] >= 0; };
  const auto each = [&](auto use) {
    for (int ii = 0; ii < list->inum; ++ii) {
      const int i = list->ilist[ii];
      if (!ours(i)) continue;
      for (int jj = 0; jj < list->numneigh[i]; ++jj) {
        const int j = list->firstneigh[i][jj] & NEIGHMASK;
        const double d[3] = {x[j][0] - x[i][0], x[j][1] - x[i][1], x[j][2] - x[i][2]};
        if (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < limit && ours(j)) use(i, j, d);
      }
    }
  };
  std::vector<int64_t> count(own, 0);
  each([&](int i, int, const double *) { ++count[i]; });
  slots = 1;
  for (int64_t one : count) slots = std::max(slots, one);
  neighbour.resize(own * slots), vector.resize(3 * own * slots);
  for (int64_t e = 0; e < own * slots; ++e) {  // an empty slot lies beyond the cutoff
    neighbour[e] = e / slots;
    vector[3 * e] = 2 * potential->cutoff, vector[3 * e + 1] = vector[3 * e + 2] = 0;
  }
  std::fill(count.begin(), count.end(), 0);
  each([&](int i, int j, const double *d) {
    const int64_t e = i * slots + count[i]++;
    neighbour[e] = j;
    std::copy(d, d + 3, vector.data() + 3 * e);
  });
}

void PairGACE::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  const int own = atom->nlocal, all = own + atom->nghost;
  collect();
  energy.resize(potential->members() * own), slope.resize(potential->members() * 3 * own * slots);
  const bool graded = wants_grade || (grade_read && !flag_read);  // without a flag: at every step
  if (graded) grade.assign(std::max(atom->nmax, 1), 0.0);
  Ghosts ghosts(*this);
  const int threads = std::max(comm->nthreads, 1);
  try {
    potential->evaluate({own, all, slots, species.data(), neighbour.data(), vector.data(), threads}, &ghosts,
                        energy.data(), slope.data(), graded ? grade.data() : nullptr);
  } catch (const std::exception &failure) {
    error->one(FLERR, "pair_style gace: {}", failure.what());
  }
  if (graded)
    for (int n = 0; n < own; ++n)
      if (element[atom->type[n]] < 0) grade[n] = 0;
  spread();
  if (eflag_global) tally_error_bar();
  if (vflag_fdotr) virial_fdotr_compute();
}

// Energies, forces and virials of atoms, from the members' mean.
void PairGACE::spread() {
  const int own = atom->nlocal;
  double **f = atom->f;
  const int64_t bonds = own * slots, M = potential->members();
  for (int n = 0; n < own; ++n) {
    if (element[atom->type[n]] < 0) continue;
    double mean = potential->isolated[species[n]];
    for (int64_t m = 0; m < M; ++m) mean += potential->weights[m] * energy[m * own + n];
    if (eflag_global) eng_vdwl += mean;
    if (eflag_atom) eatom[n] += mean;
    double force[3] = {};
    for (int64_t e = n * slots; e < (n + 1) * slots; ++e) {
      const int64_t j = neighbour[e];
      const double *d = vector.data() + 3 * e;
      double g[3] = {};
      for (int64_t m = 0; m < M; ++m)
        for (int a = 0; a < 3; ++a) g[a] += potential->weights[m] * slope[m * 3 * bonds + 3 * e + a];
      for (int a = 0; a < 3; ++a) force[a] += g[a], f[j][a] -= g[a];
      if (vflag_global || vflag_atom) {  // of all where forces times positions do not give it; half to either end
        const double v[6] = {-d[0] * g[0], -d[1] * g[1], -d[2] * g[2], -0.5 * (d[0] * g[1] + d[1] * g[0]),
                             -0.5 * (d[0] * g[2] + d[2] * g[0]), -0.5 * (d[1] * g[2] + d[2] * g[1])};
        for (int k = 0; k < 6 && vflag_global; ++k) virial[k] += v[k];
        for (int k = 0; k < 6 && vflag_atom; ++k) vatom[n][k] += 0.5 * v[k], vatom[j][k] += 0.5 * v[k];
      }
    }
    for (int a = 0; a < 3; ++a) f[n][a] += force[a];
  }
}

// As gace/uncertainty/committee.py: the members' spread per root of the number of atoms, scaled.
void PairGACE::tally_error_bar() {
  pvector[0] = 0;
  const int64_t M = potential->members();
  std::vector<double> total(M, 0.0), sum(M);
  for (int64_t m = 0; m < M; ++m)
    for (int n = 0; n < atom->nlocal; ++n) total[m] += energy[m * atom->nlocal + n];
  MPI_Allreduce(total.data(), sum.data(), static_cast<int>(M), MPI_DOUBLE, MPI_SUM, world);
  double mean = 0, square = 0;
  for (double one : sum) mean += one / M;
  for (double one : sum) square += (one - mean) * (one - mean);
  const double atoms = static_cast<double>(atom->natoms), spread = M > 1 ? square / (M - 1) / atoms : 0;
  if (comm->me > 0) return;  // all ranks know the sums, and compute pair adds up what they say
  const double floor = potential->energy_floor;
  pvector[0] = potential->energy_scale * std::sqrt((spread + floor * floor) * atoms);
}

void PairGACE::require_novelty() {
  if (!potential->has_novelty())
    error->all(FLERR, "the potential has no novelty grade: leave out what reads gamma, or export one that has (gace info)");
}

void *PairGACE::extract(const char *name, int &dimension) {
  dimension = 0;
  if (!potential || std::strcmp(name, "gamma_flag") != 0) return nullptr;
  require_novelty();
  flag_read = true;
  return &wants_grade;
}

void *PairGACE::extract_peratom(const char *name, int &columns) {
  if (!potential || std::strcmp(name, "gamma") != 0) return nullptr;
  require_novelty();
  grade_read = true;
  columns = 0;
  if (static_cast<int>(grade.size()) < atom->nmax) grade.resize(atom->nmax, 0.0);
  return grade.data();
}

double PairGACE::memory_usage() {
  const size_t numbers = species.size() + neighbour.size() + vector.size() + energy.size() + slope.size();
  return Pair::memory_usage() + 8.0 * numbers;
}

int PairGACE::pack_forward_comm(int n, int *list, double *buffer, int, int *) {
  for (int i = 0; i < n; ++i) std::copy_n(moved + list[i] * width, width, buffer + i * width);
  return static_cast<int>(n * width);
}

void PairGACE::unpack_forward_comm(int n, int first, double *buffer) {
  std::copy_n(buffer, n * width, moved + first * width);
}

int PairGACE::pack_reverse_comm(int n, int first, double *buffer) {
  std::copy_n(moved + first * width, n * width, buffer);
  return static_cast<int>(n * width);
}

void PairGACE::unpack_reverse_comm(int n, int *list, double *buffer) {
  for (int i = 0; i < n; ++i)
    for (int64_t k = 0; k < width; ++k) moved[list[i] * width + k] += buffer[i * width + k];
}
