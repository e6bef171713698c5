// Pairs of atoms by vesin's library, which Python loads: this file knows its header only.

#include <vesin.h>

#include <cstdio>
#include <memory>

#define EXPORTED __attribute__((visibility("default")))

namespace {

struct Found {
  VesinNeighborList list;
  decltype(&vesin_free) free;
  ~Found() { free(&list); }
};

}  // namespace

extern "C" {

// Directed pairs within the cutoff (Å), images included; their number in `count`. Null with the reason in `message`.
EXPORTED void *gace_pairs(void *search, void *free, const double *points, int64_t n, const double *box,
                          const uint8_t *periodic, double cutoff, int64_t *count, char *message, int64_t length) {
  auto found = std::make_unique<Found>();
  found->free = reinterpret_cast<decltype(&vesin_free)>(free);
  const bool along[] = {periodic[0] != 0, periodic[1] != 0, periodic[2] != 0};
  VesinOptions options{};
  options.cutoff = cutoff, options.full = true, options.algorithm = VesinAutoAlgorithm, options.n_threads = 1;
  options.return_shifts = true;
  const char *reason = nullptr;
  if (reinterpret_cast<decltype(&vesin_neighbors)>(search)(reinterpret_cast<const double(*)[3]>(points), n,
                                                           reinterpret_cast<const double(*)[3]>(box), along,
                                                           {VesinCPU, 0}, options, &found->list, &reason) != 0) {
    std::snprintf(message, length, "%s", reason != nullptr ? reason : "vesin found no neighbours");
    return nullptr;
  }
  *count = found->list.length;
  return found.release();
}

// Copies the pairs: centre (count), neighbour (count), image (count, 3); what was found is gone.
EXPORTED void gace_take_pairs(void *handle, int64_t *centre, int64_t *neighbour, int64_t *image) {
  std::unique_ptr<Found> found(static_cast<Found *>(handle));
  for (size_t e = 0; e < found->list.length; ++e) {
    centre[e] = found->list.pairs[e][0], neighbour[e] = found->list.pairs[e][1];
    for (int a = 0; a < 3; ++a) image[3 * e + a] = found->list.shifts[e][a];
  }
}
}
