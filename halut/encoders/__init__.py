"""Encoders of the table family; importing this package registers them all."""

from halut.encoders import decision_tree, pq, tree
from halut.encoders.base import Encoder, EncoderOptions, check_rows, encoders

__all__ = ["Encoder", "EncoderOptions", "check_rows", "decision_tree", "encoders", "pq", "tree"]
