"""Several processes: what they tell each other, and that together they compute what one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from unet_pipeline import distributed
from unet_pipeline.distributed import World, open_world
from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.training.losses import LOSSES

# five Python processes import torch, some one after the other
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parent.parent
Facts = dict[str, Any]

EXACT = {
    "ce": True,
    "dice": True,
    "jaccard": True,
    "tversky": True,
    "focal_tversky": True,
    "lovasz": False,  # each process sorts its own errors
    "mcc": True,
    "focal": True,
    "topk": False,  # each chooses the hardest of its own pixels
    "ohem": True,  # where the threshold chooses; min_fraction is a share of a process's own
    "border_ce": True,
    "bce": True,
    "soft_margin": True,
    "l1": True,
    "mse": True,
    "smooth_l1": True,
    "kl_div": True,
    "poisson_nll": True,
    "multi_margin": True,
    "multilabel_margin": True,
}
"""Whether two processes compute the loss, and its gradient, that one has of the whole batch."""

NOT_EXACT = {f"uneven {name} {{}}" for name, exact in EXACT.items() if not exact} | {
    'uneven topk {"fraction": 0.6}',
    'uneven ohem {"threshold": 0.3, "min_fraction": 0.95}',
}
"""The cases of `distributed_training` that are none of these; void has nothing to sort."""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    """What the processes of a torchrun wrote, by attempt and rank: `restarted 1`.

    Rank 1 of the first attempt was killed, and wrote nothing.
    """
    folder = tmp_path_factory.mktemp("distributed")
    options = "--nproc-per-node 2 --max-restarts 1"
    options += " --rdzv-backend c10d --rdzv-endpoint localhost:0"  # any free port
    command = f"-m torch.distributed.run {options} -m tests.distributed_cases".split()
    done = subprocess.run(
        [sys.executable, *command, str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.fixture
def pair(facts: dict[str, Facts]) -> list[Facts]:
    """What the two processes found that went through all cases, by rank."""
    return [facts["restarted 0"], facts["restarted 1"]]


# ---- alone


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that no torchrun has made."""
    for name in [*os.environ]:
        if name.startswith("TORCHELASTIC_") or name in (
            "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"
        ):  # fmt: skip
            monkeypatch.delenv(name)
    return monkeypatch


def test_alone_there_is_no_group_and_everything_is_as_given(alone: pytest.MonkeyPatch) -> None:
    tensor = torch.tensor([1, 2])
    with open_world(torch.device("cpu")) as world:
        assert world == World(rank=0, local_rank=0, size=1)
        assert world.is_main
        assert not distributed.is_connected()
        assert distributed.num_processes() == 1
        assert distributed.all_reduce_sum(tensor) is tensor
        assert distributed.any_rank(True)
        assert not distributed.any_rank(False)
        assert distributed.agree_max(2.5) == 2.5
        assert distributed.broadcast_object("a") == "a"
        assert distributed.gather_objects("a") == ["a"]
        with distributed.main_first():
            pass
    assert distributed.job_id() is None
    assert distributed.restart_count() == 0


