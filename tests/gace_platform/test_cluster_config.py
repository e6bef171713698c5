import pytest

from gace.config import Closed, parse_config
from gace.errors import InputError
from gace_platform.cluster.config import Address, ClusterConfig, Local, Slurm, resolve_paths


class File(Closed):
    cluster: ClusterConfig = Local()


def parse(**cluster):
    return parse_config({"cluster": cluster}, File).cluster


def test_the_provider_chooses_the_model():
    assert parse(provider="slurm", queue="long", workers=3) == Slurm(
        provider="slurm", queue="long", workers=3
    )


def test_without_a_section_one_local_worker_is_used():
    assert parse_config({}, File).cluster == Local(workers=1)


def test_the_default_provider_need_not_be_named():
    assert parse(workers=2) == Local(workers=2)


def test_an_unknown_key_names_the_nearest_one():
    with pytest.raises(InputError, match="did you mean 'workers'"):
        parse(provider="local", worker=2)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"provider": "local", "workers": 0}, "greater than 0"),
        ({"provider": "local", "workers": -1}, "greater than 0"),
        ({"provider": "kubernetes"}, "provider"),
        ({"provider": "address"}, "either address or scheduler_file"),
        ({"provider": "address", "address": "127.0.0.1"}, "address"),
        ({"provider": "address", "address": "tls://h:1", "tls_ca": "ca.pem"}, "tls_cert"),
        ({"provider": "local-gpu", "gpus": [0, 0]}, "each once"),
        ({"provider": "slurm", "walltime": "tomorrow"}, "walltime"),
        ({"provider": "local", "dashboard": 70000}, "65535"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(section, message):
    with pytest.raises(InputError, match=message):
        parse(**section)


def test_relative_paths_are_those_of_the_file(tmp_path):
    config = resolve_paths(Address(provider="address", scheduler_file="run/scheduler.json"), tmp_path)
    assert config.scheduler_file == tmp_path / "run/scheduler.json"


def test_slurm_job_script_asks_for_what_the_section_says():
    from gace_platform.cluster.provider import slurm_cluster

    pytest.importorskip("dask_jobqueue")
    config = Slurm(
        provider="slurm",
        queue="gpu",
        account="physics",
        cores=4,
        memory="16GB",
        walltime="02:00:00",
        gpus_per_worker=1,
        interface="lo",
        directives=("--constraint=a100",),
        prologue=("module load cuda",),
    )
    with slurm_cluster(config) as cluster:
        script = cluster.job_script()
    for line in (
        "#SBATCH -p gpu",
        "#SBATCH -A physics",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=15G",
        "#SBATCH -t 02:00:00",
        "#SBATCH --constraint=a100",
        "#SBATCH --gpus=1",
        "export OMP_NUM_THREADS=4",
        "module load cuda",
        "--nthreads 1",
        "--resources GPU=1",
    ):
        assert line in script


def test_slurm_workers_on_a_network_are_encrypted(tmp_path):
    from gace_platform.cluster.provider import slurm_cluster

    pytest.importorskip("dask_jobqueue")
    with slurm_cluster(Slurm(provider="slurm", shared_folder=tmp_path)) as cluster:
        assert cluster.scheduler_address.startswith("tls://")
        script = cluster.job_script()
    assert f"--tls-ca-file {tmp_path}" in script
    assert "--tls-key" in script


def test_slurm_without_sbatch_is_wrong_input(monkeypatch, tmp_path):
    from gace_platform.cluster import connect

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sbatch"), connect(Slurm(provider="slurm")):
        pass


def test_a_gpu_worker_sees_its_own_device_only():
    from gace_platform.cluster.provider import gpu_worker_options

    assert gpu_worker_options(3)["env"] == {"CUDA_VISIBLE_DEVICES": "3"}
