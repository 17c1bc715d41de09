"""hydra/launcher=slurm: what is derived, what is refused, and the script it would submit."""

from __future__ import annotations

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from halut.errors import HalutError
from halut.training.cluster import slurm
from halut.training.cluster.launcher import resources
from halut.training.cluster.slurm import Step
from halut.training.config.trainer_config import TrainerConfig

SWEEP = ("-m", "hydra/launcher=slurm", "halut.C=16,32,64")


@pytest.fixture(autouse=True)
def _at_home(monkeypatch, tmp_path):
    """No SLURM around; sweeps go to a folder of their own."""
    for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def script(train, *options: str) -> list[str]:
    pytest.importorskip("submitit")
    outcome = train(*SWEEP, "hydra.launcher.dry_run=true", *options)
    assert outcome.code == 0, outcome.err
    return outcome.out.splitlines()


def test_a_dry_run_prints_the_script_and_submits_nothing(train, tmp_path):
    more = ("trainer.devices=4", "trainer.num_nodes=2", "run_dir=sweep")
    place = ("hydra.launcher.partition=gpu", "hydra.launcher.account=lab")
    setup = "hydra.launcher.setup=[module load cuda,source venv/bin/activate]"
    mail = "+hydra.launcher.additional_parameters.mail-user=me"
    lines = script(train, *more, *place, setup, mail)
    for wished in (
        "partition=gpu", "account=lab", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4",
        "signal=USR2@120", "requeue", "open-mode=append", "time=240", "mail-user=me",
    ):  # fmt: skip
        assert f"#SBATCH --{wished}" in lines
    order = ["module load cuda", "source venv/bin/activate", "export SLURM_KILL_BAD_EXIT=1"]
    assert [line for line in lines if line in order] == order
    assert any(line.startswith("srun ") for line in lines)
    assert "#SBATCH --array=0-2%3" in lines
    assert not (tmp_path / "sweep").exists()


def test_cpu_jobs_ask_for_no_gpus(train):
    assert not any("--gpus" in line for line in script(train, "trainer.accelerator=cpu"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("trainer.devices=2", "hydra.launcher.tasks_per_node=3"), "need tasks_per_node=2"),
        (("trainer.accelerator=cpu", "hydra.launcher.gpus_per_node=1"), "need gpus_per_node=None"),
        (("hydra.launcher.nodes=2",), "trainer.num_nodes=1"),
        (("trainer.devices=1,2",), "all jobs of a multirun have the same tasks"),
    ],
)
def test_what_cannot_fit_is_refused_before_anything_is_submitted(train, options, says):
    pytest.importorskip("submitit")
    outcome = train(*SWEEP, *options)
    assert outcome.code == 1
    assert says in outcome.err


@pytest.mark.parametrize(
    ("srun", "sbatch", "says"),
    [
        (None, None, 'Could not detect "srun"'),
        ("exit 0", None, "sbatch: not found"),
        (
            "exit 0",
            "echo 'sbatch: error: invalid partition' >&2\necho 'sbatch: error: failed' >&2\nexit 1",
            "sbatch: error: invalid partition",
        ),
        ("exit 0", "echo hello", 'Could not make sense of sbatch output "hello"'),
    ],
)
def test_what_sbatch_and_submitit_refuse_is_one_line(
    train, monkeypatch, tmp_path, srun, sbatch, says
):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, script in (("srun", srun), ("sbatch", sbatch)):
        if script is not None:
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
    outcome = train(*SWEEP, "run_dir=sweep")
    assert outcome.code == 1
    assert outcome.err.startswith("error: hydra/launcher=slurm: ")
    assert says in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "sweep" / "run.lock").exists()


def test_without_submitit_one_error_names_what_to_install(train, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = train(*SWEEP)
    assert (outcome.code, "pip install 'halut[slurm]'" in outcome.err) == (1, True)


@pytest.mark.parametrize("trainer", ["trainer=ddp", "trainer=fsdp"])
def test_ranks_of_a_multirun_are_refused_with_the_right_commands(train, trainer):
    outcome = train("-m", trainer, "halut.C=16,32")
    assert outcome.code == 1
    message = f"-m {trainer} halut.C=16,32"
    assert f"python train.py hydra/launcher=slurm {message}" in outcome.err
    assert f"torchrun --nproc-per-node=2 train.py {message}" in outcome.err


def test_a_wrong_launcher_option_is_refused(train, capsys):
    outcome = train(*SWEEP, "hydra.launcher.partitions=x")
    assert outcome.code == 1
    assert "partitions" in outcome.err


def test_tasks_are_the_devices():
    launcher_config = OmegaConf.create(
        {"nodes": None, "tasks_per_node": None, "gpus_per_node": None}
    )
    trainer = TrainerConfig(devices=8, num_nodes=2)
    assert resources(trainer, launcher_config) == {
        "nodes": 2,
        "tasks_per_node": 8,
        "gpus_per_node": 8,
    }
    with pytest.raises(HalutError, match="leave it out"):
        resources(trainer, {**launcher_config, "tasks_per_node": 1})


# -- a step of srun --------------------------------------------------------------------------------


def step(monkeypatch, tasks: int, nodes: int = 1, rank: int = 0) -> None:
    for name, value in {
        "SLURM_JOB_ID": "70042",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": tasks,
        "SLURM_STEP_NUM_NODES": nodes,
        "SLURM_NTASKS_PER_NODE": tasks // nodes,
        "SLURM_PROCID": rank,
        "SLURM_LOCALID": rank % (tasks // nodes),
        "SLURM_STEP_NODELIST": "node[3-4,7]",
    }.items():
        monkeypatch.setenv(name, str(value))


def test_a_task_takes_its_rank_from_srun(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "x")  # to be put back afterwards
        monkeypatch.delenv(name)
    step(monkeypatch, tasks=4, nodes=2, rank=3)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    slurm.export_torchrun_env()
    import os

    environment = {name: os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    assert environment == {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node3", "15042")
    assert slurm.step() == Step(3, 1, 4, 2)
    slurm.check_step(TrainerConfig(devices=2, num_nodes=2, accelerator="cpu"), "python train.py")


def test_a_batch_script_is_no_step(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert slurm.step() is None
    with pytest.raises(HalutError, match=r"srun --nodes=1 --ntasks-per-node=2 .* python train.py"):
        slurm.check_step(TrainerConfig(devices=2, ranks="srun"), "python train.py")
    slurm.check_step(TrainerConfig(devices=2), "python train.py")  # it starts its own processes


def test_tasks_unlike_the_devices_are_refused(monkeypatch):
    step(monkeypatch, tasks=4)
    with pytest.raises(HalutError, match=r"srun started 4 tasks on 1 nodes.*ntasks-per-node=2"):
        slurm.check_step(TrainerConfig(devices=2, accelerator="cpu"), "python train.py")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(HalutError, match="how many tasks run on each node"):
        slurm.check_step(TrainerConfig(devices=4, accelerator="cpu"), "python train.py")


def test_trainer_slurm_takes_devices_and_nodes_from_the_allocation(monkeypatch):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from halut.training.config.hydra_schemas import conf_dir, register

    register()
    GlobalHydra.instance().clear()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    monkeypatch.setenv("SLURM_NNODES", "2")
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        trainer = OmegaConf.to_object(compose("train", ["trainer=slurm"]).trainer)
        with pytest.raises(HydraException):
            compose("train", ["trainer=slurm", "trainer.ranks=[]"])
    assert (trainer.devices, trainer.num_nodes, trainer.ranks) == (4, 2, "srun")
