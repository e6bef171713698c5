#include "potential.h"

namespace gace {

namespace {

constexpr int64_t FORMAT = 1;

template <class real>
class Members : public Potential {
 public:
  explicit Members(std::shared_ptr<File> file) : file(file) {
    elements = file->integers("elements");
    const int64_t n = elements.size();
    const std::vector<int64_t> kinds = file->integers("kinds");
    const double *of_atoms = file->get<double>("isolated", n), *shares = file->get<double>("weights", kinds.size());
    isolated.assign(of_atoms, of_atoms + n), weights.assign(shares, shares + kinds.size());
    cutoff = *file->get<double>("cutoff", 1);
    if (const double *scale = file->get_or_null<double>("energy_scale")) {
      file->expect("energy_scale", 2);
      energy_scale = scale[0], energy_floor = scale[1];
    }
    if (n == 0 || kinds.empty()) throw Error("a potential without elements or members");
    for (size_t m = 0; m < kinds.size(); ++m) {
      const std::string prefix = std::to_string(m) + ".";
      all.push_back(member_of<real>(kinds[m], *file, prefix, n));
    }
    novelty = std::make_unique<Novelty>(*file, n, all[0]->features());
    single_precision = sizeof(real) == sizeof(float);
  }

  bool has_novelty() const override { return novelty->any(); }

  int64_t width() const override {
    int64_t most = 0;
    for (const auto &one : all) most = one->width() > most ? one->width() : most;
    return most;
  }

  void evaluate(const Input &in, Ghosts *ghosts, double *energy, double *slope, double *gamma) override {
    const int64_t N = in.own, bonds = N * in.slots;
    for (int64_t i = 0; i < in.all; ++i)
      if (in.species[i] < 0 || in.species[i] >= static_cast<int64_t>(elements.size()))
        throw Error("an atom of an element that the potential does not know");
    for (int64_t e = 0; e < bonds; ++e)
      if (in.neighbour[e] < 0 || in.neighbour[e] >= in.all) throw Error("a neighbour that is no atom");
    const Room vector = room(3 * bonds), of_vector = room(3 * bonds), of_atom = room(N);
    for (int64_t k = 0; k < 3 * bonds; ++k) vector[k] = static_cast<real>(in.vector[k]);
    const bool graded = gamma != nullptr && has_novelty();
    const Room features = room(graded ? N * all[0]->features() : 0);
    const Atoms<real> atoms{N, in.all, in.slots, in.species, in.neighbour, vector.get(), in.threads};
    Moved moved(ghosts, in.all);
    for (size_t m = 0; m < all.size(); ++m) {
      real *wanted = graded && m == 0 ? features.get() : nullptr;
      all[m]->evaluate(atoms, ghosts == nullptr ? nullptr : &moved, {of_atom.get(), of_vector.get(), wanted});
      for (int64_t i = 0; i < N; ++i) energy[m * N + i] = of_atom[i];
      for (int64_t k = 0; k < 3 * bonds; ++k) slope[m * 3 * bonds + k] = of_vector[k];
    }
    if (graded) novelty->grades(N, in.species, features.get(), gamma, in.threads);
  }

 private:
  std::shared_ptr<File> file;  // what the members point at
  std::vector<std::unique_ptr<Member<real>>> all;
  std::unique_ptr<Novelty> novelty;

  typedef std::unique_ptr<real[]> Room;
  static Room room(int64_t count) { return Room(new real[count]); }

  // What goes between processes does so in double precision.
  struct Moved : Exchange<real> {
    Ghosts *ghosts;
    int64_t atoms;
    std::vector<double> rows;

    Moved(Ghosts *ghosts, int64_t atoms) : ghosts(ghosts), atoms(atoms) {}

    template <class Move>
    void through(real *all, int64_t width, Move move) {
      rows.assign(all, all + atoms * width);
      move();
      for (int64_t k = 0; k < atoms * width; ++k) all[k] = static_cast<real>(rows[k]);
    }
    void forward(real *all, int64_t width) override {
      through(all, width, [&] { ghosts->forward(rows.data(), width); });
    }
    void reverse(real *all, int64_t width) override {
      through(all, width, [&] { ghosts->reverse(rows.data(), width); });
    }
  };
};

}  // namespace

std::unique_ptr<Potential> Potential::read(const std::string &path) {
  auto file = std::make_shared<File>(path);
  if (const int64_t format = *file->get<int64_t>("format_version", 1); format != FORMAT)
    throw Error(path + " has format version " + std::to_string(format) + ": export it again");
  if (file->has("0.shift") && file->array("0.shift").dtype == "F32") return std::make_unique<Members<float>>(file);
  return std::make_unique<Members<double>>(file);
}

}  // namespace gace
