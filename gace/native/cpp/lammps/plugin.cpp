// Makes pair_style gace known to a LAMMPS that is running: `plugin load gaceplugin.so`.

#include "lammps.h"
#include "pair_gace.h"

namespace {

// What LAMMPS' plugin command hands in and takes (its lammpsplugin.h is not installed with its other headers).
struct Plugin {
  const char *version, *style, *name, *info, *author;
  union {
    void *(*of_instance)(void *);
    void *(*of_arguments)(void *, int, char **);
  } creator;
  void *handle;
};

void *created(void *lmp) { return new LAMMPS_NS::PairGACE(static_cast<LAMMPS_NS::LAMMPS *>(lmp)); }

}  // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *announce) {
  Plugin plugin{};
  plugin.version = static_cast<LAMMPS_NS::LAMMPS *>(lmp)->version;
  plugin.style = "pair", plugin.name = "gace";
  plugin.info = "graph atomic cluster expansion";
  plugin.author = "the gace developers";
  plugin.creator.of_instance = created;
  plugin.handle = handle;
  reinterpret_cast<void (*)(Plugin *, void *)>(announce)(&plugin, lmp);
}
