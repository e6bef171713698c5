// What Python calls (gace/native/model.py, evaluation.py). Errors come back as text: nothing is thrown across.

#include <cstdio>
#include <cstring>

#include "kernels.h"
#include "potential.h"

#define EXPORTED __attribute__((visibility("default")))

namespace {

void say(char *message, int64_t length, const char *text) { std::snprintf(message, length, "%s", text); }

// A model whose arrays lie in memory that Python holds.
struct Model {
  virtual ~Model() = default;
  virtual int64_t features() const = 0;
  virtual void evaluate(const int64_t *size, const int64_t *species, const int64_t *neighbour, const int64_t *structure,
                        const void *vector, void *energy, void *features, void *force, void *virial) = 0;
};

template <class real>
struct ModelOf : Model {
  gace::File file;
  std::unique_ptr<gace::Member<real>> member;
  ModelOf(int64_t kind, gace::File arrays, int64_t elements)
      : file(std::move(arrays)), member(gace::member_of<real>(kind, file, "", elements)) {}

  int64_t features() const override { return member->features(); }

  void evaluate(const int64_t *size, const int64_t *species, const int64_t *neighbour, const int64_t *structure,
                const void *vector, void *energy, void *features, void *force, void *virial) override {
    const int64_t N = size[0], J = size[1];
    const real *bonds = static_cast<const real *>(vector);
    const std::unique_ptr<real[]> slope(new real[3 * N * J]);
    member->evaluate({N, N, J, species, neighbour, bonds, static_cast<int>(size[3])}, nullptr,
                     {static_cast<real *>(energy), slope.get(), static_cast<real *>(features)});
    gace::Kernels<real>::forces(size, neighbour, structure, bonds, slope.get(), static_cast<real *>(force),
                                static_cast<real *>(virial), 1);
  }
};

}  // namespace

extern "C" {

// The potential in a file; null with the reason in `message`.
EXPORTED void *gace_read(const char *path, char *message, int64_t length) {
  try {
    return gace::Potential::read(path).release();
  } catch (const std::exception &error) {
    say(message, length, error.what());
    return nullptr;
  }
}

EXPORTED void gace_free(void *potential) { delete static_cast<gace::Potential *>(potential); }

// size: atoms N, slots, structures B, threads. Of each member: energies (members, N), forces (members, N, 3),
// virials (members, B, 3, 3); gamma (N) or null. Returns 0, or 1 with the reason in `message`.
EXPORTED int gace_evaluate(void *potential, const int64_t *size, const int64_t *species, const int64_t *neighbour,
                           const int64_t *structure, const double *vector, double *energy, double *force,
                           double *virial, double *gamma, char *message, int64_t length) {
  try {
    auto &own = *static_cast<gace::Potential *>(potential);
    const int64_t N = size[0], J = size[1], B = size[2], bonds = N * J;
    const std::unique_ptr<double[]> slopes(new double[own.members() * 3 * bonds]);
    own.evaluate({N, N, J, species, neighbour, vector, static_cast<int>(size[3])}, nullptr, energy, slopes.get(),
                 gamma);
    std::memset(force, 0, sizeof(double) * own.members() * 3 * N);
    std::memset(virial, 0, sizeof(double) * own.members() * 9 * B);
    for (int64_t m = 0; m < own.members(); ++m) {
      const double *slope = slopes.get() + m * 3 * bonds;
      double *to = force + m * 3 * N;
      for (int64_t n = 0; n < N; ++n) {
        double *stress = virial + (m * B + structure[n]) * 9, sum[9] = {};
        for (int64_t e = n * J; e < (n + 1) * J; ++e)
          for (int a = 0; a < 3; ++a) {
            const double g = slope[3 * e + a];
            to[3 * n + a] += g;
            to[3 * neighbour[e] + a] -= g;
            for (int b = 0; b < 3; ++b) sum[3 * b + a] += vector[3 * e + b] * g;
          }
        for (int a = 0; a < 3; ++a)
          for (int b = 0; b < 3; ++b) stress[3 * a + b] += 0.5 * (sum[3 * a + b] + sum[3 * b + a]);
      }
    }
    return 0;
  } catch (const std::exception &error) {
    say(message, length, error.what());
    return 1;
  }
}

// A model of a kind from arrays by name; of each its type, number of axes, lengths one after the other, and where it
// lies. Null with the reason in `message`.
EXPORTED void *gace_model(int64_t kind, int64_t elements, int64_t double_precision, int64_t count,
                          const char *const *names, const char *const *types, const int64_t *axes,
                          const int64_t *lengths, void *const *places, char *message, int64_t length) {
  try {
    std::map<std::string, gace::Array> arrays;
    for (int64_t k = 0; k < count; ++k) {
      gace::Array &one = arrays[names[k]];
      one.dtype = types[k];
      one.shape.assign(lengths, lengths + axes[k]);
      one.memory = std::shared_ptr<char>(static_cast<char *>(places[k]), [](char *) {});
      lengths += axes[k];
    }
    gace::File file("the model", std::move(arrays));
    if (double_precision) return new ModelOf<double>(kind, std::move(file), elements);
    return new ModelOf<float>(kind, std::move(file), elements);
  } catch (const std::exception &error) {
    say(message, length, error.what());
    return nullptr;
  }
}

EXPORTED void gace_free_model(void *model) { delete static_cast<Model *>(model); }

EXPORTED int64_t gace_features(void *model) { return static_cast<Model *>(model)->features(); }

// size: atoms N, slots, structures B, threads. Energies (N), invariants (N, features) or null, forces (N, 3), virials
// (B, 3, 3) in the model's precision. Returns 0, or 1 with the reason in `message`.
EXPORTED int gace_evaluate_model(void *model, const int64_t *size, const int64_t *species, const int64_t *neighbour,
                                 const int64_t *structure, const void *vector, void *energy, void *features,
                                 void *force, void *virial, char *message, int64_t length) {
  try {
    static_cast<Model *>(model)->evaluate(size, species, neighbour, structure, vector, energy, features, force, virial);
    return 0;
  } catch (const std::exception &error) {
    say(message, length, error.what());
    return 1;
  }
}

EXPORTED void gace_set_portions(int64_t most_bonds, int64_t part_bonds, int64_t atoms) {
  gace::portions = {most_bonds, part_bonds, atoms};
}
}
