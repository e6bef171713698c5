"""``gace models``: the registry of potentials."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gace.cli import print_json
from gace.config import load_config, read_yaml
from gace.errors import InputError, RegistryError

RESULT = "registration.json"

store_option = click.option(
    "--store", type=click.Path(path_type=Path), help="Folder of the MLflow store; else MLFLOW_TRACKING_URI."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")


@click.group()
def command() -> None:
    """Registered potentials: list, show, register, examine, promote, verify."""


@command.command("list")
@click.argument("name", required=False)
@store_option
@json_option
def list_models(name: str | None, store: Path | None, as_json: bool) -> None:
    """Versions of one model, or of all."""
    from gace_platform.registry.store import open_store
    from gace_platform.registry.versions import all_versions, champion, describe, get_version, model_names

    client = open_store(store).client()
    if name is not None and not all_versions(client, name):
        get_version(client, name, "1")  # raises with the nearest known name
    rows = []
    for model in [name] if name is not None else model_names(client):
        current = champion(client, model)
        rows += [describe(version, current) for version in all_versions(client, model)]
    if as_json:
        print_json({"models": rows})
        return
    _print_table(rows)


@command.command()
@click.argument("model")
@store_option
@json_option
def show(model: str, store: Path | None, as_json: bool) -> None:
    """One version, MODEL being NAME@champion, NAME/VERSION or a models:/ URI."""
    from gace_platform.registry.store import open_store
    from gace_platform.registry.versions import bundle_of, champion, describe, get_version

    name, version = parse_model(model)
    opened = open_store(store)
    client = opened.client()
    found = get_version(client, name, version)
    details = describe(found, champion(client, name))
    details["bundle"] = str(bundle_of(client, found)) if opened.folder is not None else None
    run = client.get_run(str(found.run_id))
    details |= {"parameters": dict(run.data.params), "metrics": dict(run.data.metrics)}
    if as_json:
        print_json(details)
        return
    for key, value in details.items():
        click.echo(f"{key:>14}  {_text(value)}")


@command.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG.")
@store_option
@json_option
def register(config: Path, out: Path, overrides: tuple[str, ...], store: Path | None, as_json: bool) -> None:
    """Register the generation that CONFIG describes; examine and promote it when it says so."""
    from gace.files import write_json_atomic
    from gace_platform.registry.config import RegisterConfig
    from gace_platform.registry.store import ensure_store, open_store

    settings = load_config(config, RegisterConfig, overrides).relative_to(config.resolve().parent)
    settings.check()
    _make_folder(out)
    folder = store or settings.store
    opened = ensure_store(folder) if folder is not None else open_store()
    with _registry_errors():
        summary = carry_out(opened, settings, out)
    write_json_atomic(out / RESULT, summary)
    if as_json:
        print_json(summary)
    else:
        click.echo(_sentence(summary))


def carry_out(store: Any, settings: Any, out: Path) -> dict[str, Any]:
    """Register, examine, promote: the summary of ``gace models register``.

    Args:
        store: Store to register in.
        settings: A :class:`~gace_platform.registry.config.RegisterConfig` with absolute paths.
        out: Folder for ``exam.json``.
    """
    from dataclasses import asdict

    from gace.files import write_json_atomic
    from gace_platform.registry.promotion import examine_version, promote_if_due
    from gace_platform.registry.register import register_generation
    from gace_platform.registry.versions import champion

    made = register_generation(store, settings)
    result = None
    promoted = False
    section = settings.exam
    if section is not None and section.structures is not None:
        result = examine_version(store, made.name, made.version, section.structures, section.criteria)
        write_json_atomic(out / "exam.json", result.model_dump(mode="json"))
        promoted = settings.promote and result.passed and promote_if_due(store, made.name, made.version)
    return {
        **asdict(made),
        "champion_uri": f"models:/{made.name}@champion",
        "exam": None if result is None else result.verdict,
        "exam_reason": None if result is None else result.reason,
        "promoted": promoted,
        "champion": champion(store.client(), made.name),
        "exam_result": None if result is None else result.model_dump(mode="json"),
    }


@command.command("examine")
@click.argument("model")
@click.argument("structures", type=click.Path(path_type=Path))
@click.option("--criteria", type=click.Path(path_type=Path), help="YAML file with the conditions.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for exam.json.")
@store_option
@json_option
def examine_command(
    model: str, structures: Path, criteria: Path | None, out: Path | None, store: Path | None, as_json: bool
) -> None:
    """Let MODEL (NAME/VERSION, or a bundle's folder) sit the exam of labelled STRUCTURES."""
    from gace.config import parse_config
    from gace.files import write_json_atomic
    from gace_platform.exam import Criteria, examine

    conditions = Criteria()
    if criteria is not None:
        conditions = parse_config(read_yaml(criteria), Criteria, source=str(criteria))
    if out is not None:
        _make_folder(out)
    if (Path(model) / "config.json").is_file():
        result = examine(model, structures, conditions)
    else:
        from gace_platform.registry.promotion import examine_version
        from gace_platform.registry.store import open_store

        name, version = parse_model(model)
        with _registry_errors():
            result = examine_version(open_store(store), name, version, structures, conditions)
    content = result.model_dump(mode="json")
    if out is not None:
        write_json_atomic(out / "exam.json", content)
    if as_json:
        print_json(content)
        return
    click.echo(f"exam {result.verdict}")
    for condition in result.conditions:
        click.echo(f"  {'met    ' if condition.met else 'NOT MET'}  {condition.name}: {condition.detail}")


@command.command("promote")
@click.argument("model")
@store_option
@json_option
def promote_command(model: str, store: Path | None, as_json: bool) -> None:
    """Move the alias champion to MODEL (NAME/VERSION), which must have passed its exam."""
    from gace_platform.registry.store import open_store
    from gace_platform.registry.versions import champion, promote

    name, version = parse_model(model)
    with _registry_errors():
        opened = open_store(store)
        before = promote(opened, name, version)
        version = champion(opened.client(), name) or version  # MODEL may name it by its alias
    if as_json:
        print_json({"name": name, "champion": version, "before": before, "uri": f"models:/{name}@champion"})
        return
    click.echo(f"models:/{name}@champion is now version {version} (before: {before or 'none'})")


@command.command("verify")
@click.argument("model")
@store_option
@json_option
def verify_command(model: str, store: Path | None, as_json: bool) -> None:
    """Recompute the checksums of the bundle behind MODEL; exit code 1 when they differ."""
    from dataclasses import asdict

    from gace_platform.registry.store import open_store
    from gace_platform.registry.versions import verify

    name, version = parse_model(model)
    check = verify(open_store(store), name, version)
    if as_json:
        print_json(asdict(check))
    else:
        click.echo(f"{check.name} version {check.version}: {check.detail}")
    if not check.ok:
        raise RegistryError(f"{check.name} version {check.version}: {check.detail}")


@command.command("ui-command")
@store_option
def ui_command(store: Path | None) -> None:
    """Print the command that shows the store in a browser (on this machine only)."""
    from gace_platform.registry.store import open_store

    opened = open_store(store)
    if opened.folder is None:
        click.echo(f"open {opened.uri}")
        return
    click.echo(
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --host 127.0.0.1 --port 5000 "
        f"--backend-store-uri '{opened.uri}'"
    )


def parse_model(text: str) -> tuple[str, str]:
    """Name and version of ``NAME/3``, ``NAME@champion`` or the same after ``models:/``.

    Raises:
        InputError: it is none of these.
    """
    plain = text.removeprefix("models:/")
    for separator in ("@", "/"):
        name, found, version = plain.partition(separator)
        if found and name and version and (separator == "/" or version == "champion"):
            return name, version
    raise InputError(f"'{text}' names no version: write NAME/VERSION or NAME@champion")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None


@contextlib.contextmanager
def _registry_errors() -> Iterator[None]:
    """Turn errors of MLflow into one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise RegistryError(f"the model registry: {' '.join(str(error).split())[:300]}") from None


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "version", "generation", "champion", "exam", "created", "AiiDA UUID")
    for row in rows:
        table.add_row(
            row["name"],
            row["version"],
            _text(row["generation"]),
            "★" if row["champion"] else "",
            row["exam"] or "",
            row["created"],
            row["aiida_uuid"] or "",
        )
    Console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={entry}" for key, entry in value.items()) or "–"
    return "–" if value is None else str(value)


def _sentence(summary: dict[str, Any]) -> str:
    state = "registered" if summary["created"] else "was registered already"
    exam = "" if summary["exam"] is None else f"; exam {summary['exam']}"
    reason = f" ({summary['exam_reason']})" if summary["exam_reason"] else ""
    champion = "; now champion" if summary["promoted"] else ""
    return f"{summary['uri']} {state}{exam}{reason}{champion}"
