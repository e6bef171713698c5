"""The benchmarks run, print what the peers' drivers print, and the exact claims among the figures hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"

# what every driver of the peers prints, whatever the workload
KEYS = {
    "package", "version", "workload", "model", "dtype", "path", "threads", "natoms", "steps", "ms_per_step",
    "ms_min", "wall_ms_median", "us_per_atom", "us_per_atom_min", "peak_mb", "first_calls_wall_cpu_s",
    "calib_ms", "import_wall_cpu_s", "n_params", "load", "tag",
}  # fmt: skip
SHORT = ["--steps", "3", "--seconds", "1"]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    """A benchmark in a process of its own."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GACE_PEER_")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=clean)


def result_of(script: str, *arguments: str) -> dict:
    """The JSON object on the last line."""
    ended = run(script, *arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def molecule_data() -> Path:
    """The folder of the 3BPA files, or the test is skipped."""
    named = os.environ.get("GACE_BENCHMARK_DATA")
    shared = ROOT.parent / "shared" / "data" if named is None else Path(named)
    for folder in (shared, shared / "3BPA", shared.parent / "peers" / "data"):
        if (folder / "train450.xyz").exists():
            return folder
    pytest.skip("no 3BPA data (GACE_BENCHMARK_DATA)")


@pytest.fixture
def drivers(tmp_path: Path) -> Path:
    """A folder with a driver that behaves as those of the peers, and one that fails."""
    (tmp_path / "mace_driver.py").write_text(
        "import argparse, json\n"
        "p = argparse.ArgumentParser()\n"
        "for name in ('workload', 'dtype', 'steps', 'seconds', 'model'): p.add_argument('--' + name)\n"
        "a = p.parse_args()\n"
        "print('noise')\n"
        "print(json.dumps(dict(version='9', model=a.model, ms_per_step=4000.0, ms_min=3000.0,"
        " us_per_atom=1.0, peak_mb=100000, first_calls_wall_cpu_s=[[1, 2]], calib_ms=[1, 1])))\n"
    )
    (tmp_path / "tp_driver.py").write_text("raise SystemExit('no such accelerator')\n")
    return tmp_path


MADE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np, workloads
out = Path(sys.argv[2])
for name in ("si64", "c512", "3bpa"):
    made = workloads.structure(name, out)
    np.savez(out / name, numbers=made.numbers, positions=made.positions, cell=made.cell, pbc=made.pbc)
assert "scipy" not in sys.modules
"""


def test_timed_structures_are_those_of_ase_without_what_it_loads(tmp_path: Path) -> None:
    """SciPy, which ``ase.build`` and ``ase.io`` load, would be counted as the potential's memory."""
    expected = {"3bpa": molecule("CH3CH2OH")}
    write(tmp_path / "test_300K_sub.xyz", [expected["3bpa"], molecule("CH4")], format="extxyz")
    for name, element, lattice, repeats in (("si64", "Si", 5.43, 2), ("c512", "C", 3.567, 4)):
        expected[name] = bulk(element, "diamond", a=lattice, cubic=True).repeat(repeats)
        expected[name].rattle(0.03, seed=1)
    subprocess.run([sys.executable, "-c", MADE, str(BENCHMARKS), str(tmp_path)], check=True)
    for name, atoms in expected.items():
        with np.load(tmp_path / f"{name}.npz") as found:
            assert np.array_equal(found["numbers"], atoms.numbers)
            assert np.allclose(found["positions"], atoms.positions, rtol=0, atol=1e-7)
            assert np.allclose(found["cell"], atoms.cell, rtol=0, atol=1e-12)
            assert np.array_equal(found["pbc"], atoms.pbc)


def test_speed_prints_the_keys_of_the_peers() -> None:
    found = result_of("speed.py", "--workload", "inf:si64", "--model", "1L-small", *SHORT)
    assert set(found) >= KEYS
    assert (found["package"], found["natoms"], found["threads"], found["clock"]) == ("gace", 64, 1, "cpu")
    assert 0 < found["ms_min"] <= found["ms_per_step"] < 10_000
    assert found["us_per_atom"] == pytest.approx(1e3 * found["ms_per_step"] / 64, rel=1e-3)  # rounded


@pytest.mark.data
def test_training_steps_are_timed_under_the_same_keys() -> None:
    folder = str(molecule_data())
    options = ["--workload", "train:b5", "--model", "1L-small", "--dtype", "float32", "--data", folder]
    found = result_of("speed.py", *options, *SHORT)
    assert set(found) >= KEYS | {"structures_per_s", "structures_per_s_best", "atoms_per_s", "graph_build_s"}
    assert found["natoms"] == 135
    assert found["steps"] == 3


@pytest.mark.data
def test_accuracy_spends_its_budget_and_reports_errors_at_each_temperature(tmp_path: Path) -> None:
    import gace
    from gace.structures.io import read_structures

    data, kept = molecule_data(), tmp_path / "potential"
    config = tmp_path / "train.yaml"
    config.write_text("potential: {overrides: {channels: 8}}\ntraining: {batch_size: 10}\nseed: 3\n")
    found = result_of(
        "speed.py", "--workload", "acc:2", "--model", "1L-small", "--dtype", "float32", "--keep", str(kept),
        "--data", str(data), "--config", str(config), "--set", "training.learning_rate=0.05",
    )  # fmt: skip
    assert (found["batch"], found["lr"], found["seed"]) == (10, 0.05, 3)
    assert 2 <= found["cpu_s"] <= 4
    errors = found["rmse"]
    assert set(errors) == {"test_300K", "test_600K", "test_1200K", "valid50"}
    assert set(errors["test_300K"]) == {"E_meV", "E_meV_at", "E_meV_shifted", "F_meV_A", "n", "eval_cpu_s"}
    assert found["updates"] > 0
    # the bundle that was kept has these errors by the ordinary evaluation too (given to 0.1 meV)
    again = gace.evaluate(gace.load(kept, dtype="float32"), read_structures(data / "test_300K_sub.xyz"))
    assert errors["test_300K"]["F_meV_A"] == pytest.approx(again["forces"]["rmse"], abs=0.1)
    assert errors["test_300K"]["E_meV"] == pytest.approx(again["energy"]["rmse"], rel=1e-3, abs=0.1)
    assert errors["test_300K"]["n"] == again["n_structures"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "fly:si64"], "no workload 'fly:si64'"),
        (["--workload", "inf:si65"], "no structure called 'si65'"),
        (["--workload", "acc:soon"], "'soon' in 'acc:soon' is not a number"),
        (["--workload", "inf:si64", "--model", "2L-huge"], "no preset called '2L-huge'"),
        (["--workload", "inf:si64", "--path", "warp"], "warp"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: list[str], message: str) -> None:
    ended = run("speed.py", *arguments)
    assert ended.returncode != 0
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_side_by_side_prints_ratios_and_says_who_is_absent(drivers: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    found = result_of(
        "side_by_side.py", "--workload", "inf:si64", "--dtype", "float32", "--ours", "1L-small", *SHORT,
        "--peer", f"mace={sys.executable},model=m64x1o", "--peer", f"tp={sys.executable}",
        "--peer", f"nequip={tmp_path / 'nobody'}", "--drivers", str(drivers), "--rounds", "2",
        "--out", str(out),
    )  # fmt: skip
    table = found["results"]["inf:si64 float32"]
    assert table["mace m64x1o"]["ms_per_step"] == 4000
    assert table["gace 1L-small"]["rounds"] == 2
    assert "no such accelerator" in table["tp"]["error"]
    assert len(found["absent"]) == 1
    assert found["absent"][0].startswith("nequip: no such file")
    row = next(line for line in out.read_text().splitlines() if line.startswith("| mace m64x1o"))
    ratio = float(row.split("|")[5])
    assert ratio == pytest.approx(4000 / table["gace 1L-small"]["ms_per_step"], rel=0.01)


def test_side_by_side_without_peers_measures_ours() -> None:
    ended = run("side_by_side.py", "--workload", "inf:si64", "--dtype", "float32", "--ours", "1L-small",
                "--rounds", "1", *SHORT)  # fmt: skip
    assert ended.returncode == 0
    assert "absent: mace: no --peer and no GACE_PEER_MACE" in ended.stderr


def test_recursion_is_the_sum_over_trees() -> None:
    assert result_of("figures/recursion.py")["worst"] < 1e-10


def test_trees_tell_apart_what_stars_cannot() -> None:
    found = result_of("figures/discrimination.py", "--most-layers", "3", "--most-carbons", "5")
    assert found["as_claimed"]
    assert {row["T=1: |ΔE|/|E|"] for row in found["rows"]} == {"equal"}


def test_derivatives_end_at_the_reach_of_the_layers() -> None:
    found = result_of("figures/reach.py", "--most", "2")
    assert found["exactly_zero"]
    two = found["rows"][1]
    # a second layer reaches farther than one cutoff: the chain has atoms every 0.9 Å
    assert two["T·r Å"] - 1.5 < two["∂E_i/∂r_j ends Å"] <= two["T·r Å"]
    assert two["T·r Å"] < two["∂F_i/∂r_j ends Å"] <= two["2T·r Å"]


def test_an_untrained_model_obeys_the_symmetries_and_ends_smoothly() -> None:
    found = result_of("figures/conservation.py")
    assert max(found["symmetry"].values()) < 1e-10
    assert found["pair"]["+0.001 Å"] == [0, 0]
    assert 0 < found["pair"]["-0.001 Å"][1] < 1e-4


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("neighbours.py", ["--layers", "1", "2", "--most", "40", "--repeats", "2", "--channels", "8"]),
        ("layers.py", ["--most", "2", "--repeats", "2"]),
        ("atoms.py", ["--model", "1L-small", "--most", "32", "--steps", "2"]),
    ],
)
def test_figures_of_cost_draw_and_write_their_table(script: str, options: list[str], tmp_path: Path) -> None:
    picture, page = tmp_path / "figure.png", tmp_path / "page.md"
    found = result_of(f"figures/{script}", *options, "--out", str(picture), "--markdown", str(page))
    assert len(found["rows"]) >= 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "![" in page.read_text()
    assert str(tmp_path) not in page.read_text()


