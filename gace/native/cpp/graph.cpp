// A graph ACE. Many atoms go through a layer part by part, so that what a part needs stays in the caches: in the last
// layer readout and pass back follow at once; of the layers before, densities and invariants are kept, while bonds and
// products of the density are made again.

#include <algorithm>
#include <cmath>

#include "layer.h"
#include "member.h"
#include "readout.h"

namespace gace {

Portions portions;

namespace {

// What is kept of a layer that is not the last.
template <class real>
struct Kept {
  real *A, *rows;         // (own, densities, K); rows of the only part, or null
  real *message, *faded;  // (own, outgoing, K); of all atoms, ghosts included
  real *owed;             // to the invariants (own, invariants, K)
};

template <class real>
class Graph : public Member<real> {
 public:
  Graph(const File &file, const std::string &prefix, int64_t elements) : elements(elements) {
    const std::vector<int64_t> sizes = file.integers(prefix + "sizes");
    if (sizes.size() != 5 || sizes[0] < 1) throw Error("'" + prefix + "sizes' should hold five numbers");
    degrees = sizes[1], power = sizes[2];
    std::vector<int64_t> widths;
    for (int64_t t = 0; t < sizes[0]; ++t) {
      layers.emplace_back(file, prefix + std::to_string(t), elements, t == 0);
      widths.push_back(layers[t].invariants() * layers[t].channels());
      whole += widths[t];
      if (t > 0 && layers[t].incoming() != layers[t - 1].outgoing())
        throw Error("'" + prefix + "' is damaged: its layers do not fit each other");
    }
    readout = std::make_unique<Readout<real>>(file, prefix, elements, widths);
    readout->repulsion = sizes[3] != 0, readout->inner = sizes[4];
    constants = file.get<real>(prefix + "pair_constants", elements * elements * 6);
    stretch = file.get_or_null<real>(prefix + "pair_stretch");
    if (stretch != nullptr) file.expect(prefix + "pair_stretch", elements * elements);
    if (readout->inner) inverse_limit = file.get<real>(prefix + "inverse_limit", elements);
  }

  int64_t features() const override { return whole; }

  int64_t width() const override {
    int64_t most = 0;
    for (const Layer<real> &one : layers) most = std::max(most, one.outgoing() * one.channels());
    return most;
  }

  void evaluate(const Atoms<real> &atoms, Exchange<real> *exchange, const Result<real> &result) override;

 private:
  int64_t elements, degrees, power, whole = 0;
  std::vector<Layer<real>> layers;
  std::unique_ptr<Readout<real>> readout;
  const real *constants, *stretch, *inverse_limit = nullptr;
  Arenas arenas;

  struct Run;
};

// One evaluation.
template <class real>
struct Graph<real>::Run {
  Graph &model;
  const Atoms<real> &atoms;
  Arena &arena;
  const int64_t part, parts;  // atoms of a part; how many there are
  std::vector<Kept<real>> kept;
  const int64_t *of_neighbour;
  int64_t *places = nullptr;  // of atoms in a list, -1 while they are in none
  real *sums, *of_sums, *of_remains, *features, *slope;
  Fading<real> fading;
  bool fades = false;
  Bonds<real> only{};               // bonds of the only part
  real *of_Y = nullptr, *of_r = nullptr;  // owed to harmonics and distances of the only part by the layers above

  Run(Graph &model, const Atoms<real> &atoms, const Result<real> &result, Arena &arena)
      : model(model), atoms(atoms), arena(arena),
        part(atoms.own * atoms.slots <= portions.most_bonds
                 ? std::max<int64_t>(atoms.own, 1)
                 : std::max<int64_t>(1, portions.part_bonds / atoms.slots)),
        parts((atoms.own + part - 1) / part), slope(result.slope) {
    const int64_t N = atoms.own;
    int64_t *elements = arena.take<int64_t>(N * atoms.slots);
    for (int64_t e = 0; e < N * atoms.slots; ++e) elements[e] = atoms.species[atoms.neighbour[e]];
    of_neighbour = elements;
    if (parts > 1) {
      places = arena.take<int64_t>(atoms.all);
      std::fill(places, places + atoms.all, -1);
    }
    sums = arena.take<real>(3 * N), of_sums = arena.take<real>(3 * N), of_remains = arena.take<real>(N);
    features = result.features ? result.features : arena.take<real>(N * model.whole);
    for (real **one : {&fading.remains, &fading.wall, &fading.slope, &fading.wall_slope}) *one = arena.take<real>(N);
    for (size_t t = 0; t + 1 < model.layers.size(); ++t) {
      const Layer<real> &layer = model.layers[t];
      const int64_t K = layer.channels(), message = layer.outgoing() * K;
      kept.push_back({arena.take<real>(N * layer.densities() * K),
                      parts == 1 ? arena.take<real>(N * layer.rows() * K) : nullptr, arena.take<real>(N * message),
                      arena.take<real>(atoms.all * message), arena.take<real>(N * layer.invariants() * K)});
    }
  }