def test_importing_it_and_asking_who_one_is_loads_no_torch(alone: pytest.MonkeyPatch) -> None:
    code = """if True:
        import sys
        from unet_pipeline import distributed
        with distributed.open_world("cuda") as world:
            assert distributed.broadcast_object(world.is_main)
            assert not distributed.any_rank(False)
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_process_knows_how_many_share_its_machine(alone: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "16"), ("RANK", "9"), ("LOCAL_RANK", "1")):
        alone.setenv(name, value)
    assert distributed.world_of_environment() == World(9, 1, 16, local_size=16)
    alone.setenv("LOCAL_WORLD_SIZE", "8")
    assert distributed.world_of_environment() == World(9, 1, 16, local_size=8)


def test_a_single_process_of_torchrun_is_alone_but_has_a_job(alone: pytest.MonkeyPatch) -> None:
    alone.setenv("WORLD_SIZE", "1")
    alone.setenv("RANK", "0")
    alone.setenv("TORCHELASTIC_RUN_ID", "mine")
    alone.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    with open_world("cpu") as world:
        assert world.size == 1
        assert not distributed.is_connected()
    assert distributed.job_id() == "mine"
    assert distributed.restart_count() == 2


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK is not set: start processes with torchrun"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE = 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK = '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "ranks go from 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": ""}, "LOCAL_RANK = ''"),
    ],
)
def test_an_environment_that_half_says_who_this_is_is_refused_in_one_line(
    alone: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        alone.setenv(name, value)
    with pytest.raises(UserError) as caught, open_world("cpu"):
        pass
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_processes_do_not_share_a_device_that_only_one_can_use(
    alone: pytest.MonkeyPatch, device: str
) -> None:
    alone.setenv("WORLD_SIZE", "2")
    alone.setenv("RANK", "0")
    with pytest.raises(UserError, match=f"device '{device}' with 2 processes: use"):
        open_world(device).__enter__()


def test_more_processes_than_gpus_are_refused(alone: pytest.MonkeyPatch) -> None:
    alone.setenv("WORLD_SIZE", "99")
    alone.setenv("RANK", "98")
    alone.setenv("LOCAL_RANK", "98")
    with pytest.raises(UserError, match="process 99 of this machine has no GPU"):
        open_world(torch.device("cuda")).__enter__()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_whose_partner_never_comes_gives_up_in_one_line(
    alone: pytest.MonkeyPatch, rank: int
) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        alone.setenv("MASTER_PORT", str(probe.getsockname()[1]))
    alone.setenv("MASTER_ADDR", "localhost")
    alone.setenv("WORLD_SIZE", "2")
    alone.setenv("RANK", str(rank))
    with pytest.raises(ResourceError) as caught, open_world("cpu", timeout_seconds=0.2):
        pass
    assert f"process {rank} of 2" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not distributed.is_connected()


# ---- the job


def test_a_job_without_a_name_is_named_by_its_launch(alone: pytest.MonkeyPatch) -> None:
    alone.setenv("TORCHELASTIC_RUN_ID", "none")
    names = set()
    for launch in ("torchelastic_a/none_x", "torchelastic_a/none_y", "torchelastic_b/none_x"):
        for attempt, rank in ((0, 0), (0, 1), (1, 0)):
            path = f"/tmp/{launch}/attempt_{attempt}/{rank}/error.json"
            alone.setenv("TORCHELASTIC_ERROR_FILE", path)
            names.add(distributed.job_id())
    assert len(names) == 3
    alone.delenv("TORCHELASTIC_ERROR_FILE")  # as a launcher of another kind may leave it
    alone.setenv("MASTER_ADDR", "here")
    alone.setenv("MASTER_PORT", "29500")
    assert distributed.job_id() == f"here-29500-{os.getppid()}"


def test_a_job_has_one_name_in_all_processes_and_after_a_restart(facts: dict[str, Facts]) -> None:
    assert sorted(facts) == ["killed 0", "restarted 0", "restarted 1"]
    assert len({found["job_id"] for found in facts.values()}) == 1
    assert facts["killed 0"]["restart_count"] == 0
    assert facts["restarted 0"]["restart_count"] == facts["restarted 1"]["restart_count"] == 1


# ---- together


def test_each_process_knows_its_place(pair: list[Facts]) -> None:
    assert pair[0]["talk"]["world"] == [0, 0, 2, True]
    assert pair[1]["talk"]["world"] == [1, 1, 2, False]
    assert [found["talk"]["num_processes"] for found in pair] == [2, 2]


def test_what_processes_tell_each_other_is_the_same_in_both(pair: list[Facts]) -> None:
    for found in (pair[0]["talk"], pair[1]["talk"]):
        assert found["broadcast"] == {"from": 0}
        assert found["gathered"] == ["of 0", "of 1"]
        assert found["shares"] == [[0, 2, 4, 6], [1, 3, 5]]
        assert found["any"] == [True, False]
        assert found["max"] == 1.1


def test_sums_of_counts_are_exact_and_leave_the_counts(pair: list[Facts]) -> None:
    for rank, found in enumerate(pair):
        assert found["talk"]["sum"] == [[2**61, 10], [1, 14]]
        assert found["talk"]["summed"] == [[2**60, rank], [5, 7]]


def test_a_world_in_a_world_is_the_same_one_and_stays_open(pair: list[Facts]) -> None:
    for found in pair:
        assert found["talk"]["nested"] == {"size": 2, "connected_after": True}
        assert not found["connected_after"]


def test_the_main_process_goes_first(pair: list[Facts]) -> None:
    assert [found["order"]["there"] for found in pair] == [False, True]


def test_an_error_goes_its_way_and_the_others_have_one_line(
    facts: dict[str, Facts], pair: list[Facts]
) -> None:
    main, other = pair
    assert main["main_failed"] == "UserError: cannot read it"
    assert other["main_failed"] == "ResourceError: the main process has failed: see its message"
    assert other["other_failed"] == "UserError: cannot read it"
    assert facts["killed 0"]["caught"] == [main["other_failed"]]  # it cannot know which it was
    assert main["other_failed"].startswith("ResourceError: process 0 of 2 has lost another one")
    assert "\n" not in main["other_failed"]


@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, 3), (7, 3), (9, 3), (5, 1)])
def test_shares_of_a_list_are_equal_but_for_one_and_have_each_item_once(
    count: int, size: int
) -> None:
    shares = [distributed.shard(range(count), rank, size) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == list(range(count))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


# ---- losses and steps


def cases(pair: list[Facts]) -> list[tuple[str, Facts, Facts]]:
    """(case, what rank 0 found, what rank 1 found): every loss with every option."""
    first, second = (found["losses"] for found in pair)
    assert first.keys() == second.keys()
    assert {case.split()[1] for case in first} == LOSSES.keys() == EXACT.keys()
    return [(case, first[case], second[case]) for case in first]


def test_the_gradient_of_an_exact_loss_is_that_of_the_whole_batch(pair: list[Facts]) -> None:
    for case, *found in cases(pair):
        if case not in NOT_EXACT:
            assert max(of["apart"] for of in found) <= 1e-6, case
            assert found[0]["value"] == pytest.approx(found[0]["whole"], abs=1e-6), case


def test_a_loss_that_sorts_is_not_exact_and_is_known_for_it(pair: list[Facts]) -> None:
    apart = {case for case, *found in cases(pair) if max(of["apart"] for of in found) > 1e-3}
    assert apart == NOT_EXACT


def test_a_loss_has_one_value_in_all_processes(pair: list[Facts]) -> None:
    for case, first, second in cases(pair):
        assert first["value"] == second["value"], case


def test_a_loss_without_a_gradient_is_that_of_the_own_part(pair: list[Facts]) -> None:
    for found in pair:
        assert found["quiet"]["value"] == pytest.approx(found["quiet"]["own"], abs=1e-6)
    assert pair[0]["quiet"]["value"] != pytest.approx(pair[1]["quiet"]["value"], abs=1e-3)


def test_ten_steps_of_two_processes_lead_where_one_gets_with_the_whole_batch(
    pair: list[Facts],
) -> None:
    for found in pair:
        assert found["steps"]["apart"] <= 1e-5
        assert found["steps"]["moved"] > 1e-3
