"""`gace labels list|show|retry|quarantine|ladder`: look at what was paid for, and act on it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from gace.cli import print_json
from gace.errors import InputError, nearest

json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON summary as the last line.")
store_argument = click.argument("store", type=click.Path(path_type=Path))


@click.command("list")
@store_argument
@click.option("--failed", is_flag=True, help="Only those without a label.")
@click.option("--quarantined", is_flag=True, help="Only labels in quarantine.")
@json_option
def list_labels(store: Path, failed: bool, quarantined: bool, as_json: bool) -> None:
    """Every finished calculation in STORE with its price, and what was set aside or lost to kills."""
    opened = open_store(store)
    rows = [_row(record, opened.suspicion(record.key)) for record in opened.records()]
    lost, retired = opened.lost(), list(opened.retired())
    summary = {
        "labels": sum(row["status"] == "computed" for row in rows),
        "failed": sum(row["status"] == "failed" for row in rows),
        "quarantined": sum(row["status"] == "quarantined" for row in rows),
        "core_seconds": round(sum(row["price"] for row in rows), 3),
        "paid_twice": opened.paid_twice(),
        "retired": len(retired),
        "retired_core_seconds": round(sum(one.core_seconds for one in retired), 3),
        "lost": len(lost),
        "lost_core_seconds": round(sum(one["core_seconds"] for one in lost), 3),
    }
    if failed or quarantined:
        wanted = {"failed"} if failed else set()
        wanted |= {"quarantined"} if quarantined else set()
        rows = [row for row in rows if row["status"] in wanted]
    if as_json:
        print_json({**summary, "records": rows})
        return
    for row in rows:
        reason = f"  {row['reason'].splitlines()[0]}" if row["reason"] else ""
        click.echo(
            f"{row['key']}  {row['formula']:16s} {row['status']:11s} {row['price']:10.2f} core s{reason}"
        )
    click.echo("  ".join(f"{name} {value}" for name, value in summary.items()))


@click.command("show")
@store_argument
@click.argument("key")
def show(store: Path, key: str) -> None:
    """One record of STORE (KEY may be shortened) and its history, as JSON."""
    opened = open_store(store)
    full = find_key(opened, key)
    record = opened.get(full)
    history: list[dict[str, Any]] = [entry for entry in opened.journal if entry["key"] == full]
    content = record.model_dump() if record else {}
    print_json({**content, "suspicion": opened.suspicion(full), "history": history})


@click.command("retry")
@store_argument
@click.argument("keys", nargs=-1)
@click.option("--class", "failure_class", help="Every failed one whose last failure is of this class.")
@click.option("--all", "everything", is_flag=True, help="Every failed one.")
@json_option
def retry(
    store: Path, keys: tuple[str, ...], failure_class: str | None, everything: bool, as_json: bool
) -> None:
    """Set failed calculations of STORE aside, so that the next run computes them again.

    KEYS may be shortened. The old records are kept in STORE/retired. A computed label is set aside only when
    it is named and in quarantine.
    """
    opened = open_store(store)
    chosen = [find_key(opened, key) for key in keys]
    for record in opened.records():
        # killed too often before, it has a reason and no attempt
        reason_class = record.reason.partition(":")[0]
        last = record.attempts[-1]["failure_class"] if record.attempts else reason_class
        if record.status == "failed" and (
            everything or (failure_class is not None and last == failure_class)
        ):
            chosen.append(record.key)
    if not chosen:
        raise InputError("nothing to retry: name KEYS, --class CLASS or --all; see gace labels list --failed")
    for key in dict.fromkeys(chosen):
        record = opened.get(key)
        if record is not None and record.status == "computed" and opened.suspicion(key) is None:
            raise InputError(f"{key} is an accepted label, which is not paid for again; quarantine it first")
    for key in dict.fromkeys(chosen):
        opened.retire(key)
    if as_json:
        print_json({"retired": list(dict.fromkeys(chosen))})
    else:
        click.echo(f"{len(dict.fromkeys(chosen))} will be computed again when they are asked for")


@click.command("quarantine")
@store_argument
@click.argument("keys", nargs=-1, required=True)
@click.option("--reason", help="Why it is not to be trusted.")
@click.option("--release", is_flag=True, help="Take it out of quarantine instead.")
@json_option
def quarantine(store: Path, keys: tuple[str, ...], reason: str | None, release: bool, as_json: bool) -> None:
    """Put labels of STORE into quarantine: they stay in the store, and nobody is handed them."""
    opened = open_store(store)
    chosen = [find_key(opened, key) for key in keys]
    if not release and not reason:
        raise InputError("--reason is missing: say why these labels are not to be trusted")
    for key in chosen:
        if release:
            if not opened.trust(key):
                raise InputError(f"{key} is not in quarantine")
        else:
            opened.suspect(key, f"by hand: {reason}")
    if as_json:
        print_json({"released" if release else "quarantined": chosen})
    else:
        click.echo(f"{len(chosen)} {'released' if release else 'in quarantine'}")


@click.command("ladder")
@store_argument
@json_option
def ladder(store: Path, as_json: bool) -> None:
    """What has failed in STORE and which remedies helped, as the next batch will use it."""
    from gace_platform.labelling.ladder import Ladder

    opened = open_store(store)
    histories = [record.attempts for record in opened.records()]
    failures = Counter(
        one["failure_class"] for attempts in histories for one in attempts if one["failure_class"] is not None
    )
    table = Ladder([], 1).learn_all(histories).table()
    if as_json:
        print_json({"failures": dict(sorted(failures.items())), "remedies": table})
        return
    for failure, count in sorted(failures.items()):
        click.echo(f"{failure:16s} {count}")
    for row in table:
        click.echo("{failure_class:16s} {remedy:32s} helped {helped} of {tried}".format(**row))


@click.command("audit")
@store_argument
@click.argument("potential")
@click.option("--settings", "digest", help="Settings hash, when STORE holds labels of several.")
@click.option("--quarantine", "act", is_flag=True, help="Put the suspects into quarantine.")
@json_option
def audit_command(store: Path, potential: str, digest: str | None, act: bool, as_json: bool) -> None:
    """Compare the labels of STORE with what POTENTIAL (a bundle or models: address) expects of them.

    Labels far from it, of the wrong sign or in other units, and twins with different labels are suspects.
    """
    from gace_platform.labelling.audit import audit
    from gace_platform.labelling.expectation import expect

    opened = open_store(store)
    records = [one for one in opened.records() if one.status == "computed" and len(one.numbers) > 1]
    hashes = sorted({one.key.split("-")[1] for one in records})
    if digest is None and len(hashes) > 1:
        raise InputError(f"{store} holds labels of several settings: --settings {' or '.join(hashes)}")
    records = [one for one in records if digest is None or one.key.split("-")[1] == digest]
    if not records:
        raise InputError(f"no labels to audit in {store}" + (f" with settings {digest}" if digest else ""))
    structures = [one.atoms() for one in records]
    reasons = audit(structures, expect(potential, structures))
    suspects = {one.key: why for one, why in zip(records, reasons, strict=True) if why is not None}
    if act:
        for key, why in suspects.items():
            if opened.suspicion(key) is None:
                opened.suspect(key, f"audit: {why}")
    if as_json:
        print_json({"labels": len(records), "suspects": suspects, "quarantined": act})
        return
    for key, why in suspects.items():
        click.echo(f"{key}  {why}")
    click.echo(f"{len(suspects)} suspects among {len(records)} labels")


@click.command("import")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG.")
@json_option
def import_command(config: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Take labels that exist already into a store, with keys and a settings hash."""
    from gace_platform.labelling.imports import import_labels, load_import_config

    summary = import_labels(load_import_config(config, overrides))
    if as_json:
        print_json(summary)
        return
    click.echo(
        "{imported} of {structures} imported; {present} were there, {quarantined} are in quarantine, "
        "{without_label} have no label; settings {settings_hash}".format(**summary)
    )
    if summary["conflicts"]:
        click.echo(
            f"{len(summary['conflicts'])} differ from the label in the store, which was kept", err=True
        )


def open_store(folder: Path) -> Any:
    """The label store in a folder that exists.

    Raises:
        InputError: it does not.
    """
    from gace_platform.ledger.store import LabelStore

    if not folder.is_dir():
        raise InputError(f"no such label store: {folder}")
    return LabelStore(folder)


def find_key(store: Any, key: str) -> str:
    """The one key that begins with ``key``.

    Raises:
        InputError: none or several do.
    """
    known = store.keys()
    matches = [one for one in known if one.startswith(key)]
    if len(matches) != 1:
        problem = f"{len(matches)} labels begin with '{key}'" if matches else f"no label '{key}'"
        raise InputError(problem + ("" if matches else nearest(key, known[:20])))
    return str(matches[0])


def _row(record: Any, suspicion: str | None) -> dict[str, Any]:
    return {
        "key": record.key,
        "formula": record.atoms().get_chemical_formula(),
        "status": "quarantined" if suspicion else record.status,
        "reason": suspicion or record.reason,
        "price": record.core_seconds,
    }
