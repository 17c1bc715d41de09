"""Optimizers and schedules of timm and torch by name: what they do, and their exact resume."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from halut.errors import HalutError
from halut.replace.schedule import ROLES
from halut.training.optim.lr_schedules import (
    NamedSchedule,
    check_schedule,
    make_schedule,
    timm_schedules,
    torch_schedules,
)
from halut.training.optim.optimizers import (
    check_optimizer,
    has_momentum,
    make_optimizer,
    timm_optimizers,
    torch_optimizers,
)

SOME = ("lamb", "lion", "muon", "adafactor", "rmsprop", "NAdam", "Rprop", "Adafactor")
OTHERS = ("bnb", "fused")
"""Beginnings of names that need a package of their own and a GPU."""


def made(name, seed=0, **options):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3, bias=False)
    )
    rates = dict.fromkeys(ROLES, 1e-2)
    return network, make_optimizer(network, name, rates, rates, options=options)


def trained(network, optimizer, steps):
    for step in steps:
        torch.manual_seed(step)
        x, target = torch.randn(8, 2, 4, 4), torch.randint(3, (8,))

        def closure(x=x, target=target):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x), target)
            loss.backward()
            return loss

        optimizer.step(closure=closure)


def reloaded(state):
    """The state as a checkpoint gives it back: no pickled classes."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumes_exactly(name):
    network, optimizer = made(name)
    before = [p.detach().clone() for p in network.parameters()]
    trained(network, optimizer, range(3))
    assert not all(map(torch.equal, before, network.parameters()))
    state = reloaded({"network": network.state_dict(), "optimizer": optimizer.state_dict()})
    trained(network, optimizer, range(3, 6))
    again, resumed = made(name, seed=1)
    again.load_state_dict(state["network"])
    resumed.load_state_dict(state["optimizer"])
    trained(again, resumed, range(3, 6))
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize("name", SOME)
def test_an_optimizer_by_name_trains_and_resumes_exactly(name):
    check_optimizer(name, {})
    resumes_exactly(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_optimizer_that_is_listed_trains_and_resumes_exactly():
    names = [*timm_optimizers(), *(n for n in torch_optimizers() if n != "Muon")]
    for name in names:
        if not name.startswith(OTHERS):
            resumes_exactly(name)


def test_groups_keep_the_rates_of_their_roles():
    _, optimizer = made("lamb")
    assert {group["role"] for group in optimizer.param_groups} == {"rest"}
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 1e-2}


def test_options_reach_the_class():
    _, optimizer = made("adamw", betas=[0.5, 0.75], eps=1e-3)
    assert all(g["betas"] == (0.5, 0.75) and g["eps"] == 1e-3 for g in optimizer.param_groups)
    _, optimizer = made("lion", betas=[0.5, 0.75])
    assert all(g["betas"] == (0.5, 0.75) for g in optimizer.param_groups)
    _, optimizer = made("sgd", momentum=0.0)
    assert all(g["momentum"] == 0.0 and not g["nesterov"] for g in optimizer.param_groups)


def test_optim_momentum_is_that_of_optimizers_with_momentum():
    assert [has_momentum(n) for n in ("sgd", "rmsprop", "SGD", "adamw", "lion")] == [
        *(True, True),
        *(False, False, False),
    ]
    network, _ = made("sgd")
    rates = dict.fromkeys(ROLES, 1e-2)
    optimizer = make_optimizer(network, "rmsprop", rates, rates, momentum=0.25)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.25}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("adamv", {}, "unknown optim.optimizer 'adamv'; did you mean adam"),
        ("LBFGS", {}, "several times a step"),
        ("sparseadam", {}, "sparse gradients"),
        ("adahessian", {}, "second derivatives"),
        ("lion", {"eps": 1.0}, "no argument optim.optimizer_options.eps; choose from: betas"),
        ("lamb", {"lr": 1.0}, "no argument optim.optimizer_options.lr"),
        ("Adam", {"betas": [2.0, 0.9]}, "optim.optimizer=Adam: Invalid beta"),
        ("Adam", {"eps": "small"}, "optim.optimizer=Adam"),
    ],
)
def test_what_cannot_be_is_refused_by_one_line(name, options, words):
    with pytest.raises(HalutError) as error:
        check_optimizer(name, options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


# -- schedules ------------------------------------------------------------------------------------

STEPS, EPOCHS = 40, 4
OPTIONS = {
    "StepLR": {"step_size": 1, "gamma": 0.5},
    "MultiStepLR": {"milestones": [1, 3], "gamma": 0.5},
    "ExponentialLR": {"gamma": 0.5},
    "CyclicLR": {"base_lr": 0.0, "step_size_up": 7},
    "CosineAnnealingWarmRestarts": {"T_0": 1},
    "ReduceLROnPlateau": {"patience": 0, "factor": 0.5},
    "step": {"decay_t": 1, "decay_rate": 0.5},
    "multistep": {"decay_t": [1, 3], "decay_rate": 0.5},
    "wsd": {"decay_t": 10},
}
"""What schedules cannot do without."""


def scheduled(name, warmup=0.25, interval=None, **options):
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, (2.0, 0.5), strict=True)]
    optimizer = torch.optim.AdamW(groups)
    options = {**OPTIONS.get(name, {}), **options}
    schedule = make_schedule(optimizer, STEPS, warmup, name, 0.0, options, interval, EPOCHS)
    return optimizer, schedule


