"""The keeper: the one process that looks after a campaign from its start (or resumption) to its end.

It starts the campaign's AiiDA daemon and Dask cluster, submits the work chain (or finds it), follows
it, restarts what dies, and in the end writes summary and report. Whatever of it is killed,
:func:`keep` on the same folder goes on: the work chain has its checkpoints in AiiDA's database, the
labels are in their store, and trainings and walkers have their scratch folders.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gace.errors import GaceError
from gace_workflows.campaign import daemon, profile
from gace_workflows.campaign.changes import refuse_changes
from gace_workflows.campaign.file import Campaign, dump_campaign, load_campaign
from gace_workflows.campaign.folder import CampaignFolder

if TYPE_CHECKING:
    from aiida.orm import WorkChainNode

    from gace_platform.cluster import CampaignCluster

POLL_SECONDS = 1.5
LOOK_AFTER_SECONDS = 10.0
NO_WORKERS_SECONDS = 240.0
"""How long the daemon may take to have its first worker before it is started again, s."""

LOST_WORKERS_SECONDS = 30.0
"""How long a daemon that had workers may be without any before it is started again, s."""

CLOCK_SECONDS = 10.0
"""By how much the machine's clock may be set back before the daemon is started again, s."""

LOOPS = 3
"""Work chains submitted one after another when AiiDA's engine itself meets an exception."""

Tell = Callable[[str], None]


class CampaignFailedError(GaceError, RuntimeError):
    """The campaign's work chain ended without a potential; the message names the step and the reason."""


def keep(folder: CampaignFolder, tell: Tell) -> dict[str, Any]:
    """Carry a prepared campaign to its end; returns the summary.

    Args:
        folder: a folder with a frozen campaign file.
        tell: takes each line of progress.

    Raises:
        InputError: another process keeps this campaign, or its file was changed since its work chain began.
        CampaignFailedError: a step failed for good.
    """
    from gace_workflows.campaign.outcome import finish

    folder.require_campaign()
    campaign = load_campaign(folder.file)
    with folder.kept(), stops_on_signals():
        interrupted = bool(folder.read_state().get("sessions"))
        folder.open_session()
        profile.open_profile(folder.path, campaign.campaign, campaign.aiida)
        if interrupted:
            # what an earlier keeper left behind: orphans, stale files, processes without a task
            daemon.stop_daemon(folder.path)
            daemon.repair(folder.path, campaign.campaign)
        with cluster_of(folder, campaign) as care, daemon_of(folder):
            tell(f"AiiDA   {profile.verdi_hint(folder.path, campaign.campaign)}")
            if care.cluster.dashboard:
                tell(f"Dask    {care.cluster.dashboard}")
            for _ in range(LOOPS):
                chain = find_or_submit(folder, campaign, tell)
                folder.update_state(submitted=os.getpid())
                follow(chain, folder, care, tell)
                if not chain.is_excepted:
                    break
                tell("the work chain met an exception; another goes on with all that was computed")
        if not chain.is_finished_ok:
            reason = chain.exit_message or str(chain.exception or "it was killed").strip().splitlines()[-1]
            raise CampaignFailedError(
                f"campaign {campaign.campaign}: {reason}; gace campaign resume {folder.path} tries again"
            )
        folder.touch_session()
        return finish(folder, campaign, chain, tell)


def find_or_submit(folder: CampaignFolder, campaign: Campaign, tell: Tell) -> WorkChainNode:
    """The campaign's work chain: the one under way or ended well, else a new one.

    A new one after a failure repeats no label and no finished training: stores and scratch know them.
    """
    from aiida import orm
    from aiida.engine import submit

    from aiida_gace.data.dataset import DatasetData
    from gace_workflows.active_learning import ActiveLearningWorkChain
    from gace_workflows.campaign.checks import starting_structures
    from gace_workflows.campaign.progress import find_work_chain

    chain = find_work_chain()
    if chain is not None and (not chain.is_terminated or chain.is_finished_ok):
        if not chain.is_terminated:
            refuse_changes(chain.inputs.campaign.get_dict(), dump_campaign(campaign), folder.file)
        tell(f"resuming {campaign.campaign}, process {chain.pk}")
        folder.update_state(work_chain=chain.uuid)
        return chain
    start = DatasetData(starting_structures(campaign)).store()
    start.label = f"{campaign.campaign}: start"
    chain = submit(
        ActiveLearningWorkChain,
        code=profile.gace_code(),
        campaign=orm.Dict(dump_campaign(campaign)),
        places=orm.Dict(folder.places()),
        start=start,
        metadata={"label": f"campaign {campaign.campaign}", "description": campaign.description},
    )
    folder.update_state(work_chain=chain.uuid, pk=chain.pk)
    tell(f"campaign {campaign.campaign}, process {chain.pk}")
    return chain