def test_extrapolation_reports_every_temperature(tmp_path: Path) -> None:
    """On a few structures of our own in the place of 3BPA's, by a kept potential."""
    from ase.build import molecule

    from gace.structures.io import set_labels, write_structures

    for number, temperature in enumerate((300, 600, 1200)):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.05, seed=number)
        labelled = set_labels(atoms, -1000.0 * (number + 1), np.zeros((9, 3)))
        write_structures(tmp_path / f"test_{temperature}K_sub.xyz", [labelled])
    bundle = ROOT / "benchmarks" / "potentials" / "3bpa-300K"
    found = result_of("figures/extrapolation.py", str(bundle), "--data", str(tmp_path))
    errors = found["errors"]["3bpa-300K"]
    assert list(errors) == ["300", "600", "1200"]
    assert len({one["energy"] for one in errors.values()}) == 3
    assert all(0 < one["forces"] < 1e5 for one in errors.values())


def test_dynamics_of_a_potential_report_drift_with_its_error(tmp_path: Path) -> None:
    from ase.build import molecule
    from ase.io import write

    from gace import GraphACE, Potential
    from gace.potential.bundle import save_bundle
    from gace.structures.neighbours import build_graph

    water = molecule("H2O")
    # a small scale keeps the forces of random parameters far below those of bonds
    model = GraphACE(
        elements=["H", "O"], cutoff=3.0, l_max=[2], order=2, channels=4, scale=0.01, core_repulsion=False
    )
    model.calibrate(build_graph([water], ["H", "O"], 3.0))
    save_bundle(Potential([model], isolated_atom_energies={"H": 0.0, "O": 0.0}), tmp_path / "potential")
    write(tmp_path / "water.xyz", water)
    found = result_of(
        "figures/conservation.py", "--potential", str(tmp_path / "potential"),
        "--structure", str(tmp_path / "water.xyz"), "--temperature", "10", "--thermalise", "0.005",
        "--picoseconds", "0.03", "--timestep", "0.25", "0.5",
    )  # fmt: skip
    runs = found["nve"]
    assert [run["timestep"] for run in runs] == [0.25, 0.5]
    assert [run["status"] for run in runs] == ["done", "done"]
    assert all(run["error"] > 0 for run in runs)
    # the error of velocity Verlet falls with the square of the time step
    assert runs[0]["fluctuation"] < 0.5 * runs[1]["fluctuation"]


