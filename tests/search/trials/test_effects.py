"""Every key of a space changes the network, the plan or the training, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from halut.errors import HalutError
from halut.search.trials.command import parser, request_of
from halut.search.trials.effects import check_effects
from halut.search.trials.planner import Planner
from halut.search.trials.space import space_of

CONF = Path(__file__).parents[3] / "conf" / "experiment"
SHIPPED = [
    path.stem
    for path in sorted(CONF.glob("*.yaml"))
    if OmegaConf.select(OmegaConf.load(path), "search.sampler")
]
FIXED = ["data=digits", "data.train_samples=64", "model.options.width=4"]


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner()


@pytest.mark.parametrize(
    "word",
    [
        "+model.options.identity=[],[stack1.conv1]",
        "halut=tree,pq",
        "halut.V=4,9",
        "policy.keep=[],[stack3.*]",
        "schedule=front_to_back,all_at_once",
        "schedule.per_stage=1,3",
        "optim.lr.table+optim.lr.rest=tag(log,interval(1e-4,1e-2))",
        "base.epochs=1,2",
        "data.batch_size=16,32",
        "loss.features=0,1",
    ],
)
def test_keys_that_matter_pass(planner, word):
    check_effects(space_of([*FIXED, word], {}, []), planner)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["policy.keep=[],[conv1]"], "policy.keep has no effect: neither network nor plan"),
        (["policy.share=false,true"], "policy.share has no effect"),
        (["trainer.threads=1,2"], "trainer.threads cannot be searched: it says how a run is kept"),
        (["schedule.blocks=[stack1],[stack2]"], "schedule.blocks"),
        (["schedule.cache=a,b"], "schedule.cache cannot be searched"),
        (["model.options.wide=1,2"], "wide"),
        (["modl.options.width=4,8"], "modl"),
        (["model=resnet8,resnet_8"], "resnet_8"),
        (["loss.temperature=1,2", "loss.distill=0"], "loss.temperature.*no effect"),
        (["halut.V=4,8 if halut=tre", "halut=tree,pq"], "unknown value 'tre'"),
        (["model.options.width=4,4"], "one value|has no effect"),
        (["policy.per_stage=1,2"], "per_stage"),
    ],
)
def test_keys_that_do_not_are_refused(planner, words, says):
    with pytest.raises(HalutError, match=says):
        check_effects(space_of([*FIXED, *words], {}, []), planner)


def test_a_conditional_key_is_tried_where_it_is_there(planner):
    words = ["halut=integer,tree", "halut.V=4,8 if halut=tree", "halut.width=4,8 if halut=integer"]
    check_effects(space_of([*FIXED, *words], {}, []), planner)
    with pytest.raises(HalutError, match="width"):
        check_effects(
            space_of([*FIXED, words[0], "halut.width=4,8 if halut=tree"], {}, []), planner
        )


@pytest.mark.slow  # builds the networks of each space
@pytest.mark.parametrize("name", SHIPPED)
def test_every_key_of_a_shipped_space_has_an_effect(name):
    planner = Planner()
    request = request_of(parser().parse_args([f"experiment={name}"]), planner)
    for spec in {spec.curve: spec for spec in request.specs}.values():
        check_effects(spec.space, planner)


def test_there_are_shipped_spaces():
    assert {"nas_grid_tpe", "nas_compression_aware", "mixed_precision_formats"} <= set(SHIPPED)