  int64_t begin(int64_t p) const { return p * part; }
  int64_t size(int64_t p) const { return std::min(part, atoms.own - begin(p)); }

  // The bonds of a part; those of the only part are made once.
  Bonds<real> bonds(int64_t p) {
    if (parts == 1 && only.vector != nullptr) return only;
    const int64_t n = size(p), J = atoms.slots, e = begin(p) * J, LM = model.degrees * model.degrees;
    real *r = arena.take<real>(n * J), *Y = arena.take<real>(n * J * LM), *distance = r, *by = nullptr;
    const int64_t count[] = {n * J, model.degrees};
    Kernels<real>::geometry_forward(count, atoms.vector + 3 * e, r, Y, atoms.threads);
    if (model.stretch != nullptr) {
      distance = arena.take<real>(n * J), by = arena.take<real>(n * J);
      for (int64_t b = 0; b < n * J; ++b) {
        by[b] = model.stretch[atoms.species[(e + b) / J] * model.elements + of_neighbour[e + b]];
        distance[b] = r[b] * by[b];
      }
    }
    const Bonds<real> made{n, J, LM, atoms.threads, atoms.vector + 3 * e, r, Y, distance, by, atoms.neighbour + e,
                           atoms.species + begin(p), of_neighbour + e};
    if (parts == 1) only = made;
    return made;
  }

  void bond_sums(int64_t p, const real *length, const real *of_atoms, real *to) const {
    const int64_t own = begin(p), e = own * atoms.slots, readout[] = {model.readout->repulsion, model.readout->inner};
    const int64_t size_[] = {size(p), atoms.slots, model.elements, model.power, readout[0], readout[1]};
    if (of_atoms == nullptr)
      Kernels<real>::bond_sums_forward(size_, atoms.species + own, of_neighbour + e, model.constants, length, to,
                                       atoms.threads);
    else
      Kernels<real>::bond_sums_backward(size_, atoms.species + own, of_neighbour + e, model.constants, of_atoms,
                                        length, to, atoms.threads);
  }

  void add_up_bonds() {
    for (int64_t p = 0; p < parts; ++p) {
      const Arena::Mark before = arena.mark();
      const real *length;
      if (parts == 1) {
        length = bonds(p).length;
      } else {
        real *r = arena.take<real>(size(p) * atoms.slots);
        const real *v = atoms.vector + 3 * begin(p) * atoms.slots;
        for (int64_t b = 0; b < size(p) * atoms.slots; ++b, v += 3)
          r[b] = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
        length = r;
      }
      bond_sums(p, length, nullptr, sums + 3 * begin(p));
      if (parts > 1) arena.release(before);
    }
    fades = model.inverse_limit != nullptr && fading.set(atoms.own, sums, atoms.species, model.inverse_limit);
  }

  // to = from, of atoms that fade what is left of it
  void fade(const real *from, real *to, int64_t width) const {
    for (int64_t n = 0; n < atoms.own; ++n)
      for (int64_t k = 0; k < width; ++k)
        to[n * width + k] = fades ? from[n * width + k] * fading.remains[n] : from[n * width + k];
  }

  // What of the message some atoms read, so that a part costs what it holds, however many atoms there are.
  struct Read {
    std::vector<int64_t> listed;  // atoms
    int64_t *row;                 // of each neighbour in that list
    real *rows;

    Given<real> given() const { return {rows, static_cast<int64_t>(listed.size()), row}; }
  };

  Read read(const Bonds<real> &own, const real *message, int64_t width) {
    Read found{{}, arena.take<int64_t>(own.count()), nullptr};
    for (int64_t e = 0; e < own.count(); ++e) {
      int64_t &place = places[own.neighbour[e]];
      if (place < 0) place = found.listed.size(), found.listed.push_back(own.neighbour[e]);
      found.row[e] = place;
    }
    found.rows = arena.take<real>(found.listed.size() * width);
    for (size_t r = 0; r < found.listed.size(); ++r) {
      const real *from = message + found.listed[r] * width;
      std::copy(from, from + width, found.rows + r * width);
      places[found.listed[r]] = -1;
    }
    return found;
  }

