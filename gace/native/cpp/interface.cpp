// What Python calls (gace/native/model.py). Errors come back as text: nothing is thrown across.

#include <cstdio>
#include <cstring>

#include "potential.h"

#define EXPORTED __attribute__((visibility("default")))

namespace {

void say(char *message, int64_t length, const char *text) { std::snprintf(message, length, "%s", text); }

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
    static thread_local std::vector<double> slopes;
    slopes.resize(own.members() * 3 * bonds);
    own.evaluate({N, N, J, species, neighbour, vector, static_cast<int>(size[3])}, nullptr, energy, slopes.data(),
                 gamma);
    std::memset(force, 0, sizeof(double) * own.members() * 3 * N);
    std::memset(virial, 0, sizeof(double) * own.members() * 9 * B);
    for (int64_t m = 0; m < own.members(); ++m) {
      const double *slope = slopes.data() + m * 3 * bonds;
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
}
