"""``gace campaign``: plan, run, submit, watch, resume and report a campaign."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gace.cli import print_json
from gace.errors import DiskFullError, GaceError, InputError

if TYPE_CHECKING:
    from gace_workflows.campaign.file import Campaign
    from gace_workflows.campaign.folder import CampaignFolder

START_SECONDS = 600.0
"""How long ``submit`` waits for the keeper to have submitted the work chain, s."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""Errors of a disk that is full or broken; nothing is wrong with the campaign."""

file_argument = click.argument("file", type=click.Path(path_type=Path))
folder_argument = click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
folder_too_option = click.option(
    "--dir", "folder_too", type=click.Path(path_type=Path), help="The same as the argument DIR."
)
folder_option = click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="Folder of the campaign; default ./NAME."
)
overrides_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")


@click.group()
def command() -> None:
    """Campaigns: from a geometry to a registered potential, with real labels."""


@command.command()
@file_argument
@folder_option
@overrides_option
@json_option
def plan(file: Path, folder: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check FILE and say what the campaign would do and cost; computes nothing."""
    from gace_workflows.campaign.price import make_plan

    campaign, target, structures = checked(file, folder, overrides)
    found = make_plan(campaign, structures)
    for line in found.lines:
        click.echo(line, err=as_json)
    if as_json:
        print_json(
            {
                "campaign": campaign.campaign,
                "dir": str(target.path),
                "labels": found.labels,
                "budget": campaign.budget.labels,
                "core_seconds": found.core_seconds,
                "steps": found.lines,
            }
        )


@command.command()
@file_argument
@folder_option
@overrides_option
@json_option
def run(file: Path, folder: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Carry out the campaign in FILE and wait for its end."""
    from gace_workflows.campaign.prepare import prepare

    campaign, target, _ = checked(file, folder, overrides)
    prepare(target, campaign)
    carry_out(target, as_json)


@command.command()
@file_argument
@folder_option
@overrides_option
@json_option
def submit(file: Path, folder: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Start the campaign in FILE in the background and return."""
    from gace_workflows.campaign.prepare import prepare

    campaign, target, _ = checked(file, folder, overrides)
    prepare(target, campaign)
    state = start_keeper(target)
    click.echo(f"campaign {campaign.campaign} runs in the background (process {state['keeper']})", err=True)
    click.echo(f"gace campaign status {target.path}", err=True)
    if as_json:
        print_json({"campaign": campaign.campaign, "dir": str(target.path), **state})


@command.command()
@folder_argument
@folder_too_option
@click.option("--background", is_flag=True, help="Return at once and leave a keeper in the background.")
@json_option
def resume(folder: Path | None, folder_too: Path | None, background: bool, as_json: bool) -> None:
    """Go on with the campaign in DIR, whatever was killed, and wait for its end."""
    target = existing(folder, folder_too)
    if background:
        state = start_keeper(target)
        click.echo(f"gace campaign status {target.path}", err=True)
        if as_json:
            print_json({"dir": str(target.path), **state})
        return
    carry_out(target, as_json)


@command.command()
@folder_argument
@folder_too_option
@json_option
def status(folder: Path | None, folder_too: Path | None, as_json: bool) -> None:
    """Show what the campaign in DIR has done so far."""
    from gace_workflows.campaign.status import read_status, table

    found = read_status(existing(folder, folder_too))
    if as_json:
        print_json(found)
    else:
        click.echo(table(found))


@command.command()
@folder_argument
@folder_too_option
@json_option
def report(folder: Path | None, folder_too: Path | None, as_json: bool) -> None:
    """Write the report of the campaign in DIR anew, finished or not."""
    from gace_workflows.campaign import profile
    from gace_workflows.campaign.file import load_campaign
    from gace_workflows.campaign.history import read_history
    from gace_workflows.campaign.outcome import write_report
    from gace_workflows.campaign.progress import find_work_chain

    target = existing(folder, folder_too)
    campaign = load_campaign(target.file)
    profile.open_profile(target.path, campaign.campaign)
    chain = find_work_chain()
    if chain is None:
        raise InputError(f"the campaign in {target.path} has not begun: gace campaign resume {target.path}")
    with disk_errors(target):
        path = write_report(target, campaign, read_history(chain, target.labels))
    if as_json:
        print_json({"report": str(path)})
    else:
        click.echo(str(path))


def checked(
    file: Path, folder: Path | None, overrides: tuple[str, ...]
) -> tuple[Campaign, CampaignFolder, list[Any]]:
    """Read a campaign file and check everything that can be checked before anything is computed."""
    from gace_workflows.campaign.checks import check_campaign
    from gace_workflows.campaign.file import load_campaign
    from gace_workflows.campaign.folder import CampaignFolder

    campaign = load_campaign(file, overrides)
    target = CampaignFolder.at(folder if folder is not None else campaign.campaign)
    return campaign, target, check_campaign(campaign, target)


def existing(folder: Path | None, folder_too: Path | None) -> CampaignFolder:
    """The campaign folder named by the argument, by ``--dir``, or else the working folder.

    Raises:
        InputError: there is none, or two are named.
    """
    from gace_workflows.campaign.folder import CampaignFolder

    if folder is not None and folder_too is not None:
        raise InputError("name the campaign's folder once: as DIR or as --dir DIR")
    target = CampaignFolder.at(folder or folder_too or Path())
    target.require_campaign()
    return target


def carry_out(target: CampaignFolder, as_json: bool) -> None:
    """Keep a campaign in this process to its end."""
    from gace_workflows.campaign.keeper import keep

    try:
        with disk_errors(target):
            summary = keep(target, lambda line: click.echo(line, err=True))
    except KeyboardInterrupt:
        click.echo(f"interrupted; gace campaign resume {target.path} goes on", err=True)
        sys.exit(1)
    click.echo(
        f"{summary['labels']} labels, {summary['generations']} generations, champion {summary['champion']}, "
        f"{summary['wall_seconds'] / 60:.1f} min",
        err=True,
    )
    if as_json:
        print_json(summary)
    else:
        click.echo(summary["report"])


@contextlib.contextmanager
def disk_errors(target: CampaignFolder) -> Iterator[None]:
    """Turn an error of the disk into one line that says how to go on.

    Raises:
        GaceError: the disk is full or broken.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError):
            reason = str(error).partition(";")[0]
        elif isinstance(error, GaceError) or error.errno not in NO_ROOM:
            raise
        else:
            reason = f"cannot write {error.filename or f'in {target.path}'}: {error.strerror}"
        raise GaceError(
            f"{reason}; what was computed is stored: "
            f"with space again, gace campaign resume {target.path} goes on"
        ) from error


def start_keeper(target: CampaignFolder) -> dict[str, Any]:
    """Start a keeper of its own for a campaign and wait until the work chain is submitted.

    Raises:
        InputError: the campaign has a keeper already.
        GaceError: the keeper ended at once; the message is the last line it printed.
    """
    if target.is_kept:
        with target.kept():  # raises with the number of the keeper
            pass
    with target.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gace.cli", "campaign", "resume", str(target.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=target.path,
            env=os.environ.copy(),
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines = target.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise GaceError(
                f"the keeper ended: {lines[-1] if lines else 'it printed nothing'}; see {target.log}"
            )
        state = target.read_state()
        if state.get("keeper") == process.pid and state.get("submitted") == process.pid:
            return {"keeper": process.pid, "work_chain": state.get("work_chain"), "log": str(target.log)}
        time.sleep(0.2)
    raise GaceError(f"the campaign did not start within {START_SECONDS:g} s; see {target.log}")
