"""The report page: complete, self-contained, harmless, and drawn by a real browser."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from gace.errors import InputError
from gace_platform.report import CampaignRecord, load_record, render
from gace_platform.report.figures import figures, thin
from gace_platform.report.record import (
    Champion,
    Condition,
    Estimate,
    ExamRecord,
    GenerationRecord,
    LabelRecord,
    Predictions,
    SetErrors,
    StopRecord,
    Totals,
    UncertaintyRecord,
    VersionRecord,
)
from gace_platform.report.show import duration, estimate, number, theory

ATTACK = "<script>document.title='owned'</script>\"><img src=x onerror=\"document.title='owned'\">"


def around(value: float) -> Estimate:
    return Estimate(value=value, low=0.85 * value, high=1.2 * value)


def one_generation(number: int) -> GenerationRecord:
    error = 160.0 * 0.6**number
    zms = Estimate(value=2.0 - 0.3 * number, low=1.5 - 0.3 * number, high=2.6 - 0.3 * number)
    failed = Condition(
        name="force error",
        met=False,
        value=error,
        threshold=80,
        unit="meV/Å",
        detail=f"mean absolute force error {error:.1f} meV/Å, at most 80 allowed",
    )
    passed = failed.model_copy(update={"met": True})
    return GenerationRecord(
        generation=number,
        n_labels=12 + 12 * number,
        n_train=10 + 10 * number,
        errors={
            name: SetErrors(
                n_structures=20,
                forces_mae=Estimate(
                    value=factor * error, low=0.85 * factor * error, high=1.2 * factor * error
                ),
                energy_mae=around(error / 40),
            )
            for name, factor in (("exam", 1.0), ("reserve", 1.15))
        },
        uncertainty=UncertaintyRecord(
            n=6 + 2 * number,
            coverage={"68": 0.55 + 0.05 * number, "90": 0.8, "95": 0.9},
            zms=zms,
            spearman=Estimate(value=0.5, low=0.4, high=0.6),
            auroc=Estimate(value=0.8),
            calibrated=False,
        ),
        exam=ExamRecord(
            verdict="passed" if error < 80 else "failed", conditions=[passed if error < 80 else failed]
        ),
        core_seconds={"train": 150.0, "explore": 40.0, "select": 4.0, "label": 96.0, "examine": 9.0},
        wall_seconds=170.0,
        selected={"picked": 10, "reserve": 2, "too close": 31, "duplicate": 4},
        walkers={"finished": 3, "gamma": 5},
        version=str(number + 1),
    )


def predictions(number: int, name: str) -> Predictions:
    random = np.random.default_rng(number)
    noise = 0.1 * 0.6**number
    energy = random.normal(-27.5, 0.05, 20)
    force = random.normal(0, 1.2, 540)
    std = noise * random.lognormal(0, 0.5, 540)
    return Predictions(
        generation=number,
        set=name,
        energy_reference=energy.tolist(),
        energy_predicted=(energy + random.normal(0, 0.1 * noise, 20)).tolist(),
        force_reference=force.tolist(),
        force_predicted=(force + std * random.normal(size=540)).tolist(),
        force_std=std.tolist(),
    )


def one_label(number: int) -> LabelRecord:
    verdict = "accepted" if number % 17 else ("failed" if number else "quarantined")
    return LabelRecord(
        key=f"{number:016x}-0123456789abcdef",
        structure_id=f"walker-{number % 8}-{number}",
        generation=number // 12,
        reason="random reserve" if number % 6 == 0 else f"LCMD: farthest in the largest cluster ({number})",
        verdict=verdict,
        detail="" if verdict == "accepted" else "SCF not converged after damping and SOSCF",
        core_seconds=7.0 + number / 10,
        attempts=1 if verdict == "accepted" else 3,
        origin="reserve" if number % 6 == 0 else "explore",
        ancestor=f"walker-{number % 8}",
        formula="C2H6O",
        n_atoms=9,
        gamma=float("inf") if number == 5 else 0.5 + number / 20,
        force_std=0.05 + number / 500,
        aiida_uuid=f"{number:08x}-1111-2222-3333-444444444444",
    )


@pytest.fixture
def record() -> CampaignRecord:
    """A campaign of four generations, with everything in it."""
    return CampaignRecord(
        name="ethanol",
        description="From one geometry to a potential, PBE/def2-SVP by PySCF.",
        created="2026-11-23T18:00:00+00:00",
        gace_version="0.1.0",
        elements=["C", "H", "O"],
        level_of_theory={"engine": "pyscf", "functional": "PBE", "basis": "def2-SVP"},
        aiida_uuid="0b1e7a52-0000-4000-8000-000000000000",
        champion=Champion(uri="models:/ethanol@champion", version="4", generation=3),
        totals=Totals(
            labels=48, labels_failed=2, labels_quarantined=1, labels_reused=3, wall_seconds=690,
            core_seconds={"train": 600, "explore": 160, "select": 16, "label": 384, "examine": 36},
        ),
        generations=[one_generation(number) for number in range(4)],
        predictions=[predictions(number, name) for number in range(4) for name in ("exam", "reserve")],
        labels=[one_label(number) for number in range(48)],
        versions=[
            VersionRecord(
                version=str(number + 1), generation=number, content_hash="ab" * 32, run_id="cd" * 16,
                aiida_uuid=f"{number}aaaaaaa-0000-4000-8000-000000000000", promoted=number > 1,
                exam_verdict="passed" if number > 1 else "failed", champion=number == 3,
                created="2026-11-23T17:50:00+00:00",
            )
            for number in range(4)
        ],
        stop=StopRecord(
            stopped=True,
            condition="budget spent",
            detail="0 labels of the budget are left",
            conditions=[
                Condition(name="budget spent", met=True, value=0, threshold=0, unit="labels left"),
                Condition(name="force error", met=False, value=34.6, threshold=30, unit="meV/Å",
                          detail="the champion's force error on the exam is 34.6 meV/Å, 30 are asked for"),
            ],
        ),
        notes=["The exam was drawn at random from the teacher's trajectory."],
    )  # fmt: skip


def visible(html: str) -> str:
    """The page without scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S)