  // What is owed to the message that layer t is given is added to `of_given`, to the bonds to `slope`.
  void back(size_t t, int64_t p, const Bonds<real> &own, const real *message, const real *of_invariants,
            const real *of_message, const real *A, const real *rows, real *of_given) {
    const Arena::Mark before = arena.mark();
    const Layer<real> &layer = model.layers[t];
    const int64_t width = layer.incoming() * layer.channels();
    const bool compact = parts > 1 && of_given != nullptr;
    const Read seen = compact ? read(own, message, width) : Read{};
    const Given<real> given = compact ? seen.given() : layer.given(own, message, atoms.all);
    const int64_t length = given.count * width;
    real *Y = arena.take<real>(own.count() * own.harmonics), *r = arena.take<real>(own.count());
    real *of_incoming = arena.take<real>(length);
    layer.backward(own, given, of_invariants, of_message, A, rows, Y, r, of_incoming, arena);
    if (own.stretch != nullptr)
      for (int64_t b = 0; b < own.count(); ++b) r[b] *= own.stretch[b];
    if (of_given != nullptr)
      for (int64_t r = 0; r < given.count; ++r) {
        real *to = of_given + (compact ? seen.listed[r] : r) * width;
        for (int64_t k = 0; k < width; ++k) to[k] += of_incoming[r * width + k];
      }
    if (t == 0) {  // what is left of an atom is owed by all its messages
      real *more = arena.take<real>(own.count()), *owed = of_sums + 3 * begin(p);
      if (fades)
        for (int64_t n = 0; n < own.atoms; ++n)
          owed[3 * n + 2] += fading.slope[begin(p) + n] * of_remains[begin(p) + n];
      bond_sums(p, own.length, owed, more);
      for (int64_t b = 0; b < own.count(); ++b) r[b] += more[b];
    }
    const int64_t e = begin(p) * atoms.slots, count[] = {own.count(), model.degrees};
    if (parts == 1) {  // directions once for all layers
      for (int64_t b = 0; b < own.count(); ++b) of_r[b] += r[b];
      for (int64_t b = 0; b < own.count() * own.harmonics; ++b) of_Y[b] += Y[b];
      if (t == 0) Kernels<real>::geometry_backward(count, of_r, of_Y, own.vector, slope, atoms.threads);
    } else {
      real *made = arena.take<real>(3 * own.count());
      Kernels<real>::geometry_backward(count, r, Y, own.vector, made, atoms.threads);
      real *to = slope + 3 * e;
      const bool first = t + 1 == model.layers.size();
      for (int64_t b = 0; b < 3 * own.count(); ++b) to[b] = first ? made[b] : to[b] + made[b];
    }
    arena.release(before);
  }

  // Invariants are written down.
  void note(size_t t, int64_t p, const real *rows) {
    const Layer<real> &layer = model.layers[t];
    int64_t first = 0, width = layer.invariants() * layer.channels();
    for (size_t s = 0; s < t; ++s) first += model.layers[s].invariants() * model.layers[s].channels();
    for (int64_t n = 0; n < size(p); ++n)
      std::copy(rows + n * layer.rows() * layer.channels(), rows + n * layer.rows() * layer.channels() + width,
                features + (begin(p) + n) * model.whole + first);
  }