def test_front_holds_those_that_nobody_beats_in_both():
    sys.path.insert(0, str(BENCHMARKS / "figures"))
    from pareto import on_front

    points = {"slow": (9.0, 2.0), "fast": (1.0, 8.0), "beaten": (2.0, 9.0), "between": (3.0, 4.0)}
    assert on_front(points) == ["fast", "between", "slow"]


def test_seeds_of_a_kept_potential_are_told_apart_and_joined():
    """A linear ACE beside graph ACEs keeps its weight; graph ACEs share theirs, however many they become."""
    sys.path.insert(0, str(BENCHMARKS / "potentials"))
    from seeds import by_seed, with_more

    from gace import Potential
    from gace.errors import InputError
    from gace.linear.model import LinearACE
    from gace.potential.graph_ace import GraphACE

    def graph(seed: int) -> GraphACE:
        return GraphACE(elements=["Si"], cutoff=4.0, l_max=[1], order=2, channels=4, densities=2, seed=seed)

    def potential(members: list, weights: list[float] | None = None) -> Potential:
        return Potential(members, isolated_atom_energies={"Si": 0.0}, weights=weights)

    linear = LinearACE(elements=["Si"], cutoff=4.0)
    grown = with_more(
        potential([linear, graph(1)], [0.7, 0.3]), [potential([graph(2)]), potential([graph(3)])]
    )
    assert [type(one) for one in grown.members] == [LinearACE, GraphACE, GraphACE, GraphACE]
    assert grown.weights == pytest.approx([0.7, 0.1, 0.1, 0.1])
    alone = by_seed(grown)
    assert [one.weights for one in alone] == [pytest.approx([0.7, 0.3])] * 3
    assert [one.members[1].hyperparameters()["seed"] for one in alone] == [1, 2, 3]
    assert len(by_seed(potential([graph(1)]))[0].members) == 1
    assert with_more(potential([graph(1)]), [potential([graph(2)])]).weights == pytest.approx([0.5, 0.5])
    with pytest.raises(InputError, match="same seed"):
        with_more(grown, [potential([graph(2)])])


def test_tables_of_errors_name_what_is_not_kept():
    ended = run("figures/accuracy_tables.py", "acac-600K")
    assert ended.returncode != 0
    assert "no kept potential called acac-600K" in ended.stderr
    assert "Traceback" not in ended.stderr
