"""Codecs that cannot work are refused when the configuration is composed, with what can."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from halut.errors import HalutError
from halut.training.config.hydra_schemas import conf_dir
from halut.training.config.run_config import check
from halut.training.main import typed


def refusal(*overrides):
    """What is said to a configuration that must not compose."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        try:
            settings = typed(compose("train", list(overrides)))
            check(settings)
        except (HydraException, HalutError) as error:
            return f"{error} {error.__cause__}"
        finally:
            GlobalHydra.instance().clear()
    return ""


REFUSALS = [
    ("integer", "halut.width=1", "halut.width must be in 2..32, got 1"),
    ("integer", "halut.fraction=200", "halut.fraction must be in -127..127, got 200"),
    ("integer", "halut.per=row", "unknown halut.per 'row'; choose one of: auto, tensor"),
    ("integer", "halut.block=0", "halut.block must be in 1..65536, got 0"),
    ("integer", "halut.calibrate=min", "choose one of: max, mse"),
    ("integer", "halut.gradient=tanh", "choose one of: auto, identity, clipped"),
    ("integer", "halut.width=four", "four"),
    ("integer", "halut.exponent=4", "exponent"),
    ("integer", "halut.contraction=sparse", "contraction 'sparse'; choose one of: auto"),
    ("integer", "halut.weight.width=64", "must be in 2..32, got 64 (halut.weight)"),
    ("integer", "halut.activation.name=int", "unknown codec 'int'; did you mean"),
    ("integer", "halut.weight.exponent=3", "halut.weight: integer has no option exponent"),
    ("integer", "halut.bias.name=log halut.bias.width=12", "must be in 2..8, got 12"),
    ("minifloat_ieee", "halut.exponent=8", "halut.exponent must be in 1..7, got 8: of 8 bits"),
    ("minifloat_ieee", "halut.width=4", "halut.exponent must be in 1..3, got 4: of 4 bits"),
    ("minifloat_ieee", "halut.width=17", "halut.width must be in 2..16, got 17"),
    ("minifloat_ieee", "halut.exponent_bias=127", "halut.exponent_bias must be in -112..126"),
    ("minifloat_denorm", "halut.exponent=7", "halut.exponent must be in 1..6, got 7"),
    ("log", "halut.width=9", "halut.width must be in 2..8, got 9"),
    ("log", "halut.exponent_bias=-1", "halut.exponent_bias must be in 0..126, got -1"),
    ("block_fp", "halut.width=25", "halut.width must be in 2..24, got 25"),
    ("block_minifloat", "halut.exponent=8", "halut.exponent must be in 1..7, got 8"),
    ("block_log", "halut.width=1", "halut.width must be in 2..8, got 1"),
    ("mxint8", "halut.block=16", "block"),
    ("sign_magnitude", "halut.width=9", "halut.width must be in 2..8, got 9"),
    ("sign_magnitude", "halut.per=block", "'block'; choose one of: auto, tensor, channel"),
    ("sign_magnitude", "halut.activation.per=channel", "activations of one sum need one scale"),
    (
        "sign_magnitude",
        "halut.activation=null halut.contraction=sign_magnitude",
        "halut.activation must be one of integer, sign_magnitude; it is a float",
    ),
    (
        "integer",
        "halut.width=9 halut.contraction=sign_magnitude",
        "halut.weight.width must be in 2..8, got 9",
    ),
    (
        "integer",
        "halut.per=block halut.contraction=sign_magnitude",
        "halut.weight.per=block: inputs of one sum need one scale",
    ),
    ("mxint8", "halut.contraction=sign_magnitude", "halut.weight must be one of integer, sign"),
    ("binary", "halut.per=block", "unknown halut.per 'block'"),
    ("binary_scaling", "halut.width=2", "width"),
    ("binary_residual", "halut.levels=9", "halut.levels must be in 1..8, got 9"),
    ("lqnet", "halut.width=5", "halut.width must be in 1..4, got 5"),
    ("lqnet", "halut.activation.width=0", "must be in 1..4, got 0 (halut.activation)"),
    ("lqnet", "halut.levels=2", "levels"),
    ("abcnet", "halut.width=9", "halut.width must be in 1..8, got 9"),
    ("abcnet", "halut.activation.width=0", "must be in 1..8, got 0 (halut.activation)"),
    ("abcnet", "halut.per=block", "unknown halut.per 'block'; choose one of: auto, tensor"),
    ("abcnet", "halut.activation.per=channel", "one basis for all inputs; choose per=tensor"),
    ("abcnet", "halut.levels=2", "levels"),
    ("integer", "halut.contraction=popcount", "weight must be bit planes, one of: abcnet"),
    ("lqnet", "halut.contraction=popcount halut.activation=null", "activation must be bit planes"),
    ("prune", "halut.sparsity=1", "halut.sparsity must be at least 0 and below 1, got 1"),
    ("prune", "halut.method=l2", "unknown halut.method 'l2'; choose one of: l1, random"),
    ("prune", "halut.scope=layer", "unknown halut.scope 'layer'; choose one of: local, global"),
    ("prune", "halut.scope=global halut.activation.name=prune", "halut.activation: scope=global"),
    ("chain", "halut.codecs=[integer,prune]", "halut.codecs must be prune and then one of abcnet"),
    ("chain", "halut.codecs=[]", "halut.codecs must name a codec"),
    ("chain", "halut.codecs=[prune,chain]", "halut.codecs must be prune and then one of"),
    ("chain", "halut.width=40", "halut.width must be in 2..32, got 40"),
    ("integer", "+policy.rules=[{operator: log, options: {width: 9}}]", "in 2..8, got 9"),
]


@pytest.mark.parametrize(("operator", "overrides", "says"), REFUSALS)
def test_refused_when_composed(operator, overrides, says):
    split = [overrides] if "{" in overrides else overrides.split()
    assert says in refusal(f"halut={operator}", *split)


def test_what_can_work_is_not_refused():
    assert refusal("halut=minifloat_ieee", "halut.width=4", "halut.exponent=3") == ""
    assert refusal("halut=chain", "halut.codecs=[prune,log]", "halut.activation=null") == ""