class ClusterCare:
    """The campaign's Dask cluster, restarted when it dies."""

    def __init__(self, folder: CampaignFolder, campaign: Campaign) -> None:
        self.folder = folder
        self.campaign = campaign
        self.cluster = self._start()

    def _start(self) -> CampaignCluster:
        from gace_platform.cluster import start_local

        settings = self.campaign.cluster
        return start_local(self.folder.cluster, workers=settings.workers, dashboard=settings.dashboard)

    def look_after(self) -> bool:
        """Restart the cluster if it died; returns whether it had."""
        if self.cluster.alive:
            return False
        self.cluster = self._start()
        return True


@contextlib.contextmanager
def cluster_of(folder: CampaignFolder, campaign: Campaign) -> Iterator[ClusterCare]:
    """The campaign's Dask cluster, ended at the end."""
    care = ClusterCare(folder, campaign)
    try:
        yield care
    finally:
        care.cluster.close()


@contextlib.contextmanager
def daemon_of(folder: CampaignFolder) -> Iterator[None]:
    """The campaign's AiiDA daemon; stopped at the end, with the jobs that still run after an interruption."""
    daemon.start_daemon()
    try:
        yield
    finally:
        daemon.stop_daemon(folder.path)
        daemon.end_jobs(folder.path)


class DaemonCare:
    """The campaign's AiiDA daemon, restarted when it, its broker, all of its workers or all tasks are gone.

    Also when the machine's clock was set back: AiiDA asks for its jobs when the clock says that it is time,
    and would wait until the clock is again where it was.
    """

    def __init__(self, folder: CampaignFolder, campaign: Campaign) -> None:
        self.folder = folder
        self.campaign = campaign
        self.seen = time.monotonic()
        self.had_workers = False
        self.clock = time.time() - time.monotonic()

    def look_after(self) -> bool:
        """Restart the daemon if it is gone; returns whether it was."""
        clock = time.time() - time.monotonic()
        set_back = clock < self.clock - CLOCK_SECONDS
        self.clock = max(clock, self.clock)
        if daemon.daemon_runs() and not set_back:
            if daemon.daemon_workers() and daemon.has_tasks():
                self.seen = time.monotonic()
                self.had_workers = True
            # workers take a while to start, and those that lost their broker never find the next one
            patience = LOST_WORKERS_SECONDS if self.had_workers else NO_WORKERS_SECONDS
            if time.monotonic() - self.seen < patience:
                return False
        daemon.stop_daemon(self.folder.path)
        daemon.repair(self.folder.path, self.campaign.campaign)
        daemon.start_daemon()
        self.seen, self.had_workers, self.clock = time.monotonic(), False, clock
        return True


def follow(chain: WorkChainNode, folder: CampaignFolder, care: ClusterCare, tell: Tell) -> None:
    """Tell what happens until the work chain has ended; look after daemon and cluster meanwhile."""
    from sqlalchemy.exc import OperationalError

    from gace_workflows.campaign.progress import news

    told: set[str] = set()
    if known := news(chain, told):
        tell(f"{sum(line.startswith('✓') for line in known)} steps were done before")
    daemon_care = DaemonCare(folder, care.campaign)
    checked = time.monotonic()
    while True:
        # on a starved machine a look at the database may fail; the next one will not
        with contextlib.suppress(OperationalError):
            ended = chain.is_terminated
            for line in news(chain, told):
                tell(line)
            if ended:
                return
        if time.monotonic() - checked > LOOK_AFTER_SECONDS:
            checked = time.monotonic()
            folder.touch_session()
            if care.look_after():
                tell("the Dask cluster had died and was started again")
            if daemon_care.look_after():
                tell("the AiiDA daemon had died or was out of time, and was started again")
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def stops_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an orderly end."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["CampaignFailedError", "keep"]