def test_page_says_what_was_paid_and_why(record, tmp_path):
    text = visible(render(record, tmp_path / "report.html").read_text())
    for label in record.labels:
        assert label.reason in text
        assert label.aiida_uuid in text
    for words in (
        "budget spent",
        "models:/ethanol@champion",
        "34.6",
        "quarantined",
        "SCF not converged",
        "∞",
    ):
        assert words in text


def test_price_of_a_label_found_in_the_store_is_shown(record, tmp_path):
    label = record.labels[0].model_copy(update={"core_seconds": 321.5, "reused": True, "attempts": 1})
    text = visible(
        render(record.model_copy(update={"labels": [label]}), tmp_path / "report.html").read_text()
    )
    price = re.search(r'data-value="321\.5">(.*?)</td>', text).group(1)
    assert re.sub(r"<.*?>", "", price) == "322 found in the store"
    assert "2 failed, 1 quarantined, 3 found in the store" in text


def test_page_loads_nothing(record, tmp_path):
    html = render(record, tmp_path / "report.html").read_text()
    assert not re.search(
        r"<(script|img|link|iframe)[^>]+\b(src|href)=", visible(html) + "".join(html.split()[:50])
    )
    assert re.findall(r"<script[^>]*\bsrc=", html[: html.index("plotly.js")]) == []
    assert "default-src 'none'" in html
    assert html.count("* plotly.js v") == 1


def test_texts_are_escaped(record, tmp_path):
    words = dict.fromkeys(["reason", "detail", "structure_id", "origin", "ancestor", "formula"], ATTACK)
    fields = {"name": ATTACK, "description": ATTACK, "notes": [ATTACK]}
    fields["labels"] = [record.labels[0].model_copy(update=words)]
    generation = record.generations[0].model_copy(
        update={"core_seconds": {ATTACK: 3.0}, "errors": {ATTACK: record.generations[0].errors["exam"]}}
    )
    hostile = record.model_copy(update={**fields, "generations": [generation]})
    html = render(hostile, tmp_path / "report.html").read_text()
    assert "<script>document" not in html
    assert "<img src=x" not in html
    assert "&lt;script&gt;document.title" in visible(html)


