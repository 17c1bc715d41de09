"""Configurations of the operators: dataclasses of plain values, which are Hydra's schemas too.

`halut.Tree(C=16)` in Python is `halut=tree halut.C=16` on the command line, and what a plan keeps
of a layer. Nothing here imports torch.
"""

from halut.configs.base import Config, Exact, field_types, from_options
from halut.configs.codecs import (
    FACTORS,
    MXINT8,
    ABCNet,
    Binary,
    BinaryResidual,
    BinaryScaling,
    BlockFP,
    BlockLog,
    BlockMinifloat,
    Chain,
    CodecConfig,
    FactorConfig,
    Integer,
    Log,
    LQNet,
    MinifloatDenorm,
    MinifloatIEEE,
    Prune,
    SignMagnitude,
    codec_options,
)
from halut.configs.tables import PQ, DecisionTree, TableConfig, Tree

__all__ = [
    "CONFIGS",
    "FACTORS",
    "MXINT8",
    "PQ",
    "ABCNet",
    "Binary",
    "BinaryResidual",
    "BinaryScaling",
    "BlockFP",
    "BlockLog",
    "BlockMinifloat",
    "Chain",
    "CodecConfig",
    "Config",
    "DecisionTree",
    "Exact",
    "FactorConfig",
    "Integer",
    "LQNet",
    "Log",
    "MinifloatDenorm",
    "MinifloatIEEE",
    "Prune",
    "SignMagnitude",
    "TableConfig",
    "Tree",
    "codec_options",
    "field_types",
    "from_options",
]

CONFIGS: dict[str, type[Config]] = {
    kind.name: kind
    for kind in (
        Exact,
        Tree,
        PQ,
        DecisionTree,
        ABCNet,
        Binary,
        BinaryResidual,
        BinaryScaling,
        BlockFP,
        BlockLog,
        BlockMinifloat,
        Chain,
        Integer,
        Log,
        LQNet,
        MinifloatDenorm,
        MinifloatIEEE,
        MXINT8,
        Prune,
        SignMagnitude,
    )
}
"""Those of this package, by the operator's name."""
