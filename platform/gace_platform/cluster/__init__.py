"""Dask clusters: where the work runs, and the supervision of the subprocesses that do it."""

from gace_platform.cluster.config import Address, ClusterConfig, Local, LocalGpu, Slurm
from gace_platform.cluster.jobs import Job, Outcome, run_jobs
from gace_platform.cluster.provider import connect
from gace_platform.cluster.service import CampaignCluster, start_local

__all__ = [
    "Address",
    "CampaignCluster",
    "ClusterConfig",
    "Job",
    "Local",
    "LocalGpu",
    "Outcome",
    "Slurm",
    "connect",
    "run_jobs",
    "start_local",
]
