"""Public verbs: replace the products of any network, train, measure, save and load it.

    plan = halut.replace_(network, halut.Tree(C=16), calibration=loader)
    optimizer = torch.optim.AdamW(halut.param_groups(network, lr=1e-3))
    halut.attach(optimizer, network, steps=1000)

Batches are what a loader yields, (inputs, targets, ...), inputs, mappings or halut.Calls, or a
forward loop: a function that runs the network on whatever its forward takes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from halut import bundle
from halut.analysis.energy import DEFAULT, load_energies
from halut.analysis.network_cost import exact_cost, layer_costs, macs_outside, replaced_cost
from halut.analysis.plan_cost import VariantCost
from halut.analysis.plan_cost import plan_cost as cost_variants
from halut.configs import Config
from halut.errors import HalutError
from halut.io import write_folder
from halut.option import unknown
from halut.replace import swap
from halut.replace.after_step import after_step as after_layers_step
from halut.replace.global_pruning import with_global_pruning
from halut.replace.liveness import prove
from halut.replace.policy import Rule, excluding_rules, merge_options, resolve, simple_rules
from halut.replace.schedule import CALIBRATE
from halut.replace.sharing import same_inputs, with_sharing
from halut.sites.attention import KIND, expose_attention, unexposed
from halut.sites.calibration import capture
from halut.sites.calls import Batches, Call, example_call, first_call, is_loop
from halut.sites.find import Site, Unsupported, find_sites
from halut.sites.modules import restored_on_error
from halut.sites.plan import KEEP, Entry, Plan

RuleLike = Rule | tuple[str, Config | str | None]
"""A Rule, or (name pattern, its configuration); "keep", or None: the sites stay exact."""


def replace_(
    network: nn.Module,
    config: Config | None = None,
    calibration: Batches | None = None,
    *,
    rules: Sequence[RuleLike] = (),
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    keep_first: bool = True,
    keep_last: bool = True,
    keep_depthwise: bool = True,
    share: bool = False,
    calibrate: str = "asymmetric",
    rows: int = 65_536,
    seed: int = 0,
) -> Plan:
    """Replace the matrix products of `network` in place by what `config` says, learned from data.

    Args:
        network: any module of Linear and Conv2d layers; it stays on its devices and in its modes.
        config: what a product becomes, such as `halut.Tree(C=16)`; None: only what `rules` say.
        calibration: batches (see halut.api), or a forward loop.
        rules: (name pattern, configuration) pairs, or halut.Rules, asked in order before `config`:
            [("layer4.*", halut.PQ()), ("head", "keep")]. Patterns are globs, or regular
            expressions between slashes.
        keep: name patterns of layers that stay exact.
        only: name patterns of the layers to replace, whatever `rules` say; all of them by default.
        keep_first: whether the first layer stays exact where no rule means it.
        keep_last: whether the last one does.
        keep_depthwise: whether depthwise convolutions do.
        share: layers that read the very same input get one encoder.
        calibrate: "replaced": layer after layer, on the inputs it gets from those replaced before
            it, one pass over the batches for each; "asymmetric": likewise, and tables answer what
            the exact network does, whose rows of all layers are held meanwhile; "original": on the
            inputs of the exact network, one pass in all.
        rows: calibration rows of a layer, a uniform sample of all it sees.
        seed: of that sample, and of learning.

    Returns the plan: what every layer became, or why it stayed.
    Raises HalutError, with the network as it was, if an option does not fit a layer, nothing would
    be replaced, activations are not finite, or a replaced layer would not be used by the network.

    >>> network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    >>> _ = network.append(nn.Linear(8, 2))
    >>> import halut
    >>> plan = halut.replace_(network, halut.Tree(K=4), [torch.randn(64, 8)])
    >>> [entry.site.name for entry in plan.replaced]
    ['2']
    """
    if calibration is None:
        raise HalutError("calibration is missing: batches, or a function that runs the network")
    if isinstance(calibration, Tensor):
        raise HalutError("calibration is one tensor; batches are a list of them: [x]")
    if calibrate not in CALIBRATE:
        raise HalutError(unknown("calibrate", calibrate, CALIBRATE))
    if not is_loop(calibration) and iter(calibration) is calibration:  # type: ignore[arg-type]
        calibration = list(calibration)
    policy = _policy(config, rules, keep, only, keep_first, keep_last, keep_depthwise, share)
    if policy.wants_attention:
        expose_attention(network)
    example = first_call(network, calibration).to(_device(network))
    plan = _plan(network, example, policy, seed)
    plan = plan.with_stages({entry.site.name: 0 for entry in plan.replaced})
    _replace_all(network, plan.replaced, calibration, calibrate, rows, seed, example)
    return plan


@dataclass(frozen=True)
class _Policy:
    """The arguments of `replace_` that say which site becomes what, checked."""

    config: Config | None
    rules: list[Rule]
    short: dict[str, Any]
    share: bool

    @property
    def wants_attention(self) -> bool:
        return any(rule.kind == KIND for rule in self.rules)


def _policy(
    config: Config | None,
    rules: Sequence[RuleLike],
    keep: Sequence[str],
    only: Sequence[str],
    keep_first: bool,
    keep_last: bool,
    keep_depthwise: bool,
    share: bool,
) -> _Policy:
    if config is not None and not isinstance(config, Config):
        raise HalutError(f"config is a configuration such as halut.Tree(C=16), got {config!r}")
    if isinstance(rules, Rule | Mapping | str) or not all(_is_rule(rule) for rule in rules):
        raise HalutError(
            f"rules are a list of halut.Rule or (name pattern, configuration), got {rules!r}"
        )
    keep, only = ([each] if isinstance(each, str) else each for each in (keep, only))
    short = {
        **{"keep": keep, "only": only, "keep_first": keep_first, "keep_last": keep_last},
        "keep_depthwise": keep_depthwise,
    }
    return _Policy(config, [_rule(rule, config) for rule in rules], short, share)


def _plan(network: nn.Module, example: Call, policy: _Policy, seed: int) -> Plan:
    """The plan of a policy for a network, which shows its attention if that is wanted."""
    config = policy.config
    sites, unsupported = _sites(network, example)
    if policy.wants_attention:
        unsupported += [Unsupported(name, why) for name, why in unexposed(network).items()]
    if not sites:
        why = "; ".join(f"{u.name or 'the network'}: {u.reason}" for u in unsupported[:8])
        raise HalutError(f"the network has no layer that can be replaced ({why or 'none at all'})")
    short = simple_rules(sites, **policy.short)
    first = excluding_rules(sites, policy.short["keep"], policy.short["only"])
    default = short[len(first) :]
    if config is None:
        default = [rule for rule in default if rule.operator == KEEP]
    ordered = [*first, *policy.rules, *(_rule(rule, config) for rule in default)]
    plan = resolve(sites, ordered, KEEP, {}, unsupported)
    if policy.share:
        plan = with_sharing(plan, same_inputs(network, example))
    return with_global_pruning(plan, network, seed)


def _is_rule(rule: Any) -> bool:
    pair = isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)
    return pair or isinstance(rule, Rule)


def _rule(rule: RuleLike, default: Config | None) -> Rule:
    """The rule with its operator and all of its options; those of `default` where it is meant."""
    if isinstance(rule, Rule):
        if rule.operator is None and default is None:
            raise HalutError("a rule without an operator means config, which is not given")
        if default is None or rule.operator not in (None, default.name):
            return rule
        options = merge_options(default.options(), rule.options)
        return replace(rule, operator=default.name, options=options)
    name, config = rule
    if isinstance(config, Config):
        return Rule(name=name, operator=config.name, options=config.options())
    if config not in (None, KEEP):
        raise HalutError(f"rules: {name!r} wants a configuration or {KEEP!r}, got {config!r}")
    return Rule(name=name, operator=KEEP, reason=f"rule {name!r}")


def _sites(network: nn.Module, call: Call) -> tuple[list[Site], list[Unsupported]]:
    """The sites by one sample of a call, or by all of it where the network cannot take one."""
    try:
        return find_sites(network, call.head(1))
    except HalutError:
        return find_sites(network, call, call.samples)


def _device(network: nn.Module) -> torch.device:
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def _replace_all(
    network: nn.Module,
    entries: Sequence[Entry],
    calibration: Batches,
    calibrate: str,
    rows: int,
    seed: int,
    example: Call,
) -> None:
    """Learn and swap every entry, and prove that all answer; or leave the network as it was."""
    names = [entry.site.name for entry in entries]
    of_exact: dict[str, Tensor] = {}
    exact = [e.site for e in entries if calibrate == "original" or e.has_tables]
    if calibrate != "replaced" and exact:
        of_exact = capture(network, exact, calibration, rows, seed=seed)
    with restored_on_error(network, names):
        for name, entry in zip(names, entries, strict=True):
            if calibrate == "original":
                swap.replace_site(network, entry, of_exact.pop(name), seed)
                continue
            target = of_exact.pop(name, None)
            count = rows if target is None else len(target)  # the same places are sampled
            sample = capture(network, [entry.site], calibration, count, seed=seed)[name]
            swap.replace_site(network, entry, sample, seed, target_rows=target)
        prove(network, example.head(2), names)


def attach(
    optimizer: torch.optim.Optimizer,
    network: nn.Module,
    steps: int,
    start: int = 0,
    others: Sequence[torch.optim.Optimizer] = (),
) -> RemovableHandle:
    """After every step of `optimizer`, do what the replaced layers of `network` need.

    Temperatures stay positive, `blend` moves on with the share of `steps` that is done, learned
    bases are solved again, unused prototypes revived. `start`: steps done before, where training is
    resumed. `others`: further optimizers of the network; they too forget what they have gathered of
    revived prototypes. Returns the handle of the hook. Raises HalutError if nothing is replaced, or
    if the optimizer has none of the replaced layers' parameters, as one made before the
    replacement.
    """
    layers = [layer for _, layer in swap.replaced_layers(network)]
    if not layers:
        raise HalutError("the network has no replaced layers: call halut.replace_ first")
    if steps < 1:
        raise HalutError(f"steps must be at least 1, got {steps}")
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    own = {id(p) for layer in layers for p in layer.parameters() if p.requires_grad}
    if own and not own & trained:
        raise HalutError(
            "the optimizer has none of the replaced layers' parameters: make it after replace_, "
            "of halut.param_groups(network)"
        )
    done = start
    for layer in layers:
        layer.begin_fit(min(done / steps, 1.0))

    def after_step(*_: Any) -> None:
        nonlocal done
        done += 1
        after_layers_step(layers, min(done / steps, 1.0), (optimizer, *others))

    return optimizer.register_step_post_hook(after_step)


def cost(network: nn.Module, example: Any) -> dict[str, Any]:
    """Operations and bytes of one sample's forward pass, exact and as replaced.

    {"exact": totals, "replaced": totals, "layers": {name: figures}}; totals are macs,
    encode_compares, encode_macs, encode_adds, lookups, adds, weight_bytes and table_bytes, with
    32-bit floats where nothing else is said; figures are those of ReplacedLayer.cost. `example`: a
    batch (of which one sample is run), a tuple of arguments, a mapping or a halut.Call.
    """
    sites, _ = _sites(network, example_call(network, example).to(_device(network)))
    layers = list(swap.replaced_layers(network))
    replaced = [Entry(replace(layer.site, name=name), "replaced") for name, layer in layers]
    plan = Plan((*replaced, *(Entry(site, KEEP) for site in sites)))
    totals = replaced_cost(plan, network)
    exact = exact_cost(plan, network)
    inside = {id(p) for _, layer in layers for p in layer.parameters()}
    floats = sum(p.numel() for p in network.parameters() if id(p) not in inside)
    floats += sum(e.site.weights + (e.site.M if e.site.bias else 0) for e in replaced)
    exact["weight_bytes"] = 4 * floats
    return {"exact": exact, "replaced": totals, "layers": dict(layer_costs(network))}


def plan_cost(
    network: nn.Module,
    config: Config | None = None,
    example: Any = None,
    *,
    rules: Sequence[RuleLike] = (),
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    keep_first: bool = True,
    keep_last: bool = True,
    keep_depthwise: bool = True,
    share: bool = False,
    energies: str | Path = DEFAULT,
    reuse: int | None = None,
    bank: int | None = None,
) -> list[VariantCost]:
    """What `replace_` of the same arguments would cost for one sample; nothing is learned.

    `example`: as in `cost`. Returns the costs of the variants exact (32-bit floats), int8 and int4
    (integers at the same sites) and plan, each with its figures and those of its sites: operations,
    bit operations, bytes, average bits and energy, see halut.analysis.plan_cost. `energies`: 45nm,
    7nm or a YAML file like those in halut/analysis/energies; `reuse`: rows that a weight serves
    once it is read; `bank`: bytes of the banks that memories consist of. The network is not
    changed. Raises HalutError as `replace_` does.

    >>> network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    >>> _ = network.append(nn.Linear(8, 2))
    >>> import halut
    >>> *_, ours = halut.plan_cost(network, halut.Tree(K=4), torch.zeros(1, 8))
    >>> [each.entry.operator for each in ours.sites], ours.figures["lookups"]
    (['keep', 'tree', 'keep'], 8)
    """
    if example is None:
        raise HalutError("example is missing: a batch, a tuple of arguments, or a halut.Call")
    policy = _policy(config, rules, keep, only, keep_first, keep_last, keep_depthwise, share)
    if policy.wants_attention:
        network = copy.deepcopy(network)
        expose_attention(network)
    call = example_call(network, example).to(_device(network))
    plan = _plan(network, call, policy, 0)
    outside = macs_outside(plan, network, call)
    table = load_energies(energies)
    return cost_variants(plan, network, table, reuse=reuse, bank=bank, macs_outside=outside)


def plan_of(network: nn.Module, model: Mapping[str, Any] | None = None) -> Plan:
    """The plan of the layers that are replaced in `network`; those that stayed are not in it.

    `model`: arguments of halut.models.build.build_model that build the exact network.
    """
    entries = []
    for name, layer in swap.replaced_layers(network):
        if layer.entry is None:
            raise HalutError(f"{name} does not know how it was made: no plan can hold it")
        site = replace(layer.site, name=name)
        entries.append(replace(layer.entry, site=site, stage=0, shares=layer.shares))
    return Plan(tuple(entries), dict(model or {}))


def save(network: nn.Module, path: str | Path, model: Mapping[str, Any] | None = None) -> None:
    """Write a network with replaced layers into the folder `path`, whole or not at all.

    model.safetensors, plan.json, report.json and README.md: tensors and JSON, nothing pickled. A
    bundle that is there is replaced. `load_into` reads it into the exact network, `load` builds
    that too: from a factory, or from `model`, the arguments of halut.models.build.build_model.
    Raises HalutError if nothing is replaced, or `path` is a folder of something else.
    """
    plan = plan_of(network, model)
    if not plan.entries:
        raise HalutError("the network has no replaced layers; one that is prepared has none left")
    with write_folder(Path(path), marker="plan.json") as folder:
        bundle.save_bundle(folder, network, plan, {})


def load_into(network: nn.Module, path: str | Path, plugins: bundle.Plugins = ()) -> Plan:
    """Give the exact `network` the layers and the weights of a folder that `save` wrote.

    Nothing is learned again; what the network's own weights are does not matter. Returns the plan.
    `plugins`: as in `load`. Raises HalutError if the folder is damaged or of another network, or
    needs a plugin that is not imported.
    """
    plan = bundle.read_plan(Path(path), plugins)
    bundle.fill(network, plan, Path(path))
    return plan


def load(
    path: str | Path,
    factory: Callable[[], nn.Module] | None = None,
    plugins: bundle.Plugins = (),
) -> nn.Module:
    """The network of a folder that `save` or a run wrote, in evaluation mode.

    Args:
        path: a bundle or a run folder.
        factory: makes the exact network; without it, the folder must name one of halut's registry.
        plugins: modules and .py files that are imported first. A bundle is data and imports nothing
            by itself; True lets it import the plugins that it names, modules that are installed and
            files by their absolute paths, each with a line in the log.

    Raises HalutError if the folder is damaged, or needs a plugin that is not imported: the line
    names it.
    """
    if factory is None:
        return bundle.load_bundle(Path(path), plugins)[0]
    plan = bundle.read_plan(Path(path), plugins)
    network = factory()
    bundle.fill(network, plan, Path(path))
    return network.eval()