def test_equal_records_give_equal_pages(record, tmp_path):
    pages = [render(record, tmp_path / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_empty_campaign_has_a_page(tmp_path):
    text = visible(render(CampaignRecord(name="just begun"), tmp_path / "report.html").read_text())
    assert "just begun" in text
    assert "no version has passed the exam" in text
    assert "Nothing has been labelled yet" in text


def test_record_survives_json(record, tmp_path):
    (tmp_path / "record.json").write_text(record.model_dump_json())
    assert load_record(tmp_path / "record.json") == record


def test_unknown_key_of_a_record_is_named(tmp_path):
    (tmp_path / "record.json").write_text('{"name": "a", "lables": []}')
    with pytest.raises(InputError, match="did you mean 'labels'"):
        load_record(tmp_path / "record.json")


def test_unwritable_place_is_refused(record, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        render(record, tmp_path / "file" / "report.html")


def test_learning_curve_holds_values_and_intervals(record):
    curve = figures(record)["learning"]["data"][0]
    first = record.generations[0].errors["exam"].forces_mae
    assert curve["x"] == [12, 24, 36, 48]
    assert curve["y"][0] == first.value
    assert curve["error_y"]["arrayminus"][0] == pytest.approx(first.value - first.low)


def test_parity_keeps_pairs_together(record):
    trace = figures(record)["parity-energy"]["data"][0]
    pairs = dict(
        zip(record.predictions[0].energy_reference, record.predictions[0].energy_predicted, strict=True)
    )
    assert all(pairs[x] == y for x, y in zip(trace["x"], trace["y"], strict=True))


def test_legend_names_each_generation_and_set_once(record):
    traces = figures(record)["parity-force"]["data"]
    names = [trace["name"] for trace in traces if trace.get("showlegend", True)]
    assert names == [f"generation {number}" for number in range(4)] + ["exam", "reserve", "ideal"]


def test_level_of_theory_tells_what_is_set():
    settings = {"engine": "pyscf", "charge": 0, "dispersion": None, "grid": {"level": 3}}
    assert theory(settings) == "engine pyscf, charge 0, grid level 3"


def test_many_points_are_thinned():
    kept = thin(123456)
    assert (kept[0], kept[-1], len(kept)) == (0, 123455, 1000)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (41.234, "41.2"),
        (0.00012, "1.20e-04"),
        (0.0, "0"),
        (float("inf"), "∞"),
        (None, "–"),
        (1234.5, "1 234"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_estimate_shows_its_interval():
    assert estimate(Estimate(value=41.23, low=38, high=44.9)) == "41.2 [38.0, 44.9]"


@pytest.mark.parametrize(("seconds", "shown"), [(4.2, "4.2 s"), (750, "12 min 30 s"), (11100, "3 h 05 min")])
def test_durations(seconds, shown):
    assert duration(seconds) == shown


@pytest.fixture
def browser(tmp_path):
    """A function that opens a page in headless Chromium and gives back the document it became."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium here (apt-get install chromium)")

    def open_page(path):
        arguments = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
            "--virtual-time-budget=20000", "--dump-dom", path.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        return done.stdout, console

    return open_page


def test_browser_draws_every_figure(record, tmp_path, browser):
    document, console = browser(render(record, tmp_path / "report.html"))
    assert 'data-ready="yes"' in document
    assert document.count('class="main-svg"') >= 5
    assert console == []
    buttons = set(re.findall(r'class="modebar-btn"[^>]*aria-label="([^"]*)"', document))
    assert "Download plot as a PNG" in buttons
    assert not any("share" in button.lower() or "cloud" in button.lower() for button in buttons)


def test_hostile_text_does_nothing_in_the_browser(record, tmp_path, browser):
    label = record.labels[0].model_copy(update={"reason": ATTACK, "structure_id": ATTACK})
    generation = record.generations[0].model_copy(update={"core_seconds": {ATTACK: 3.0}})
    hostile = record.model_copy(update={"labels": [label], "generations": [generation], "notes": [ATTACK]})
    document, _ = browser(render(hostile, tmp_path / "report.html"))
    assert "<title>ethanol" in document