  void evaluate(Exchange<real> *exchange, real *energy) {
    const size_t last = model.layers.size() - 1;
    add_up_bonds();
    const real *message = nullptr;
    for (size_t t = 0; t < last; ++t) {
      const Layer<real> &layer = model.layers[t];
      const int64_t K = layer.channels(), width = layer.outgoing() * K;
      for (int64_t p = 0; p < parts; ++p) {
        const Arena::Mark before = arena.mark();
        const Bonds<real> own = bonds(p);
        real *A = kept[t].A + begin(p) * layer.densities() * K;
        real *rows = parts == 1 ? kept[t].rows : arena.take<real>(size(p) * layer.rows() * K);
        layer.forward(own, layer.given(own, message, atoms.all), A, rows, arena);
        note(t, p, rows);
        layer.speak(own, rows, kept[t].message + begin(p) * width, arena);
        if (parts > 1) arena.release(before);
      }
      fade(kept[t].message, kept[t].faded, width);
      if (exchange != nullptr) exchange->forward(kept[t].faded, width);
      message = kept[t].faded;
    }
    if (parts == 1) {
      const int64_t bonds_ = atoms.own * atoms.slots, LM = model.degrees * model.degrees;
      of_Y = arena.take<real>(bonds_ * LM), of_r = arena.take<real>(bonds_);
      std::fill(of_Y, of_Y + bonds_ * LM, real(0));
      std::fill(of_r, of_r + bonds_, real(0));
    }
    const int64_t incoming = last > 0 ? model.layers[last].incoming() * model.layers[last].channels() : 0;
    real *of_message = owed_to_messages(incoming);
    for (int64_t p = 0; p < parts; ++p) finish(p, message, energy, of_message);
    if (last > 0 && exchange != nullptr) exchange->reverse(of_message, incoming);
    for (size_t t = last; t-- > 0;) {
      const Layer<real> &layer = model.layers[t];
      const int64_t K = layer.channels(), width = layer.outgoing() * K;
      if (fades)
        for (int64_t n = 0; n < atoms.own; ++n)
          for (int64_t k = n * width; k < (n + 1) * width; ++k) {
            of_remains[n] += of_message[k] * kept[t].message[k];
            of_message[k] *= fading.remains[n];
          }
      const real *given = t > 0 ? kept[t - 1].faded : nullptr;
      const int64_t before_width = t > 0 ? layer.incoming() * K : 0;
      real *next = owed_to_messages(before_width);
      for (int64_t p = 0; p < parts; ++p) {
        const Arena::Mark before = arena.mark();
        const Bonds<real> own = bonds(p);
        const int64_t n = begin(p);
        const real *A = kept[t].A + n * layer.densities() * K;
        real *rows = kept[t].rows;
        if (parts > 1) layer.expand(own, A, rows = arena.take<real>(size(p) * layer.rows() * K));
        back(t, p, own, given, kept[t].owed + n * layer.invariants() * K, of_message + n * width, A, rows, next);
        arena.release(before);
      }
      if (t > 0 && exchange != nullptr) exchange->reverse(next, before_width);
      of_message = next;
    }
  }

  real *owed_to_messages(int64_t width) {
    if (width == 0) return nullptr;
    real *found = arena.take<real>(atoms.all * width);
    std::fill(found, found + atoms.all * width, real(0));
    return found;
  }

  // The last layer of a part: forwards, through the readout, and back.
  void finish(int64_t p, const real *message, real *energy, real *of_message) {
    const Arena::Mark before = arena.mark();
    const size_t last = model.layers.size() - 1;
    const Layer<real> &layer = model.layers[last];
    const int64_t n = size(p), first = begin(p), K = layer.channels();
    const Bonds<real> own = bonds(p);
    real *A = arena.take<real>(n * layer.densities() * K), *rows = arena.take<real>(n * layer.rows() * K);
    layer.forward(own, layer.given(own, message, atoms.all), A, rows, arena);
    note(last, p, rows);
    std::vector<real *> owed;
    for (size_t t = 0; t < last; ++t)
      owed.push_back(kept[t].owed + first * model.layers[t].invariants() * model.layers[t].channels());
    owed.push_back(arena.take<real>(n * layer.invariants() * K));
    const Fading<real> own_fading{fading.remains + first, fading.wall + first, fading.slope + first,
                                  fading.wall_slope + first};
    model.readout->evaluate(n, own.species, features + first * model.whole, sums + 3 * first,
                            fades ? &own_fading : nullptr, energy + first, owed, of_sums + 3 * first,
                            of_remains + first, atoms.threads, arena);
    back(last, p, own, message, owed.back(), nullptr, A, rows, of_message);
    arena.release(before);
  }
};

template <class real>
void Graph<real>::evaluate(const Atoms<real> &atoms, Exchange<real> *exchange, const Result<real> &result) {
  const Arenas::Borrowed arena(arenas);
  Run(*this, atoms, result, *arena).evaluate(exchange, result.energy);
}

}  // namespace

template <class real>
std::unique_ptr<Member<real>> graph_member(const File &file, const std::string &prefix, int64_t elements) {
  return std::make_unique<Graph<real>>(file, prefix, elements);
}

template std::unique_ptr<Member<float>> graph_member(const File &, const std::string &, int64_t);
template std::unique_ptr<Member<double>> graph_member(const File &, const std::string &, int64_t);

}  // namespace gace
