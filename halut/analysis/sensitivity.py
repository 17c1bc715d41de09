"""What replacing each site alone does to a network: measured, and by a Taylor score."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from halut.analysis.layer_errors import ErrorSums
from halut.analysis.learned_layers import LearnedLayers
from halut.analysis.network_cost import operations
from halut.analysis.prefix import Prefix
from halut.analysis.site_bytes import bytes_of_site
from halut.analysis.taylor import LayerCall, Loss, cross_entropy, gradients, taylor_score
from halut.configs import Config
from halut.errors import HalutError
from halut.layers.lut import LUTLayer, code_counts, usage_of
from halut.replace import swap
from halut.replace.operator_registry import operator_of
from halut.sites.calibration import capture, expected_memory
from halut.sites.calls import Batches, Call, batch_call, is_loop, labeled_call, logits_of
from halut.sites.eval_mode import eval_mode
from halut.sites.find import Site
from halut.sites.modules import call_inputs, set_module
from halut.sites.operator import ReplacedLayer
from halut.sites.plan import Entry
from halut.sites.usage import Forward, forwards

SCORES = ("measured", "fisher")
FLOAT = 32


@dataclass(frozen=True)
class Candidate:
    """What one site could become; `reason` says why it cannot."""

    entry: Entry
    reason: str | None = None

    @property
    def site(self) -> Site:
        """The site."""
        return self.entry.site

    @classmethod
    def of(cls, site: Site, config: Config) -> Candidate:
        """The operator of a configuration at a site, with every option as a plan has it."""
        operator = operator_of(config)
        reason = operator.supports(site)
        if reason is None:
            try:
                operator.check(site)
                return cls(Entry(site, config.name, operator.plan_options(site)))
            except HalutError as error:
                reason = str(error)
        return cls(Entry(site, config.name, config.options()), reason)


def candidates_of(sites: Iterable[Site], configs: Iterable[Config]) -> list[Candidate]:
    """Every configuration at every site, site by site, each outcome once."""
    every = [Candidate.of(site, config) for site in sites for config in configs]
    return [each for index, each in enumerate(every) if each not in every[:index]]


@dataclass(frozen=True)
class Measurement:
    """The figures of one candidate by one score; none, with a reason, if it cannot be there."""

    candidate: Candidate
    score: str | None
    figures: dict[str, float] = field(default_factory=dict)
    reason: str | None = None


Select = Callable[[Candidate, str | None], bool]


def sensitivity(
    network: nn.Module,
    candidates: Sequence[Candidate],
    calibration: Batches,
    batches: Iterable[Any] = (),
    *,
    scores: Sequence[str] = SCORES,
    select: Select | None = None,
    rows: int = 16_384,
    taylor_samples: int = 512,
    memory: int = 2 << 30,
    seed: int = 0,
    loss: Loss = cross_entropy,
    notify: Callable[[str, int, int], None] | None = None,
    learned: LearnedLayers | None = None,
) -> Iterator[Measurement]:
    """Measurements of the candidates, site by site, each as soon as it is there.

    Every candidate is learned from the exact network's activations and put into its site alone;
    nothing is retrained, and batch norms stay as they are: figures rank sites and options, and do
    not foretell a retrained accuracy. The network is as it was whenever a measurement is yielded.

    Args:
        network: the exact network.
        candidates: see `candidates_of`; neighbors of one site are learned from the same rows.
        calibration: batches that can be read again and again, of (inputs, targets) for "fisher", as
            `capture` takes them for "measured" alone. Inputs are a tensor, a tuple of positional
            arguments, a mapping or a halut.Call.
        batches: (inputs, targets) that accuracy and loss are measured on, again and again; of an
            answer that is no tensor its "logits" are taken.
        scores: "measured": accuracy (percent), lost (points of it) and loss of the network with the
            site replaced; "fisher": first_order and second_order of halut.analysis.taylor, of the
            loss on calibration samples. Both: the layer's errors (ErrorSums), code_perplexity and
            dead_codes on the inputs of that score, calibration_rows, those that the layer was
            learned from, and what it costs.
        select: which (candidate, score) to do; score None: a candidate that the site does not
            support, which is yielded with the reason and no figures. Asked at the start, and again
            before rows are captured and before a candidate is learned: what has been done elsewhere
            by then is left out.
        rows: calibration rows of a site, fewer where as many do not fit `memory`.
        taylor_samples: calibration samples of the Taylor score.
        memory: bytes of the calibration rows, and of the inputs and gradients, that are held: one
            pass over the data serves as many sites as fit. As much again is held of what the
            network answers in front of a site, which all of the site's candidates share.
        seed: of the sample of rows, and of learning.
        loss: loss of each sample, of the network's output and the targets.
        notify: called with (what is done, candidates done, all of them).
        learned: where layers are kept as files; each is learned here, as its time is measured.

    Raises HalutError if the exact network's activations, loss or gradients are not finite, there is
    no data, or it can be read only once. A candidate that cannot be learned is yielded with the
    reason.

    >>> import halut
    >>> network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> sites, _ = halut.find_sites(network, torch.zeros(1, 8))
    >>> data = [(torch.randn(64, 8), torch.zeros(64, dtype=torch.int64))]
    >>> results = sensitivity(network, candidates_of(sites, [halut.Tree(K=4)]), data, data)
    >>> [(each.candidate.site.name, each.score) for each in results]
    [('0', 'measured'), ('0', 'fisher'), ('2', 'measured'), ('2', 'fisher')]
    """
    selects = select or (lambda candidate, score: True)
    show = notify or (lambda what, done, total: None)
    todo: dict[str, list[tuple[Candidate, list[str]]]] = {}
    sites: dict[str, Site] = {}
    for candidate in candidates:
        if candidate.reason is not None:
            if selects(candidate, None):
                yield Measurement(candidate, None, reason=candidate.reason)
        elif own_scores := [score for score in scores if selects(candidate, score)]:
            todo.setdefault(candidate.site.name, []).append((candidate, own_scores))
            sites[candidate.site.name] = candidate.site
    _check_data(calibration, batches, {s for each in todo.values() for _, own in each for s in own})
    total, done = sum(map(len, todo.values())), 0
    base: dict[str, float] | None = None
    taylor_sites = {name for name, each in todo.items() if any("fisher" in s for _, s in each)}
    sizes = {
        name: expected_memory([site], rows)
        + _activation_bytes(site, taylor_samples) * (name in taylor_sites)
        for name, site in sites.items()
    }

    def is_left(site: Site) -> bool:
        return any(selects(c, score) for c, own in todo[site.name] for score in own)

    for neighbors in _groups(sites, sizes, memory):
        group = [site for site in neighbors if is_left(site)]
        names = [site.name for site in group]
        done += sum(len(todo[site.name]) for site in neighbors if site not in group)
        if not group:
            continue
        show(f"capture of {len(names)} sites", done, total)
        # An equal share for each would cut the rows of the largest, though all of them fit.
        shares = len(group) * max(expected_memory([site], rows) for site in group)
        bound = memory if len(group) == 1 else shares
        site_rows_of = capture(network, group, calibration, rows, bound, seed)
        calls: dict[str, list[list[LayerCall]]] = {}
        if names_of_calls := [name for name in names if name in taylor_sites]:
            show(f"gradients of {len(names_of_calls)} sites", done, total)
            calls = gradients(network, names_of_calls, calibration, loss, taylor_samples)  # type: ignore[arg-type]
        for name in names:
            site_rows, site_calls = site_rows_of.pop(name), calls.pop(name, [])
            prefix = Prefix(network, name, memory)
            for candidate, selected in todo[name]:
                done += 1
                own_scores = [score for score in selected if selects(candidate, score)]
                if not own_scores:
                    continue
                show(f"{name} {candidate.entry.operator}", done - 1, total)
                if base is None and "measured" in own_scores:
                    base = evaluate(network, batches, loss)
                if "measured" in own_scores and len(todo[name]) > 1 and prefix.verified is None:
                    _verify(prefix, batches)
                yield from _measurements(
                    candidate,
                    own_scores,
                    site_rows,
                    site_calls,
                    prefix,
                    batches,
                    base,
                    seed,
                    loss,
                    learned,
                )
    show("", done, total)


def _check_data(calibration: Batches, batches: Iterable[Any], scores: Collection[str]) -> None:
    """Raise HalutError for data that can be read only once, or that a score cannot use."""
    if "fisher" in scores and is_loop(calibration):
        raise HalutError("fisher needs batches of (inputs, targets), not a forward loop")
    for name, data in (("calibration", calibration), ("batches", batches)):
        if isinstance(data, Iterator):
            raise HalutError(
                f"{name} is read again and again: a list or a data loader is wanted, got "
                f"{type(data).__name__}"
            )


def _verify(prefix: Prefix, batches: Iterable[Any]) -> None:
    """Let the prefix be used, if the network answers the first batch with it as without."""
    with eval_mode(prefix.network) as device:
        for batch in batches:
            prefix.verify(batch_call(prefix.network, batch).to(device))
            break


def _activation_bytes(site: Site, samples: int) -> int:
    """Bytes of the site's inputs, and of the gradients of its answers."""
    return 4 * samples * (site.inputs // site.taps + site.rows * site.M)


def _groups(
    sites: Mapping[str, Site], sizes: Mapping[str, int], memory: int
) -> Iterator[list[Site]]:
    """Neighbors that fit into memory together."""
    group: list[Site] = []
    used = 0
    for name, site in sites.items():
        if group and used + sizes[name] > memory:
            yield group
            group, used = [], 0
        group.append(site)
        used += sizes[name]
    if group:
        yield group


def _measurements(
    candidate: Candidate,
    scores: Sequence[str],
    rows: Tensor,
    calls: Sequence[Sequence[LayerCall]],
    prefix: Prefix,
    batches: Iterable[Any],
    base: dict[str, float] | None,
    seed: int,
    loss: Loss,
    learned: LearnedLayers | None,
) -> Iterator[Measurement]:
    """One candidate, learned once, by each score."""
    network, name, begun = prefix.network, candidate.site.name, time.perf_counter()
    source = network.get_submodule(name)
    try:
        layer = swap.build(network, candidate.entry)
        layer.calibrate(rows, seed=seed)
    except HalutError as error:
        yield from (Measurement(candidate, score, reason=str(error)) for score in scores)
        return
    layer.eval()
    learning = {"calibration_rows": len(rows), "seconds_learn": time.perf_counter() - begun}
    if learned is not None and candidate.entry.shares is None:
        learned.keep(learned.place(network, candidate.entry, rows, seed), layer)
    common = {**cost_figures(candidate.site, layer), **learning}
    for score in scores:
        begun = time.perf_counter()
        if score == "fisher":
            with watching(layer) as watch, torch.no_grad():
                sums = taylor_score(source, layer, calls)
            figures = {**sums.figures(), **sums.errors.metrics(), **watch.use()}
        else:
            assert base is not None
            figures = _measured(candidate, layer, prefix, batches, base, loss)
        figures = {**figures, **common, "seconds_score": time.perf_counter() - begun}
        yield Measurement(candidate, score, figures)


def _measured(
    candidate: Candidate,
    layer: ReplacedLayer,
    prefix: Prefix,
    batches: Iterable[Any],
    base: dict[str, float],
    loss: Loss,
) -> dict[str, float]:
    network = prefix.network
    source = network.get_submodule(candidate.site.name)
    with watching(layer, errors=True) as watch:
        swap.swap(network, candidate.entry, layer)
        try:
            figures = evaluate(network, batches, loss, prefix.run)
        finally:
            set_module(network, layer, source)
    return {
        **figures,
        **{f"exact_{key}": value for key, value in base.items()},
        "lost": base["accuracy"] - figures["accuracy"],
        **watch.errors.metrics(),
        **watch.use(),
    }


class Watch:
    """What is seen of a layer's calls: its errors, and how often it uses each code."""

    def __init__(self, layer: ReplacedLayer, errors: bool) -> None:
        self.layer, self.measures_errors = layer, errors
        self.errors = ErrorSums()
        self.counts: Tensor | None = None
        self.inside = False

    def wrap(self, name: str, forward: Forward) -> Forward:
        """For `forwards`."""

        def run(*args: Any, **kwargs: Any) -> Tensor:
            y: Tensor = forward(*args, **kwargs)
            if not self.inside:  # a layer may answer `exact` or `codes` by its own forward
                self.inside = True
                try:
                    self._see(y, call_inputs(args, kwargs))
                finally:
                    self.inside = False
            return y

        return run

    def _see(self, y: Tensor, inputs: tuple[Any, ...]) -> None:
        if self.measures_errors:
            self.errors.add(y, self.layer.exact(*inputs))
        if isinstance(self.layer, LUTLayer):
            counts = code_counts(self.layer.codes(*inputs), self.layer.options.K)
            self.counts = counts if self.counts is None else self.counts + counts

    def use(self) -> dict[str, float]:
        """code_perplexity and dead_codes of a layer of tables; {} of others."""
        if self.counts is None:
            return {}
        perplexity, dead = usage_of(self.counts)
        return {"code_perplexity": perplexity, "dead_codes": float(dead)}


@contextmanager
def watching(layer: ReplacedLayer, errors: bool = False) -> Iterator[Watch]:
    """Within, calls of the layer are watched."""
    watch = Watch(layer, errors)
    with forwards({"": layer}, watch.wrap):
        yield watch


def cost_figures(site: Site, layer: ReplacedLayer) -> dict[str, float]:
    """bytes, exact_bytes, int8_bytes, operations and bops of a layer, for one sample."""
    cost = layer.cost()
    sizes = bytes_of_site(site, cost)
    return {
        "bytes": sizes.planned,
        "exact_bytes": sizes.exact,
        "int8_bytes": sizes.int8,
        "operations": operations(cost),
        "bops": cost.get("bops", FLOAT * FLOAT * site.macs),
    }


def evaluate(
    network: nn.Module,
    batches: Iterable[Any],
    loss: Loss = cross_entropy,
    run: Callable[[int, Call], Any] | None = None,
) -> dict[str, float]:
    """accuracy (top-1, percent) and loss (mean) over (inputs, targets), in evaluation mode.

    Inputs are those of halut.sites.calls.labeled_call; accuracy is that of `logits_of` the answers.
    `run`, if given, answers batch number i in the network's place. Raises HalutError if there are
    no batches.
    """
    right = total = 0
    losses = 0.0
    with eval_mode(network) as device:
        for index, batch in enumerate(batches):
            call, target = labeled_call(network, batch)
            call, target = call.to(device), target.to(device)
            output = call(network) if run is None else run(index, call)
            right += int((logits_of(output).argmax(dim=1) == target).sum())
            losses += float(loss(output, target).double().sum())
            total += len(target)
    if not total:
        raise HalutError("an accuracy needs at least one batch of (inputs, targets), got none")
    return {"accuracy": 100.0 * right / total, "loss": losses / total}


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation of two scores of the same things, ties by their mean rank.

    NaN where a score is the same for all, or there are fewer than two.

    >>> rank_correlation([1.0, 2.0, 3.0], [10.0, 30.0, 20.0])
    0.5
    """
    if len(x) < 2 or len(set(x)) < 2 or len(set(y)) < 2:
        return float("nan")
    from scipy.stats import spearmanr

    return round(float(spearmanr(x, y).statistic), 12)