def rates_of(optimizer, schedule, steps):
    """The rates of both groups at these steps; an epoch's accuracy never improves."""
    rates = []
    for step in steps:
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
        if (step + 1) % (STEPS // EPOCHS) == 0 and isinstance(schedule, NamedSchedule):
            schedule.validated(50.0)
    return rates


def every_schedule():
    return ["cosine", "constant", *torch_schedules(), *timm_schedules()]


@pytest.mark.parametrize("name", every_schedule())
def test_a_schedule_resumes_with_exactly_the_same_rates(name):
    optimizer, schedule = scheduled(name)
    whole = rates_of(optimizer, schedule, range(STEPS))
    assert len(set(map(tuple, whole))) > 1
    for stop in (4, 10, 23):
        optimizer, schedule = scheduled(name)
        rates_of(optimizer, schedule, range(stop))
        state = reloaded({"o": optimizer.state_dict(), "s": schedule.state_dict()})
        again, resumed = scheduled(name)
        again.load_state_dict(state["o"])
        resumed.load_state_dict(state["s"])
        assert rates_of(again, resumed, range(stop, STEPS)) == whole[stop:]


@pytest.mark.parametrize("name", every_schedule())
def test_the_groups_keep_the_ratio_of_their_rates(name):
    rates = rates_of(*scheduled(name), range(STEPS))
    assert [high / low for high, low in rates if low > 1e-6] == pytest.approx(
        [4.0] * sum(low > 1e-6 for _, low in rates)
    )


def high(name, **options):
    """The rate of the first group over its own of 2."""
    return [rates[0] / 2.0 for rates in rates_of(*scheduled(name, **options), range(STEPS))]


def test_ours_warms_every_schedule_up_by_equal_steps():
    for name in ("ExponentialLR", "poly", "CosineAnnealingLR"):
        factors = high(name)
        assert factors[:10] == pytest.approx([(t + 1) / 11 for t in range(10)])
    assert high("CosineAnnealingLR")[10] == 1.0
    assert high("CosineAnnealingLR")[25] == pytest.approx(0.5)  # half of the rest of the fit


def test_schedules_with_a_warmup_of_their_own_have_no_other():
    factors = high("OneCycleLR", pct_start=0.5)
    assert factors[0] == pytest.approx(1 / 25)
    assert max(factors) == pytest.approx(1.0)
    assert factors.index(max(factors)) == 19
    factors = high("poly", warmup_t=20, warmup_lr_init=1.0)
    assert factors[0] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["StepLR", "step"])
def test_steps_of_a_schedule_are_epochs(name):
    factors = high(name, warmup=0.0)
    assert factors == [0.5 ** (t // 10) for t in range(STEPS)]


@pytest.mark.parametrize("name", ["StepLR", "step"])
def test_or_optimizer_steps_by_the_interval(name):
    size = {"StepLR": "step_size", "step": "decay_t"}[name]
    factors = high(name, warmup=0.0, interval="step", **{size: 4})
    assert factors == pytest.approx([0.5 ** (t // 4) for t in range(STEPS)])


def test_a_length_counts_epochs_by_the_interval():
    factors = high("CosineAnnealingLR", warmup=0.0, interval="epoch")
    wanted = [0.5 * (1 + torch.tensor(torch.pi * e / 4).cos().item()) for e in range(4)]
    assert factors == pytest.approx([wanted[t // 10] for t in range(STEPS)])


def test_a_plateau_of_the_accuracy_lowers_the_rate():
    factors = high("ReduceLROnPlateau", warmup=0.0)
    assert factors == [1.0] * 20 + [0.5] * 10 + [0.25] * 10


@pytest.mark.parametrize(
    ("name", "options", "interval", "words"),
    [
        ("cosin", {}, None, "unknown optim.schedule 'cosin'; did you mean cosine"),
        ("LambdaLR", {}, None, "it needs functions"),
        ("SequentialLR", {}, None, "it needs schedulers"),
        ("plateau", {}, None, "ReduceLROnPlateau"),
        ("StepLR", {}, None, "step_size"),
        ("StepLR", {"step": 1}, None, "optim.schedule_options.step; choose from: step_size, gamma"),
        ("OneCycleLR", {"total_steps": 4}, None, "no argument optim.schedule_options.total_steps"),
        ("ReduceLROnPlateau", {}, "step", "counts epochs"),
        ("poly", {"power": "two"}, None, "optim.schedule=poly"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_one_line(name, options, interval, words):
    with pytest.raises(HalutError) as error:
        check_schedule(check_optimizer("adamw", {}), name, options, interval)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("StepLR", {}, r"needs \+optim\.schedule_options\.step_size=VALUE"),
        ("CosineAnnealingWarmRestarts", {}, r"needs \+optim\.schedule_options\.T_0=VALUE"),
        ("MultiStepLR", {"milestones": ["a"]}, "milestones must be a list of positive integers"),
        ("MultiStepLR", {"milestones": 3}, "milestones must be a list of positive integers"),
    ],
)
def test_arguments_that_a_schedule_needs_are_named(name, options, message):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(HalutError, match=message):
        check_schedule(optimizer, name, options)
